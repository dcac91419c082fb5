/** The sessions of a worker in time: with a clock that the test moves. */
import { createHash } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, onTestFinished } from 'vitest';
import { ComputeQueue } from '../../gpu-worker/engine/queue.ts';
import { NO_USAGE } from '../../gpu-worker/session/session-compute.ts';
import { SessionRegistry } from '../../gpu-worker/session/registry.ts';
import type { TrainingSession } from '../../gpu-worker/session/session.ts';
import { openSqliteStorage } from '../../gpu-worker/storage/sqlite.ts';
import type { Storage } from '../../gpu-worker/storage/storage.ts';
import { Trainers } from '../../gpu-worker/training/trainers.ts';
import type { Engine } from '../../gpu-worker/tensor/engine.ts';
import { createReferenceEngine } from '../../gpu-worker/tensor/reference.ts';
import type { ProblemError } from '../../shared/errors.ts';
import { LIMITS } from '../../shared/limits.ts';
import { newSessionId, sessionDefinitionSchema } from '../../shared/session.ts';
import { chunk, HOSTED } from '../e2e/data-sets.ts';
import { stepBody } from '../e2e/support.ts';
import { tenantSchema } from '../../shared/tenant.ts';
import { parseDocument } from '../../shared/validation.ts';
import { codeOf, definition, seconds, START, step } from './briefly-kept.ts';
import { briefly, computeInPlace, openMemory, registryOf, UNOBSERVED } from '../in-memory.ts';

const LIMIT = 3;

let now: number;
let engine: Engine;
let registry: SessionRegistry;
let storage: Storage;

beforeEach(async () => {
  now = START;
  engine = createReferenceEngine();
  const queue = new ComputeQueue({ perSession: 4, total: 8 });
  storage = await openMemory();
  registry = newRegistry(queue, LIMIT, storage);
});
afterEach(() => storage.close());

function newRegistry(queue: ComputeQueue, limit: number, storage: Storage): SessionRegistry {
  return registryOf(
    { compute: computeInPlace(engine, new Trainers(engine)), queue, now: () => now },
    { limit, storage },
  );
}

describe('the reply of a last step', () => {
  it('is kept for whoever asks again, until replies of later steps of other sessions need the room', async () => {
    const queue = new ComputeQueue({ perSession: 4, total: 8 });
    const resources = { compute: computeInPlace(engine, new Trainers(engine)), queue, now: () => now };
    const first = await registry.create(newSessionId(), definition());
    const { body } = await first.steps.take(0, step(1));
    const two = { limit: LIMIT, storage, retainedReplyBytes: 2 * body.byteLength };
    const bounded = registryOf(resources, two);
    const sessions: TrainingSession[] = [];
    for (let i = 0; i < LIMIT; i++) sessions.push(await bounded.create(newSessionId(), definition()));
    const again = (index: number): Promise<string> => codeOf(sessions[index]!.steps.take(0, step(1)));
    await sessions[0]!.steps.take(0, step(1));
    await sessions[1]!.steps.take(0, step(1));
    expect([await again(0), await again(1)]).toEqual(['none', 'none']);
    await sessions[2]!.steps.take(0, step(1));
    expect([await again(0), await again(1), await again(2)]).toEqual(['reply_not_retained', 'none', 'none']);
    // The session goes on; of two sessions there is room, and a closed one leaves its own.
    await sessions[0]!.steps.take(1, step(2));
    expect([await again(1), await again(2)]).toEqual(['reply_not_retained', 'none']);
    await bounded.delete(sessions[2]!.id);
    await sessions[1]!.steps.take(1, step(2));
    expect(await codeOf(sessions[0]!.steps.take(1, step(2)))).toBe('none');
  });
});

