/**
 * Which workers there are, and which of them owns which session. It is asked when an isolate of the edge has no lease for a session,
 * or when a lease's worker fails, never for every step.
 *
 * That a session has one owner is not decided here alone: a worker that is only cut off goes on believing that it owns its sessions.
 * Each change of hands has a higher epoch, with which the new owner shuts the old one out of the session's store.
 */
import type { Lease } from '../../shared/lease.ts';
import { LIMITS } from '../../shared/limits.ts';
import { sessionIdSchema, type SessionId } from '../../shared/session.ts';
import { LOST_HEARTBEATS, workerIdSchema, type WorkerId, type WorkerReport } from '../../shared/worker-report.ts';
import type { Sql, SqlValue } from '../state/sql.ts';

/** A lease that did not lead to the session. */
export interface FailedLease {
  /** Of the lease, or a later one that the worker found in the session's store. */
  readonly epoch: number;
  /** Whether its worker cannot be reached, or says that it does not own the session. */
  readonly reason: 'unreachable' | 'moved';
}

/** A lease with the address of its worker. */
export interface PlacedLease {
  readonly lease: Lease;
  /** Base URL. */
  readonly url: string;
}

/** A worker as the directory knows it. */
export interface KnownWorker extends Omit<WorkerReport, 'heartbeatMilliseconds'> {
  /** When it was last heard, in milliseconds since the Unix epoch. */
  readonly heard: number;
  /** Whether sessions are given to it. */
  readonly isUsable: boolean;
}

/** Milliseconds that the place of a session is remembered that nobody asks for: longer than a session can be idle. */
const FORGOTTEN_MILLISECONDS = 2 * 1000 * LIMITS.ttlSeconds.maximum;

/** Sessions that a worker is given with one heartbeat. */
const ADOPTED_AT_ONCE = 20;

/** Not draining, not silent, and heard again since it last could not be reached. Bound to the time. */
const USABLE = 'is_draining = 0 AND expires > ? AND heard > suspected';

export class PlacementDirectory {
  readonly #sql: Sql;
  readonly #now: () => number;

  /** @param now milliseconds since the Unix epoch */
  constructor(sql: Sql, now: () => number) {
    this.#sql = sql;
    this.#now = now;
    sql.transaction(() => {
      sql.all(`CREATE TABLE IF NOT EXISTS workers (
        id TEXT PRIMARY KEY, url TEXT NOT NULL, engine TEXT NOT NULL, store TEXT, capacity INTEGER NOT NULL,
        sessions INTEGER NOT NULL, queued INTEGER NOT NULL, bytes INTEGER NOT NULL, is_draining INTEGER NOT NULL,
        heard INTEGER NOT NULL, expires INTEGER NOT NULL, suspected INTEGER NOT NULL) STRICT`);
      sql.all(`CREATE TABLE IF NOT EXISTS leases (
        session TEXT PRIMARY KEY, worker TEXT NOT NULL, store TEXT, epoch INTEGER NOT NULL, renewed INTEGER NOT NULL) STRICT`);
      sql.all('CREATE INDEX IF NOT EXISTS leases_by_renewal ON leases (renewed)');
      sql.all('CREATE INDEX IF NOT EXISTS leases_by_worker ON leases (worker)');
    });
  }

