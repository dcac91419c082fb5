/**
 * Objects in one SQLite file, which one process at a time may open, unless it is shared by the workers of one machine. Synchronous:
 * it belongs on a thread of its own.
 *
 * The file is in write-ahead-log mode. With `synchronous=NORMAL` a commit is in the operating system's hands when it returns: it
 * survives the end of the process however it comes, but a power failure can take the last ones, never older ones and never the
 * file's consistency. `synchronous=FULL` waits for the disk at every commit. https://www.sqlite.org/pragma.html#pragma_synchronous
 */
import { createHash } from 'node:crypto';
import { DatabaseSync, type StatementSync } from 'node:sqlite';
import { ProblemError } from '../../shared/errors.ts';
import { sessionMoved } from '../../shared/session.ts';
import type { Fence } from './messages.ts';
import type { Changes, NewObject, StoredObject } from './storage.ts';

export interface SqliteOptions {
  /** Path of the file, or ":memory:". */
  readonly file: string;
  /** Bytes that the file may take; what it does not is refused. */
  readonly maximumBytes: number;
  /** What an acknowledged write survives. */
  readonly survives: 'process' | 'power';
  /** Whether other processes on this machine may have the file open. Write-ahead logs work on no network's file system. */
  readonly isShared: boolean;
}

const SCHEMA_VERSION = 1;
/** Milliseconds to wait for another process that has the file and may be about to end. */
const BUSY_MILLISECONDS = 2000;
/** SQLite holds at most 10⁹ bytes in one value. https://www.sqlite.org/limits.html */
const CHUNK_BYTES = 2 ** 26;
/** Chunks of one object: a chunk's id is its object's times this, plus its place. */
const CHUNKS = 2 ** 20;
/** Bytes of write-ahead log that are moved into the file at a time, and to which the log is cut back afterwards. */
const LOG_BYTES = 2 ** 24;

/** https://www.sqlite.org/rescode.html */
const RESULT = { corrupt: 11, full: 13, notADatabase: 26 } as const;

export class SqliteDatabase {
  readonly #database: DatabaseSync;
  readonly #statements: Readonly<
    Record<
      | 'insert'
      | 'insertChunk'
      | 'remove'
      | 'removeChunks'
      | 'find'
      | 'chunks'
      | 'list'
      | 'epoch'
      | 'setEpoch'
      | 'endEpoch',
      StatementSync
    >
  >;

