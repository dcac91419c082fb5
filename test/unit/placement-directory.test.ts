/** The placement directory on a database of its own, with a clock that the test moves. */
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { openSqliteSql, type SqliteSql } from '../../deploy/node/sqlite-sql.ts';
import { PlacementDirectory, type Reservation } from '../../edge/placement/placement-directory.ts';
import { newSessionId } from '../../shared/session.ts';
import { tenantSchema } from '../../shared/tenant.ts';
import { newWorkerId, type WorkerReport } from '../../shared/worker-report.ts';

const HEARTBEAT = 1000;

let now: number;
let sql: SqliteSql;
let directory: PlacementDirectory;

beforeEach(() => {
  now = 1_000_000;
  sql = openSqliteSql(':memory:');
  directory = new PlacementDirectory(sql, () => now);
});
afterEach(() => {
  sql.close();
});

let port = 1;
function worker(changed: Partial<WorkerReport> = {}): WorkerReport {
  const report: WorkerReport = {
    id: newWorkerId(),
    url: `http://127.0.0.1:${++port}`,
    engine: 'reference',
    store: 'one',
    capacity: 10,
    sessions: 0,
    queued: 0,
    bytes: 0,
    isDraining: false,
    changes: [],
    heartbeatMilliseconds: HEARTBEAT,
    ...changed,
  };
  directory.heartbeat(report);
  return report;
}

describe('a new session', () => {
  it('goes to the least busy worker for its size, counting what was placed since its last heartbeat', () => {
    const small = worker({ capacity: 2 });
    const large = worker({ capacity: 8 });
    const given = Array.from({ length: 10 }, () => directory.lease(newSessionId(), null)?.lease.worker);
    expect(given.filter((id) => id === small.id)).toHaveLength(2);
    expect(given.filter((id) => id === large.id)).toHaveLength(8);
  });

  it('goes to none that drains, has been silent, or could not be reached since its last heartbeat', () => {
    worker({ isDraining: true });
    worker();
    now += 3 * HEARTBEAT;
    expect(directory.lease(newSessionId(), null)).toBeNull();
    const cutOff = worker();
    directory.anyWorker(cutOff.url);
    expect(directory.lease(newSessionId(), null)).toBeNull();
    directory.heartbeat(cutOff);
    expect(directory.lease(newSessionId(), null)?.lease.worker).toBe(cutOff.id);
    expect(directory.workers().filter(({ isUsable }) => isUsable)).toMatchObject([{ id: cutOff.id }]);
    // Lost ones that have left nothing behind are forgotten.
    expect(directory.workers().map(({ id }) => id)).toEqual([cutOff.id]);
  });
});

describe('a session', () => {
  it('stays where it is as long as its worker is heard, and drains or not', () => {
    const first = worker();
    const session = newSessionId();
    const lease = directory.lease(session, null);
    expect(lease).toMatchObject({
      url: first.url,
      lease: { session, worker: first.id, epoch: 1, expires: now + 3 * HEARTBEAT },
    });
    worker();
    now += 2 * HEARTBEAT;
    directory.heartbeat({ ...first, sessions: 10, isDraining: true });
    expect(directory.lease(session, null)).toMatchObject({
      lease: { worker: first.id, epoch: 1, expires: now + 3 * HEARTBEAT },
    });
  });

  it('moves when its worker is silent, unreachable or says so, each time with the next epoch', () => {
    const [first, second] = [worker(), worker({ sessions: 9 })];
    const session = newSessionId();
    directory.lease(session, null);
    expect(directory.lease(session, { epoch: 1, reason: 'unreachable' })).toMatchObject({
      lease: { worker: second.id, epoch: 2 },
    });
    // Who still has the old lease is told of the new one.
    expect(directory.lease(session, { epoch: 1, reason: 'unreachable' })).toMatchObject({
      lease: { worker: second.id, epoch: 2 },
    });
    directory.heartbeat(first);
    expect(directory.lease(session, { epoch: 2, reason: 'moved' })).toMatchObject({
      lease: { worker: first.id, epoch: 3 },
    });
    now += 3 * HEARTBEAT;
    directory.heartbeat(second);
    expect(directory.lease(session, null)).toMatchObject({ lease: { worker: second.id, epoch: 4 } });
    directory.leave(second.id);
    expect(directory.lease(session, null)).toBeNull();
    directory.heartbeat(first);
    expect(directory.lease(session, null)).toMatchObject({ lease: { worker: first.id, epoch: 5 } });
  });

  it('moves only to who has the same store; one whose worker had none begins anew elsewhere', () => {
    const first = worker({ store: 'one' });
    const session = newSessionId();
    directory.lease(session, null);
    directory.leave(first.id);
    const elsewhere = worker({ store: 'two' });
    expect(directory.lease(session, null)).toBeNull();
    const restarted = worker({ store: 'one', url: first.url, sessions: 9 });
    expect(directory.lease(session, null)).toMatchObject({ lease: { worker: restarted.id, epoch: 2 } });

    directory.leave(elsewhere.id);
    const forgetful = worker({ store: null, capacity: 1000 });
    const passing = newSessionId();
    expect(directory.lease(passing, null)).toMatchObject({ lease: { worker: forgetful.id } });
    directory.leave(forgetful.id);
    expect(directory.lease(passing, null)).toMatchObject({ lease: { epoch: 2 } });
  });

  it('a process that is started again at the same address is another worker', () => {
    const first = worker();
    const session = newSessionId();
    directory.lease(session, null);
    const second = worker({ url: first.url });
    expect(directory.lease(session, null)).toMatchObject({ url: first.url, lease: { worker: second.id, epoch: 2 } });
    expect(directory.workers()).toHaveLength(1);
  });

  it('that the directory has forgotten goes on beyond the epoch that its store knows of', () => {
    const { id } = worker();
    const session = newSessionId();
    expect(directory.lease(session, { epoch: 7, reason: 'moved' })).toMatchObject({ lease: { worker: id, epoch: 8 } });
  });

  it('is released by whoever has its last lease, and no other', () => {
    worker();
    const session = newSessionId();
    directory.lease(session, null);
    directory.lease(session, { epoch: 1, reason: 'moved' });
    directory.release(session, 1);
    expect(directory.lease(session, null)).toMatchObject({ lease: { epoch: 2 } });
    directory.release(session, 2);
    expect(directory.lease(session, null)).toMatchObject({ lease: { epoch: 1 } });
  });
});

