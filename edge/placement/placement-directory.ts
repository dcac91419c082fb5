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
import type { Tenant } from '../../shared/tenant.ts';
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

/** The place of a session that is about to begin, or how many its tenant holds where it may hold no more. */
export type Reservation = PlacedLease | { readonly held: number };

/** A worker as the directory knows it. */
export interface KnownWorker extends Omit<WorkerReport, 'heartbeatMilliseconds' | 'changes'> {
  /** When it was last heard, in milliseconds since the Unix epoch. */
  readonly heard: number;
  /** Whether sessions are given to it. */
  readonly isUsable: boolean;
}

/** Milliseconds that the place of a session is remembered that nobody asks for: longer than a session can be idle. */
const FORGOTTEN_MILLISECONDS = 2 * 1000 * LIMITS.ttlSeconds.maximum;

/** Heartbeats for which a session counts that was reserved: one that has begun is in its worker's next. */
const RESERVED_HEARTBEATS = 2 * LOST_HEARTBEATS;

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
      // reserved_until: null where a worker has said that the session has begun.
      sql.all(`CREATE TABLE IF NOT EXISTS held (
        session TEXT PRIMARY KEY, tenant TEXT NOT NULL, reserved_until INTEGER) STRICT`);
      sql.all('CREATE INDEX IF NOT EXISTS held_by_tenant ON held (tenant)');
    });
  }

  /**
   * Takes a worker in, or hears from it again.
   *
   * @returns leases of sessions that others have left behind and that are its own now: if nobody asks for them, it sees to their expiry
   */
  heartbeat(report: WorkerReport): PlacedLease[] {
    const { id, url, engine, store, capacity, sessions, queued, bytes, isDraining, changes, heartbeatMilliseconds } =
      report;
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
      const forgotten = this.#sql.all(
        'DELETE FROM leases WHERE renewed < ? RETURNING session',
        now - FORGOTTEN_MILLISECONDS,
      );
      for (const row of forgotten) this.#letGo(text(row['session']));
      for (const { session, tenant } of changes) {
        if (tenant === null) {
          this.#sql.all('DELETE FROM leases WHERE session = ? AND worker = ?', session, id);
          this.#letGo(session);
        } else {
          const isKnown = this.#sql.all('SELECT 1 FROM leases WHERE session = ?', session).length > 0;
          this.#hold(session, tenant, isKnown ? null : now + FORGOTTEN_MILLISECONDS);
        }
      }
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

  /**
   * Places a session that is about to begin, unless its tenant holds as many as it may. One that is reserved counts at once, so that of
   * requests at the same time no more pass than there is room for. Its worker says with a heartbeat that it has begun, and that it is over.
   *
   * @param quota null for no limit
   * @returns null if there is no worker that could own it
   */
  reserve(session: SessionId, tenant: Tenant, quota: number | null): Reservation | null {
    return this.#sql.transaction(() => {
      const now = this.#now();
      this.#sql.all('DELETE FROM held WHERE reserved_until <= ?', now);
      const held = quota === null ? 0 : this.#heldBy(tenant, now);
      if (quota !== null && held >= quota) return { held };
      const placed = this.#place(session, null, null);
      if (placed === null) return null;
      const [worker] = this.#sql.all(
        'SELECT expires - heard AS patience FROM workers WHERE id = ?',
        placed.lease.worker,
      );
      const heartbeat = Number(worker?.['patience']) / LOST_HEARTBEATS;
      this.#hold(session, tenant, now + Math.ceil(RESERVED_HEARTBEATS * heartbeat));
      return placed;
    });
  }

  #hold(session: SessionId, tenant: Tenant, reservedUntil: number | null): void {
    this.#sql.all('INSERT OR REPLACE INTO held VALUES (?, ?, ?)', session, tenant, reservedUntil);
  }

  /** Counts a session as nobody's any more, unless a worker owns it. */
  #letGo(session: string | null): void {
    this.#sql.all(
      'DELETE FROM held WHERE session = ? AND session NOT IN (SELECT session FROM leases WHERE session = ?)',
      ...[session, session],
    );
  }

  /** Sessions of a tenant. What lived in the memory of a worker that is lost is lost with it. */
  #heldBy(tenant: Tenant, now: number): number {
    const [row] = this.#sql.all(
      `SELECT COUNT(*) AS count FROM held LEFT JOIN leases ON leases.session = held.session
       LEFT JOIN workers ON workers.id = leases.worker
       WHERE tenant = ? AND (leases.worker IS NULL OR leases.store IS NOT NULL OR workers.expires > ?)`,
      ...[tenant, now],
    );
    return Number(row?.['count']);
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
    this.#sql.transaction(() => {
      this.#sql.all('DELETE FROM leases WHERE session = ? AND epoch = ?', session, epoch);
      this.#letGo(session);
    });
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