  /** @throws Error if the file cannot be opened, is in use, or is of another version */
  constructor({ file, maximumBytes, survives, isShared }: SqliteOptions) {
    const database = new DatabaseSync(file);
    this.#database = database;
    const number = (sql: string): number => Number(Object.values(database.prepare(sql).get() ?? {})[0]);
    database.exec(`PRAGMA busy_timeout = ${String(BUSY_MILLISECONDS)}`);
    database.exec(`PRAGMA locking_mode = ${isShared ? 'NORMAL' : 'EXCLUSIVE'}`);
    database.exec('PRAGMA auto_vacuum = INCREMENTAL');
    database.exec('PRAGMA journal_mode = WAL');
    database.exec(`PRAGMA synchronous = ${survives === 'power' ? 'FULL' : 'NORMAL'}`);
    const pageBytes = number('PRAGMA page_size');
    database.exec(`PRAGMA wal_autocheckpoint = ${String(LOG_BYTES / pageBytes)}`);
    database.exec(`PRAGMA journal_size_limit = ${String(LOG_BYTES)}`);
    database.exec('BEGIN EXCLUSIVE');
    const version = number('PRAGMA user_version');
    if (version !== 0 && version !== SCHEMA_VERSION) {
      throw new Error(`it is of version ${String(version)}; this worker reads version ${String(SCHEMA_VERSION)}`);
    }
    database.exec(`
      CREATE TABLE IF NOT EXISTS objects (id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, bytes INTEGER NOT NULL, digest TEXT NOT NULL) STRICT;
      CREATE TABLE IF NOT EXISTS chunks (id INTEGER PRIMARY KEY, data BLOB NOT NULL) STRICT;
      CREATE TABLE IF NOT EXISTS fences (session TEXT PRIMARY KEY, epoch INTEGER NOT NULL) STRICT;
      CREATE TABLE IF NOT EXISTS identity (id TEXT NOT NULL) STRICT;
      INSERT INTO identity SELECT lower(hex(randomblob(16))) WHERE NOT EXISTS (SELECT 1 FROM identity);
      PRAGMA user_version = ${String(SCHEMA_VERSION)}`);
    database.exec('COMMIT');
    // Pages that earlier deletions left free go back to the file system.
    database.exec('PRAGMA incremental_vacuum');
    database.exec(`PRAGMA max_page_count = ${String(Math.max(1, Math.floor(maximumBytes / pageBytes)))}`);
    this.#statements = {
      insert: database.prepare('INSERT INTO objects (key, bytes, digest) VALUES (?, ?, ?)'),
      insertChunk: database.prepare('INSERT INTO chunks (id, data) VALUES (?, ?)'),
      remove: database.prepare('DELETE FROM objects WHERE key = ? RETURNING id'),
      removeChunks: database.prepare('DELETE FROM chunks WHERE id >= ? AND id < ?'),
      find: database.prepare('SELECT id, bytes, digest FROM objects WHERE key = ?'),
      chunks: database.prepare('SELECT data FROM chunks WHERE id >= ? AND id < ? ORDER BY id'),
      list: database.prepare('SELECT key, bytes FROM objects WHERE key >= ? AND key < ? ORDER BY key'),
      epoch: database.prepare('SELECT epoch FROM fences WHERE session = ?'),
      setEpoch: database.prepare(
        'INSERT INTO fences VALUES (?, ?) ON CONFLICT (session) DO UPDATE SET epoch = excluded.epoch',
      ),
      endEpoch: database.prepare('DELETE FROM fences WHERE session = ?'),
    };
  }

  /** Makes all changes of all groups, or none. @throws ProblemError `session_moved` if one is not its session's owner's any more */
  write(groups: readonly { readonly changes: Changes; readonly fence: Fence | null }[]): void {
    this.#inTransaction(() => {
      for (const { changes, fence } of groups) {
        if (fence !== null) this.#assertOwned(fence);
        for (const object of changes.puts) this.#put(object);
        for (const key of changes.deletes) this.#delete(key);
      }
    });
  }

  /** @throws ProblemError `session_moved` if it has been claimed in a later epoch */
  claim({ session, epoch }: Fence): void {
    this.#inTransaction(() => {
      const latest = this.#epochOf(session);
      if (latest !== null && latest > epoch) throw sessionMoved(session, latest);
      this.#statements.setEpoch.run(session, epoch);
    });
  }

  /** @throws ProblemError `session_moved` */
  check(fence: Fence): void {
    this.#inTransaction(() => {
      this.#assertOwned(fence);
    });
  }

  /** Deletes what is stored under some prefixes, and that the session was ever owned. @throws ProblemError `session_moved` */
  end(fence: Fence, prefixes: readonly string[]): void {
    this.#inTransaction(() => {
      this.#assertOwned(fence);
      for (const prefix of prefixes) for (const { key } of this.list(prefix)) this.#delete(key);
      this.#statements.endEpoch.run(fence.session);
    });
  }

  identity(): string {
    return String(this.#database.prepare('SELECT id FROM identity').get()?.['id']);
  }

  #epochOf(session: string): number | null {
    const row = this.#statements.epoch.get(session);
    return row === undefined ? null : Number(row['epoch']);
  }

  #assertOwned({ session, epoch }: Fence): void {
    const latest = this.#epochOf(session);
    if (latest !== epoch) throw sessionMoved(session, latest ?? epoch);
  }

  #inTransaction(work: () => void): void {
    try {
      this.#database.exec('BEGIN IMMEDIATE');
      try {
        work();
        this.#database.exec('COMMIT');
      } catch (error) {
        // A full disk ends the transaction by itself.
        if (this.#database.isTransaction) this.#database.exec('ROLLBACK');
        throw error;
      }
    } catch (error) {
      throw asProblem(error, 'written');
    }
  }

  /** @throws ProblemError `storage_damaged` if the bytes are not those that were written */
  read(key: string): Uint8Array<ArrayBuffer> | null {
    try {
      // Object and chunks of one instant, whatever another process does meanwhile.
      this.#database.exec('BEGIN');
      const found = this.#statements.find.get(key);
      if (found === undefined) return null;
      const bytes = new Uint8Array(Number(found['bytes']));
      const [begin, end] = chunkRange(Number(found['id']));
      let position = 0;
      for (const { data } of this.#statements.chunks.iterate(begin, end)) {
        if (!(data instanceof Uint8Array) || position + data.length > bytes.length) throw damaged(key);
        bytes.set(data, position);
        position += data.length;
      }
      if (position !== bytes.length || sha256(bytes) !== found['digest']) throw damaged(key);
      return bytes;
    } catch (error) {
      throw asProblem(error, 'read');
    } finally {
      if (this.#database.isTransaction) this.#database.exec('COMMIT');
    }
  }

  list(prefix: string): StoredObject[] {
    try {
      const rows = this.#statements.list.all(prefix, `${prefix}\u{10ffff}`);
      return rows.map(({ key, bytes }) => ({ key: String(key), bytes: Number(bytes) }));
    } catch (error) {
      throw asProblem(error, 'read');
    }
  }

  close(): void {
    this.#database.close();
  }

  #put({ key, bytes, digest }: NewObject): void {
    this.#delete(key);
    const { lastInsertRowid } = this.#statements.insert.run(key, bytes.length, digest ?? sha256(bytes));
    const [begin] = chunkRange(Number(lastInsertRowid));
    for (let position = 0; position < bytes.length; position += CHUNK_BYTES) {
      this.#statements.insertChunk.run(
        begin + position / CHUNK_BYTES,
        bytes.subarray(position, position + CHUNK_BYTES),
      );
    }
  }

  #delete(key: string): void {
    const removed = this.#statements.remove.get(key);
    if (removed !== undefined) this.#statements.removeChunks.run(...chunkRange(Number(removed['id'])));
  }
}