  /**
   * Takes a worker in, or hears from it again.
   *
   * @returns leases of sessions that others have left behind and that are its own now: if nobody asks for them, it sees to their expiry
   */
  heartbeat(report: WorkerReport): PlacedLease[] {
    const { id, url, engine, store, capacity, sessions, queued, bytes, isDraining, heartbeatMilliseconds } = report;
    const now = this.#now();
    return this.#sql.transaction(() => {
      // Two heartbeats in one millisecond: the second one counts as later all the same.
      const [known] = this.#sql.all('SELECT heard, suspected FROM workers WHERE id = ?', id);
      const heard = Math.max(now, Number(known?.['suspected'] ?? 0) + 1);
      // One address leads to one process: the other one has ended.
      this.#sql.all('UPDATE workers SET expires = 0 WHERE url = ? AND id <> ?', url, id);
      this.#sql.all(
        `INSERT INTO workers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET
           url = excluded.url, engine = excluded.engine, store = excluded.store, capacity = excluded.capacity,
           sessions = excluded.sessions, queued = excluded.queued, bytes = excluded.bytes,
           is_draining = excluded.is_draining, heard = excluded.heard, expires = excluded.expires`,
        ...[id, url, engine, store, capacity, sessions, queued, bytes, isDraining ? 1 : 0],
        ...[heard, now + LOST_HEARTBEATS * heartbeatMilliseconds, 0],
      );
      this.#sql.all('DELETE FROM leases WHERE renewed < ?', now - FORGOTTEN_MILLISECONDS);
      return isDraining || store === null ? [] : this.#adopt(report, store, now);
    });
  }

  /** Gives a worker some of the sessions of those that are lost and had the same store. */
  #adopt({ id, url, heartbeatMilliseconds }: WorkerReport, store: string, now: number): PlacedLease[] {
    const [lost] = this.#sql.all('SELECT id FROM workers WHERE expires <= ? AND store = ? LIMIT 1', now, store);
    if (lost === undefined) return [];
    const left = this.#sql.all(
      'SELECT session, epoch FROM leases WHERE worker = ? LIMIT ?',
      ...[text(lost['id']), ADOPTED_AT_ONCE],
    );
    if (left.length === 0) this.#sql.all('DELETE FROM workers WHERE id = ?', text(lost['id']));
    return left.map((row) => {
      const epoch = Number(row['epoch']) + 1;
      this.#sql.all('UPDATE leases SET worker = ?, epoch = ? WHERE session = ?', id, epoch, text(row['session']));
      const expires = now + LOST_HEARTBEATS * heartbeatMilliseconds;
      return placed(sessionIdSchema.parse(row['session']), { id, url, expires }, epoch);
    });
  }

  /** A worker ends in order: it has given up its sessions. */
  leave(id: WorkerId): void {
    this.#sql.all('UPDATE workers SET expires = 0 WHERE id = ?', id);
  }

  /**
   * The owner of a session. It is the one it had, as long as that is heard and does not fail; else another worker that has the same
   * store, in a later epoch. A session that is not known is new.
   *
   * @param failed the lease that was tried, if one was
   * @returns null if there is no worker that could own it
   */
  lease(session: SessionId, failed: FailedLease | null): PlacedLease | null {
    return this.#sql.transaction(() => {
      const [row] = this.#sql.all('SELECT worker, store, epoch FROM leases WHERE session = ?', session);
      if (row === undefined) return this.#place(session, failed, null);
      const [owner] = this.#sql.all('SELECT url, expires, heard FROM workers WHERE id = ?', text(row['worker']));
      const epoch = Number(row['epoch']);
      const hasFailed = failed !== null && failed.epoch >= epoch;
      if (hasFailed && failed.reason === 'unreachable') {
        this.#sql.all('UPDATE workers SET suspected = heard WHERE id = ?', text(row['worker']));
      }
      const expires = Number(owner?.['expires'] ?? 0);
      if (owner === undefined || hasFailed || expires <= this.#now()) return this.#place(session, failed, row);
      this.#sql.all('UPDATE leases SET renewed = ? WHERE session = ?', this.#now(), session);
      return placed(session, { id: text(row['worker']), ...owner }, epoch);
    });
  }

  #place(session: SessionId, failed: FailedLease | null, before: Record<string, SqlValue> | null): PlacedLease | null {
    const store = text(before?.['store'] ?? null);
    const now = this.#now();
    const [worker] = this.#sql.all(
      `SELECT id, url, store, expires FROM workers WHERE ${USABLE} AND (? IS NULL OR store = ?)
       ORDER BY sessions >= capacity, (1.0 * sessions + queued) / capacity, id LIMIT 1`,
      ...[now, store, store],
    );
    if (worker === undefined) return null;
    const epoch = Math.max(Number(before?.['epoch'] ?? 0), failed?.epoch ?? 0) + 1;
    this.#sql.all(
      `INSERT INTO leases VALUES (?, ?, ?, ?, ?) ON CONFLICT (session) DO UPDATE SET
         worker = excluded.worker, store = excluded.store, epoch = excluded.epoch, renewed = excluded.renewed`,
      ...[session, text(worker['id']), text(worker['store'] ?? null), epoch, now],
    );
    // Until its next heartbeat says how many it has.
    this.#sql.all('UPDATE workers SET sessions = sessions + 1 WHERE id = ?', text(worker['id']));
    return placed(session, worker, epoch);
  }

  /** Forgets a session that there is not, or not any more. */
  release(session: SessionId, epoch: number): void {
    this.#sql.all('DELETE FROM leases WHERE session = ? AND epoch = ?', session, epoch);
  }

  /** Base URL of the least busy worker. @param failed the one that could not be reached. @returns null if there is none */
  anyWorker(failed: string | null): string | null {
    return this.#sql.transaction(() => {
      if (failed !== null) this.#sql.all('UPDATE workers SET suspected = heard WHERE url = ?', failed);
      const [worker] = this.#sql.all(
        `SELECT url FROM workers WHERE ${USABLE} ORDER BY (1.0 * sessions + queued) / capacity, id LIMIT 1`,
        this.#now(),
      );
      return worker === undefined ? null : String(worker['url']);
    });
  }

  workers(): KnownWorker[] {
    const rows = this.#sql.all(`SELECT *, ${USABLE} AS usable FROM workers WHERE expires > 0 ORDER BY id`, this.#now());
    return rows.map((row) => ({
      id: workerIdSchema.parse(row['id']),
      url: String(row['url']),
      engine: String(row['engine']),
      store: text(row['store'] ?? null),
      capacity: Number(row['capacity']),
      sessions: Number(row['sessions']),
      queued: Number(row['queued']),
      bytes: Number(row['bytes']),
      isDraining: row['is_draining'] === 1,
      heard: Number(row['heard']),
      isUsable: row['usable'] === 1,
    }));
  }
}

function placed(session: SessionId, worker: Record<string, SqlValue>, epoch: number): PlacedLease {
  const lease = {
    session: sessionIdSchema.parse(session),
    worker: workerIdSchema.parse(worker['id']),
    epoch,
    expires: Number(worker['expires']),
  };
  return { lease, url: String(worker['url']) };
}

function text(value: SqlValue | undefined): string | null {
  return value === undefined || value === null ? null : String(value);
}
