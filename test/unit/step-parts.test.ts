/** Parts of a step, in a session's memory and in storage: when they come and go, and what a commit finds of them. */
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { ComputeQueue } from '../../gpu-worker/engine/queue.ts';
import type { SessionRegistry } from '../../gpu-worker/session/registry.ts';
import type { TrainingSession } from '../../gpu-worker/session/session.ts';
import type { Changes, Storage } from '../../gpu-worker/storage/storage.ts';
import { createReferenceEngine } from '../../gpu-worker/tensor/reference.ts';
import { Trainers } from '../../gpu-worker/training/trainers.ts';
import { LIMITS } from '../../shared/limits.ts';
import { newSessionId } from '../../shared/session.ts';
import { computeInPlace, openMemory, registryOf } from '../in-memory.ts';
import { codeOf, definition, seconds, START, step } from './briefly-kept.ts';

let now: number;
let registry: SessionRegistry;
let storage: Storage;

beforeEach(async () => {
  now = START;
  storage = await openMemory();
  registry = newRegistry(storage);
});
afterEach(() => storage.close());

function newRegistry(storage: Storage): SessionRegistry {
  const engine = createReferenceEngine();
  const queue = new ComputeQueue({ perSession: 4, total: 8 });
  return registryOf(
    { compute: computeInPlace(engine, new Trainers(engine)), queue, now: () => now },
    { limit: 3, storage },
  );
}

it('are dropped when nobody goes on with them, and what they take is free', async () => {
  const { id } = await registry.create(newSessionId(), definition({ ttlSeconds: 86_400 }));
  const session = await registry.get(id);
  await session.parts.put(0, 0, step(1));
  now += seconds(LIMITS.partSeconds - 1);
  await session.parts.put(0, 1, step(2));
  expect(session.parts.describe(0)).toMatchObject({
    parts: [{ part: 0 }, { part: 1 }],
    expiresAt: new Date(now + seconds(LIMITS.partSeconds)).toISOString(),
  });
  now += seconds(LIMITS.partSeconds) - 1;
  registry.removeExpired();
  expect(session.parts.describe(0).parts).toHaveLength(2);
  now += 1;
  registry.removeExpired();
  await expect.poll(() => storage.list('parts/')).toEqual([]);
  expect(session.parts.describe(0)).toMatchObject({ parts: [], expiresAt: null });
  // The numbers are free again.
  await session.parts.put(0, 0, step(3));
  await session.parts.commit(0, 1);
  expect(session.nextStep).toBe(1);
  await expect.poll(() => storage.list('parts/')).toEqual([]);
});

describe('that are read for a commit', () => {
  /** What is to be read, or deleted, waits while its gate is closed. */
  const gates = { read: Promise.resolve(), delete: Promise.resolve() };
  let reads = 0;
  let session: TrainingSession;
  let unbroken: TrainingSession;

  beforeEach(async () => {
    const gated: Storage = Object.assign(Object.create(storage) as Storage, {
      read: async (key: string) => {
        reads++;
        await gates.read;
        return storage.read(key);
      },
      write: async (changes: Changes) => {
        if (changes.deletes.length > 0) await gates.delete;
        await storage.write(changes);
      },
    });
    const slow = newRegistry(gated);
    session = await slow.create(newSessionId(), definition());
    unbroken = await slow.create(newSessionId(), definition());
    for (const k of [0, 1]) {
      await unbroken.parts.put(0, k, step(k));
      await session.parts.put(0, k, step(k));
    }
    await unbroken.parts.commit(0, 2);
    reads = 0;
  });

  /** Closed until the returned function is called. */
  function close(gate: keyof typeof gates): () => void {
    const { promise, resolve } = Promise.withResolvers<undefined>();
    gates[gate] = promise.then();
    return () => {
      resolve(undefined);
      gates[gate] = Promise.resolve();
    };
  }

  it('are read once for all who commit them; with another number it is refused', async () => {
    const open = close('read');
    const first = session.parts.commit(0, 2);
    const second = session.parts.commit(0, 2);
    expect(await codeOf(session.parts.commit(0, 1))).toBe('part_conflict');
    expect(await codeOf(session.parts.commit(0, 3))).toBe('parts_missing');
    expect(await codeOf(session.parts.put(0, 2, step(2)))).toBe('step_in_progress');
    expect(await codeOf(session.parts.remove(0, 1))).toBe('step_in_progress');
    open();
    const answer = await first;
    expect(await second).toBe(answer);
    expect(reads).toBe(2);
    expect(await session.parts.commit(0, 2)).toBe(answer);
    expect(answer.body).toEqual(unbroken.steps.storedReply(0).body);
  });

  it('are there for who commits again when the first one has gone away', async () => {
    const open = close('read');
    const request = new AbortController();
    const first = session.parts.commit(0, 2, request.signal);
    request.abort(new Error('The client has gone away.'));
    const second = session.parts.commit(0, 2);
    open();
    expect(await first.catch((error: unknown) => String(error))).toBe('Error: The client has gone away.');
    expect((await second).body).toEqual(unbroken.steps.storedReply(0).body);
  });

  it('or are being deleted, are waited for by all who want them', async () => {
    const open = close('delete');
    const deleted = session.parts.remove(0, 1);
    const again = session.parts.remove(0, 1);
    const committed = codeOf(session.parts.commit(0, 2));
    open();
    await Promise.all([deleted, again]);
    expect(await committed).toBe('parts_missing');
    const openAgain = close('delete');
    const gone = session.parts.remove(0, 0);
    const sent = session.parts.put(0, 0, step(0));
    openAgain();
    await gone;
    expect((await sent).parts).toMatchObject([{ part: 0 }]);
    await session.parts.put(0, 1, step(1));
    expect((await session.parts.commit(0, 2)).body).toEqual(unbroken.steps.storedReply(0).body);
  });

  it('lose to the step as a whole', async () => {
    const open = close('read');
    const commit = session.parts.commit(0, 2);
    const whole = await session.steps.take(0, step(3));
    await expect.poll(() => storage.list(`parts/${session.id}/`)).toEqual([]);
    open();
    expect(await codeOf(commit)).toBe('step_conflict');
    expect(session.steps.storedReply(0)).toBe(whole);
  });
});

it('go with an expired session', async () => {
  const { id } = await registry.create(newSessionId(), definition());
  await (await registry.get(id)).parts.put(0, 0, step(1));
  now += seconds(60);
  registry.removeExpired();
  await expect.poll(() => storage.list('parts/')).toEqual([]);
});