describe('expiry', () => {
  it('removes a session after its time without a request', async () => {
    const { id } = await registry.create(newSessionId(), definition());
    now += seconds(60);
    expect(await codeOf(registry.get(id))).toBe('session_not_found');
    expect(registry.size).toBe(0);
  });

  it('is put off by every request', async () => {
    const { id } = await registry.create(newSessionId(), definition());
    for (let i = 1; i <= 5; i++) {
      now += seconds(60) - 1;
      expect((await registry.get(id)).describe().expiresAt).toBe(new Date(now + seconds(60)).toISOString());
    }
    expect((await registry.get(id)).describe().createdAt).toBe(new Date(START).toISOString());
    now += seconds(60);
    expect(await codeOf(registry.get(id))).toBe('session_not_found');
  });

  it('goes by each session’s own time', async () => {
    const brief = await registry.create(newSessionId(), definition({ ttlSeconds: 10 }));
    const long = await registry.create(newSessionId(), definition({ ttlSeconds: 100 }));
    now += seconds(10);
    registry.removeExpired();
    expect(registry.size).toBe(1);
    expect(await codeOf(registry.get(brief.id))).toBe('session_not_found');
    expect(await registry.get(long.id)).toBe(long);
  });

  it('is put off by a step when it is done', async () => {
    const session = await registry.create(newSessionId(), definition());
    const running = (await registry.get(session.id)).steps.take(0, step(1));
    now += seconds(30);
    await running;
    now += seconds(59);
    expect((await registry.get(session.id)).describe().nextStep).toBe(1);
  });

  it('waits for requests that are under way', async () => {
    const session = await registry.create(newSessionId(), definition());
    const { promise: uploaded, resolve: finishUpload } = Promise.withResolvers<undefined>();
    const request = session.use(async () => {
      await uploaded;
      return session.steps.take(0, step(1));
    });
    now += seconds(600);
    registry.removeExpired();
    finishUpload(undefined);
    await request;
    now += seconds(59);
    expect((await registry.get(session.id)).describe().nextStep).toBe(1);
    now += seconds(60);
    registry.removeExpired();
    expect(registry.size).toBe(0);
  });

  it('frees the session’s tensors', async () => {
    for (let i = 0; i < LIMIT; i++) {
      const session = await registry.create(newSessionId(), definition());
      await session.steps.take(0, step(i));
      await session.steps.take(1, step(10 + i));
    }
    // Of each of two layers the factors and their inverses, and the average leverage.
    expect(engine.liveTensors).toBe(LIMIT * (2 * 4 + 1));
    now += seconds(60);
    registry.removeExpired();
    expect(engine.liveTensors).toBe(0);
  });

  it('refuses the steps that still wait', async () => {
    const session = await registry.create(newSessionId(), definition());
    const waiting = session.steps.take(0, step(1));
    now += seconds(60);
    registry.removeExpired();
    await expect(waiting).rejects.toMatchObject({ code: 'session_not_found' });
    expect(engine.liveTensors).toBe(0);
  });
});

describe('creation', () => {
  it('under an id that is taken gives the session if the definition is the same', async () => {
    const id = newSessionId();
    const session = await registry.create(id, definition());
    await session.steps.take(0, step(1));
    expect(await registry.create(id, definition())).toBe(session);
    expect(registry.size).toBe(1);
    expect(session.describe().nextStep).toBe(1);
  });

  it('counts as a use of the session it finds', async () => {
    const id = newSessionId();
    const session = await registry.create(id, definition());
    now += seconds(59);
    expect(await registry.create(id, definition())).toBe(session);
    now += seconds(59);
    expect(await registry.get(id)).toBe(session);
  });

  it('is refused if the definition is another', async () => {
    const id = newSessionId();
    const session = await registry.create(id, definition());
    await expect(registry.create(id, definition({ ttlSeconds: 61 }))).rejects.toMatchObject({
      code: 'session_exists',
    });
    await expect(registry.create(id, definition({ optimizer: { coupling: 'value' } }))).rejects.toMatchObject({
      code: 'session_exists',
    });
    expect(await registry.get(id)).toBe(session);
  });

  it('under the id of an expired session makes a new one', async () => {
    const id = newSessionId();
    const expired = await registry.create(id, definition());
    await expired.steps.take(0, step(1));
    now += seconds(60);
    const fresh = await registry.create(id, definition());
    expect(fresh.describe().nextStep).toBe(0);
    expect(await registry.get(id)).toBe(fresh);
  });
});