it('whatever happens, an epoch has one worker, and later leases have no earlier epoch', () => {
  const event = fc.oneof(
    fc.record({ kind: fc.constant('heartbeat' as const), worker: fc.nat(3), isDraining: fc.boolean() }),
    fc.record({ kind: fc.constant('leave' as const), worker: fc.nat(3) }),
    fc.record({ kind: fc.constant('time' as const), milliseconds: fc.nat(2 * HEARTBEAT) }),
    fc.record({ kind: fc.constant('lease' as const), session: fc.nat(2) }),
    fc.record({
      kind: fc.constant('fail' as const),
      session: fc.nat(2),
      reason: fc.constantFrom('unreachable' as const, 'moved' as const),
      lag: fc.nat(2),
    }),
  );
  fc.assert(
    fc.property(fc.array(event, { maxLength: 60 }), (events) => {
      const database = openSqliteSql(':memory:');
      let time = 0;
      const placed = new PlacementDirectory(database, () => time);
      const reports = Array.from({ length: 4 }, (_, i): WorkerReport => ({
        ...worker(),
        url: `http://127.0.0.1:${i + 1}`,
      }));
      const sessions = Array.from({ length: 3 }, newSessionId);
      const owners = new Map<string, string>();
      const epochs = new Map<string, number>();
      for (const happened of events) {
        switch (happened.kind) {
          case 'heartbeat':
            placed.heartbeat({ ...reports[happened.worker]!, isDraining: happened.isDraining });
            break;
          case 'leave':
            placed.leave(reports[happened.worker]!.id);
            break;
          case 'time':
            time += happened.milliseconds;
            break;
          case 'lease':
          case 'fail': {
            const session = sessions[happened.session]!;
            const last = epochs.get(session) ?? 0;
            const epoch = happened.kind === 'fail' ? last - happened.lag : 0;
            const failed = happened.kind === 'fail' && epoch > 0 ? { epoch, reason: happened.reason } : null;
            const found = placed.lease(session, failed);
            if (found === null) break;
            const { lease } = found;
            expect(lease.epoch).toBeGreaterThanOrEqual(last);
            if (failed !== null) expect(lease.epoch).toBeGreaterThan(failed.epoch);
            expect(lease.expires).toBeGreaterThan(time);
            const key = `${session} ${lease.epoch}`;
            expect(owners.get(key) ?? lease.worker).toBe(lease.worker);
            owners.set(key, lease.worker);
            epochs.set(session, lease.epoch);
          }
        }
      }
      database.close();
    }),
    { seed: 1 },
  );
});