function chunkRange(object: number): [number, number] {
  return [object * CHUNKS, (object + 1) * CHUNKS];
}

function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}

function damaged(key: string): ProblemError {
  return new ProblemError('storage_damaged', {
    detail: `What is stored as ${key} is not what was written: its digest differs.`,
    remedy: 'Start a session from an older checkpoint, or restore the storage from a backup.',
  });
}

function asProblem(error: unknown, done: string): ProblemError {
  if (error instanceof ProblemError) return error;
  const code = error instanceof Error && 'errcode' in error ? error.errcode : null;
  const reason = error instanceof Error ? error.message : String(error);
  if (code === RESULT.full) {
    return new ProblemError(
      'storage_full',
      {
        detail: `The worker’s storage has no room left (${reason}).`,
        remedy:
          'Delete checkpoints and sessions that are done, or give the worker more room; then send the same request again.',
      },
      { cause: error },
    );
  }
  if (code === RESULT.corrupt || code === RESULT.notADatabase) {
    return new ProblemError(
      'storage_damaged',
      { detail: `The storage’s file is damaged (${reason}).`, remedy: 'Restore the file from a backup.' },
      { cause: error },
    );
  }
  return new ProblemError(
    'storage_unavailable',
    {
      detail: `The worker’s storage cannot be ${done} (${reason}).`,
      remedy: 'Send the same request again; if it stays, look at the worker’s disk and its permissions.',
    },
    { cause: error },
  );
}