describe('the limit', () => {
  it('refuses one session more, in words that say how many there are', async () => {
    for (let i = 0; i < LIMIT; i++) await registry.create(newSessionId(), definition());
    await expect(registry.create(newSessionId(), definition())).rejects.toThrow(/session_limit_reached: .*3 of 3/);
    expect(registry.size).toBe(LIMIT);
  });

  it('counts the memory that sessions may come to hold', async () => {
    // Two factors of 2,000 and their inverses, twice: 128 MB a session.
    const layers = [{ name: 'wide', kind: 'dense' as const, inputs: 1999, outputs: 2000 }];
    const memory = newRegistry(new ComputeQueue({ perSession: 1, total: 1 }), 100, storage);
    for (let i = 0; i < 15; i++) await memory.create(newSessionId(), definition({ layers }));
    await expect(memory.create(newSessionId(), definition({ layers }))).rejects.toMatchObject({
      code: 'session_limit_reached',
    });
    await memory.create(newSessionId(), definition({ layers, optimizer: { metric: { kind: 'identity' } } }));
  });

  it('makes room when a session is deleted or expires', async () => {
    const first = await registry.create(newSessionId(), definition());
    await registry.create(newSessionId(), definition({ ttlSeconds: 10 }));
    await registry.create(newSessionId(), definition());
    await registry.delete(first.id);
    await registry.create(newSessionId(), definition());
    now += seconds(10);
    await registry.create(newSessionId(), definition());
    await expect(registry.create(newSessionId(), definition())).rejects.toMatchObject({
      code: 'session_limit_reached',
    });
  });
});

describe('deletion', () => {
  it('frees the tensors and answers a second one as not found', async () => {
    const { id } = await registry.create(newSessionId(), definition());
    await (await registry.get(id)).steps.take(0, step(1));
    await registry.delete(id);
    expect(engine.liveTensors).toBe(0);
    expect(await codeOf(registry.delete(id))).toBe('session_not_found');
    expect(await codeOf(registry.get(id))).toBe('session_not_found');
  });

  it('refuses the steps that still wait', async () => {
    const { id } = await registry.create(newSessionId(), definition());
    const waiting = (await registry.get(id)).steps.take(0, step(1));
    await registry.delete(id);
    await expect(waiting).rejects.toMatchObject({ code: 'session_not_found' });
    expect(engine.liveTensors).toBe(0);
  });
});

describe('deletion before the state is made', () => {
  it('refuses the creation and leaves no tensor', async () => {
    const busy = await registry.create(newSessionId(), definition());
    const running = busy.steps.take(0, step(1));
    const id = newSessionId();
    const model = { input: [3] as [number], layers: [{ kind: 'dense' as const, name: 'a', outputs: 2 }] };
    const hosted = sessionDefinitionSchema.parse({ mode: 'hosted', model, loss: { kind: 'mse' } });
    const creation = registry.create(id, hosted);
    await registry.delete(id);
    await running;
    const { liveTensors } = engine;
    await expect(creation).rejects.toMatchObject({ code: 'session_not_found' });
    expect(engine.liveTensors).toBe(liveTensors);
    expect(registry.size).toBe(1);
  });
});

describe.each([
  { title: 'in memory', isDurable: false },
  { title: 'in a folder', isDurable: true },
])('a creation $title whose client leaves', ({ isDurable }) => {
  /** A registry whose device is busy with a step of another session. */
  async function busy() {
    const queue = new ComputeQueue({ perSession: 4, total: 8 });
    const folder = mkdtempSync(join(tmpdir(), 'ddpnopt-'));
    const file = join(folder, 'sessions.sqlite');
    const durable = await openSqliteStorage({ file, maximumBytes: 1e8, survives: 'process', isShared: false });
    onTestFinished(async () => {
      await durable.close();
      rmSync(folder, { recursive: true });
    });
    const store = isDurable ? durable : storage;
    const sessions = newRegistry(queue, LIMIT, store);
    const release = Promise.withResolvers<undefined>();
    const blocked = queue.run('another', () => release.promise);
    const waiting = (count: number) => expect.poll(() => queue.length).toBe(count);
    return { sessions, store, waiting, release: () => (release.resolve(undefined), blocked) };
  }
  const left = new Error('left');

  it('is taken out of the queue, and nothing of it is left', async () => {
    const { sessions, store, waiting, release } = await busy();
    const client = new AbortController();
    const id = newSessionId();
    const creation = sessions.create(id, definition(), undefined, client.signal);
    await waiting(1);
    client.abort(left);
    await expect(creation).rejects.toBe(left);
    await waiting(0);
    expect(sessions.size).toBe(0);
    expect(await store.list('')).toEqual([]);
    await release();
    expect(engine.liveTensors).toBe(0);
    expect((await sessions.create(id, definition())).nextStep).toBe(0);
  });

  it('goes on for who waits for it, too', async () => {
    const { sessions, waiting, release } = await busy();
    const client = new AbortController();
    const id = newSessionId();
    const first = sessions.create(id, definition(), undefined, client.signal);
    await waiting(1);
    const second = sessions.create(id, definition());
    await new Promise((resolve) => setImmediate(resolve));
    client.abort(left);
    await release();
    expect((await second).nextStep).toBe(0);
    expect(await first).toBe(await second);
  });
});