describe('the sessions of a lost worker', () => {
  it('are given to others of the same store with their heartbeats, so that somebody sees to their expiry', () => {
    const lost = worker();
    const sessions = Array.from({ length: 30 }, newSessionId);
    for (const session of sessions) directory.lease(session, null);
    const heir = worker();
    const stranger = worker({ store: 'two' });
    expect(directory.heartbeat(heir)).toEqual([]);
    now += 2 * HEARTBEAT;
    directory.heartbeat(heir);
    now += HEARTBEAT;
    expect(directory.heartbeat(stranger)).toEqual([]);
    expect(directory.heartbeat({ ...heir, isDraining: true })).toEqual([]);
    const adopted = [directory.heartbeat(heir), directory.heartbeat(heir)].flat();
    expect(adopted.map(({ lease }) => lease.session).toSorted()).toEqual(sessions.toSorted());
    for (const { url, lease } of adopted)
      expect({ url, ...lease }).toMatchObject({ url: heir.url, worker: heir.id, epoch: 2 });
    // Nobody gets them twice, also if their worker is heard again.
    directory.heartbeat(lost);
    expect(directory.heartbeat(lost)).toEqual([]);
    expect(directory.heartbeat(heir)).toEqual([]);
  });
});

describe('the sessions that a tenant may hold', () => {
  const [ours, theirs] = [tenantSchema.parse('ours'), tenantSchema.parse('theirs')];
  const isPlaced = (reservation: Reservation | null): boolean => reservation !== null && 'lease' in reservation;
  /** Reserves a session that is to be the third of two at most. */
  const third = () => directory.reserve(newSessionId(), ours, 2);

  it('count from the moment that they are reserved, and others’ do not', () => {
    expect(third()).toBeNull();
    worker();
    for (let i = 0; i < 2; i++) expect(isPlaced(third())).toBe(true);
    expect(third()).toEqual({ held: 2 });
    expect(isPlaced(directory.reserve(newSessionId(), theirs, 2))).toBe(true);
    expect(isPlaced(directory.reserve(newSessionId(), ours, null))).toBe(true);
    expect(third()).toEqual({ held: 3 });
  });

  it('count until they are released, or their worker says that they are over', () => {
    const owner = worker();
    const [first, second] = [newSessionId(), newSessionId()];
    for (const session of [first, second]) directory.reserve(session, ours, 2);
    const begun = [first, second].map((session) => ({ session, tenant: ours }));
    directory.heartbeat({ ...owner, changes: begun });
    directory.release(first, 1);
    expect(isPlaced(third())).toBe(true);
    expect(third()).toEqual({ held: 2 });
    // Only who owns a session can say so.
    directory.heartbeat({ ...worker(), changes: [{ session: second, tenant: null }] });
    expect(third()).toEqual({ held: 2 });
    directory.heartbeat({ ...owner, changes: [{ session: second, tenant: null }] });
    expect(isPlaced(third())).toBe(true);
  });

  it('count for a while if nobody says whether they have begun, and for good if their worker does', () => {
    const owner = worker();
    const [lost, late] = [newSessionId(), newSessionId()];
    for (const session of [lost, late]) directory.reserve(session, ours, 2);
    for (let i = 0; i < 6; i++) {
      expect(third()).toEqual({ held: 2 });
      now += HEARTBEAT;
      directory.heartbeat({ ...owner, changes: i === 4 ? [{ session: late, tenant: ours }] : [] });
    }
    expect(isPlaced(third())).toBe(true);
    expect(third()).toEqual({ held: 2 });
    now += 60 * HEARTBEAT;
    directory.heartbeat(owner);
    expect(isPlaced(third())).toBe(true);
    expect(third()).toEqual({ held: 2 });
  });

  it('count when their worker is lost, unless they were in its memory alone', () => {
    const durable = worker();
    for (const tenant of [ours, theirs]) {
      const session = newSessionId();
      directory.reserve(session, tenant, 1);
      directory.heartbeat({ ...durable, changes: [{ session, tenant }] });
    }
    directory.leave(durable.id);
    const forgetful = worker({ store: null });
    const passing = newSessionId();
    directory.reserve(passing, ours, 2);
    directory.heartbeat({ ...forgetful, changes: [{ session: passing, tenant: ours }] });
    expect(third()).toEqual({ held: 2 });
    directory.leave(forgetful.id);
    worker();
    expect(isPlaced(third())).toBe(true);
    expect(third()).toEqual({ held: 2 });
  });

  it('count that the directory has forgotten, as soon as a worker says that it has them', () => {
    const owner = worker();
    const session = newSessionId();
    directory.heartbeat({ ...owner, changes: [{ session, tenant: ours }] });
    expect(directory.reserve(newSessionId(), ours, 1)).toEqual({ held: 1 });
    directory.heartbeat({ ...owner, changes: [{ session, tenant: null }] });
    expect(isPlaced(directory.reserve(newSessionId(), ours, 1))).toBe(true);
  });
});