describe('a step that fails', () => {
  it('leaves no tensor behind, and the session as it was', async () => {
    const session = await registry.create(newSessionId(), definition());
    await session.steps.take(0, step(1));
    const { liveTensors } = engine;
    const before = session.describe();
    const nan = stepBody(3);
    nan.fill(0xff, -4);
    await expect(session.steps.take(1, { bytes: nan, digest: 'nan' })).rejects.toMatchObject({
      code: 'non_finite_value',
    });
    await expect(session.steps.take(2, step(2))).rejects.toMatchObject({ code: 'step_out_of_order' });
    expect(engine.liveTensors).toBe(liveTensors);
    expect(session.describe()).toEqual(before);
  });
});

describe('a session with a run', () => {
  const ORDER = { steps: 20, batch: 4, order: { kind: 'sequential' } } as const;

  /** Whose device lets a test do something between two steps. */
  function paced(): SessionRegistry {
    const compute = computeInPlace(engine, new Trainers(engine), (_, work) => new Promise(setImmediate).then(work));
    const queue = new ComputeQueue({ perSession: 4, total: 8 });
    return registryOf({ compute, queue, now: () => now }, { limit: LIMIT, storage });
  }

  async function withData(sessions: SessionRegistry): Promise<TrainingSession> {
    const session = await sessions.create(newSessionId(), sessionDefinitionSchema.parse({ ...HOSTED, ttlSeconds: 60 }));
    const bytes = chunk(0, 8);
    await session.putChunk(0, { bytes, digest: createHash('sha256').update(bytes).digest('hex') });
    return session;
  }

  it('is cancelled also when its worker is told to stop in that moment; else it stays to be gone on with', async () => {
    for (const isCancelled of [true, false]) {
      const sessions = paced();
      const session = await withData(sessions);
      await session.runs.begin(0, { ...ORDER, steps: LIMITS.runSteps });
      const cancelled = isCancelled ? session.runs.cancel(0) : null;
      await sessions.suspend();
      const state = isCancelled ? 'cancelled' : 'running';
      expect(session.runs.describe(0).state).toBe(state);
      expect((await cancelled)?.state ?? 'running').toBe(state);
      await sessions.delete(session.id);
    }
  });

  it('does not expire before it ends, and then a lifetime after its last step', async () => {
    const sessions = paced();
    const session = await withData(sessions);
    await session.runs.begin(0, ORDER);
    now += seconds(61);
    sessions.removeExpired();
    expect(sessions.size).toBe(1);
    await new Promise<void>((resolve) => {
      session.runs.listen(0, null, ({ event, data }) => {
        if (event === 'run' && data.state === 'finished') resolve();
      });
    });
    now += seconds(59);
    sessions.removeExpired();
    expect(sessions.size).toBe(1);
    now += seconds(1);
    sessions.removeExpired();
    expect(sessions.size).toBe(0);
    // And its data set goes with it.
    await expect.poll(() => storage.list('data/')).toEqual([]);
  });

  it('accounts for what nobody has asked for before its end with its tenant’s next request, once', async () => {
    const sessions = paced();
    const session = await withData(sessions);
    await session.runs.begin(0, ORDER);
    while (session.runs.running !== null) await new Promise(setImmediate);
    await sessions.delete(session.id);
    const { tenant } = session;
    expect(sessions.takeUsage(newSessionId(), parseDocument(tenantSchema, 'another'))).toEqual(NO_USAGE);
    const usage = sessions.takeUsage(newSessionId(), tenant);
    expect(usage.steps).toBe(ORDER.steps);
    expect(usage.computeSeconds).toBeGreaterThan(0);
    expect(sessions.takeUsage(session.id, tenant)).toEqual(NO_USAGE);
  });

  it('takes its turns with other runs, and ends as if it had been alone', async () => {
    const sessions = paced();
    const [session, other] = [await withData(sessions), await withData(sessions)];
    await other.runs.begin(0, ORDER);
    await session.runs.begin(0, { ...ORDER, steps: 7 });
    while (session.runs.running !== null) await new Promise(setImmediate);
    await session.runs.begin(7, { ...ORDER, steps: 13 });
    while ([session, other].some(({ runs }) => runs.running !== null)) await new Promise(setImmediate);
    expect((await session.weights()).body).toEqual((await other.weights()).body);
  });
});

describe('expiry where storage is durable', () => {
  const RETENTION = seconds(1000);
  let folder: string;
  const failures: unknown[] = [];

  async function durable(): Promise<SessionRegistry> {
    const file = join(folder, 'sessions.sqlite');
    const store = await openSqliteStorage({ file, maximumBytes: 1e8, survives: 'process', isShared: false });
    onTestFinished(() => store.close());
    const sessions = new SessionRegistry(
      {
        compute: computeInPlace(engine, new Trainers(engine)),
        queue: new ComputeQueue({ perSession: 4, total: 8 }),
        now: () => now,
        pause: briefly,
        report: () => undefined,
        meter: UNOBSERVED,
      },
      {
        limit: LIMIT,
        storage: store,
        isStorageShared: false,
        log: { snapshotSteps: 2, snapshotBytes: 1e8, acknowledge: 'durable' },
        retainedReplyBytes: 1e8,
        dataBytesInMemory: 1e8,
        retention: RETENTION,
        reportFailure: (error) => failures.push(error),
      },
    );
    await sessions.load();
    return sessions;
  }

  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'ddpnopt-'));
    failures.length = 0;
    onTestFinished(() => {
      rmSync(folder, { recursive: true, force: true });
    });
  });

  it('keeps the state as a checkpoint for a while, from which a session goes on', async () => {
    const sessions = await durable();
    const session = await sessions.create(newSessionId(), definition());
    for (const n of [0, 1, 2]) await session.steps.take(n, step(n));
    const twin = await sessions.create(newSessionId(), definition());
    for (const n of [0, 1, 2]) await twin.steps.take(n, step(n));
    now += seconds(59);
    await sessions.get(twin.id);
    now += seconds(1);
    const refusal: unknown = await sessions.get(session.id).catch((error: unknown) => error);
    expect(refusal).toMatchObject({ code: 'session_expired', status: 410 });
    const [kept] = await sessions.checkpointsOf(session.id);
    expect(kept).toMatchObject({ origin: 'expiry', step: 3, session: session.id });
    expect(kept!.expiresAt).toBe(new Date(now + RETENTION).toISOString());
    expect((refusal as ProblemError).details.remedy).toContain(kept!.id);

    const resumed = await sessions.create(newSessionId(), { fromCheckpoint: kept!.id });
    const [expected, actual] = await Promise.all([twin.steps.take(3, step(3)), resumed.steps.take(3, step(3))]);
    expect(actual).toEqual(expected);

    now += RETENTION;
    await sessions.removeExpiredCheckpoints();
    expect(await codeOf(sessions.readCheckpoint(kept!.id))).toBe('checkpoint_not_found');
    expect(await codeOf(sessions.get(session.id))).toBe('session_not_found');
    expect(failures).toEqual([]);
  });

  it('leaves no tensor and nothing but the checkpoint in storage', async () => {
    const sessions = await durable();
    const session = await sessions.create(newSessionId(), definition());
    const idle = await sessions.create(newSessionId(), definition());
    await session.steps.take(0, step(0));
    now += seconds(60);
    expect(await codeOf(sessions.get(idle.id))).toBe('session_not_found');
    expect(await codeOf(sessions.get(session.id))).toBe('session_expired');
    expect(sessions.size).toBe(0);
    expect(engine.liveTensors).toBe(0);
  });
});
