/** What an isolate of the edge remembers of the placement directory, and what it asks anew. */
import { beforeEach, describe, expect, it, onTestFinished, vi } from 'vitest';
import { registeredWorkers, type AsyncDirectory, type Placement } from '../../edge/placement/placement.ts';
import type { PlacedLease } from '../../edge/placement/placement-directory.ts';
import { verifyLease } from '../../shared/lease.ts';
import { LIMITS } from '../../shared/limits.ts';
import { newSessionId } from '../../shared/session.ts';
import { createSigner } from '../../shared/signature.ts';
import { newWorkerId } from '../../shared/worker-report.ts';

const signer = createSigner('a secret for tests alone');
const LEASE = 15_000;
const session = newSessionId();

let now: number;
let asked: string[];
/** What the directory answers next; its last answer from then on. */
let answers: (PlacedLease | null | Promise<PlacedLease | null>)[];
let placement: Placement;

function lease(epoch: number, expires = now + LEASE): PlacedLease {
  return { url: `http://worker-${epoch}`, lease: { session, worker: newWorkerId(), epoch, expires } };
}

beforeEach(() => {
  now = 1_000_000;
  asked = [];
  answers = [];
  const directory: AsyncDirectory = {
    heartbeat: () => Promise.reject(new Error('not here')),
    leave: () => Promise.reject(new Error('not here')),
    workers: () => Promise.reject(new Error('not here')),
    lease: (_, failed) => {
      asked.push(failed === null ? 'lease' : `${failed.reason} ${failed.epoch}`);
      return Promise.resolve(answers.length > 1 ? answers.shift()! : answers[0]!);
    },
    reserve: () => Promise.reject(new Error('not here')),
    release: (_, epoch) => {
      asked.push(`release ${epoch}`);
      return Promise.resolve();
    },
    anyWorker: (failed) => {
      asked.push(`any ${String(failed)}`);
      return Promise.resolve('http://any');
    },
  };
  placement = registeredWorkers(directory, signer, () => now);
});

describe('the way to a session', () => {
  it('is asked for once while its lease lasts, however many steps there are', async () => {
    answers = [lease(1), lease(1, now + 2 * LEASE)];
    for (let step = 0; step < 100; step++) expect((await placement.route(session)).url).toBe('http://worker-1');
    expect(asked).toEqual(['lease']);
    now += LEASE;
    for (let step = 0; step < 100; step++) await placement.route(session);
    expect(asked).toEqual(['lease', 'lease']);
  });

  it('carries the lease, signed', async () => {
    const placed = lease(3);
    answers = [placed];
    const route = await placement.route(session);
    expect(await verifyLease(route.lease!.token, signer)).toEqual(placed.lease);
  });

  it('that fails is replaced, and the new one remembered', async () => {
    answers = [lease(1), lease(2)];
    const route = await placement.route(session);
    expect((await placement.reroute(session, route, 'unreachable', 0))!.url).toBe('http://worker-2');
    expect((await placement.route(session)).lease!.epoch).toBe(2);
    expect(asked).toEqual(['lease', 'unreachable 1']);
    await placement.reroute(session, route, 'moved', 7);
    expect(asked.at(-1)).toBe('moved 7');
  });

  it('an answer that comes late does not undo a later one', async () => {
    const { promise, resolve } = Promise.withResolvers<PlacedLease>();
    answers = [promise, lease(5)];
    const late = placement.route(session);
    expect((await placement.route(session)).lease!.epoch).toBe(5);
    resolve(lease(4));
    expect((await late).lease!.epoch).toBe(5);
    expect((await placement.route(session)).lease!.epoch).toBe(5);
  });

  it('is forgotten with the session, and where there is no worker', async () => {
    answers = [lease(1), lease(1), null];
    await placement.release(session, await placement.route(session));
    const route = await placement.route(session);
    expect(asked).toEqual(['lease', 'release 1', 'lease']);
    const unavailable = { code: 'worker_unavailable', retryable: true };
    await expect(placement.reroute(session, route, 'unreachable', 0)).rejects.toMatchObject(unavailable);
    await expect(placement.route(session)).rejects.toMatchObject(unavailable);
  });

  it('is not to be had without the directory, which may pass', async () => {
    for (const reason of ['retryable', 'overloaded']) {
      answers = [Promise.reject(Object.assign(new Error('of the platform'), { [reason]: true }))];
      await expect(placement.route(session)).rejects.toMatchObject({ code: 'worker_unavailable', retryable: true });
    }
    const defect = new TypeError('of the directory');
    answers = [Promise.reject(defect)];
    await expect(placement.route(session)).rejects.toBe(defect);
  });

  it('is not waited for longer than the directory should take', async () => {
    vi.useFakeTimers();
    onTestFinished(() => {
      vi.useRealTimers();
    });
    answers = [Promise.withResolvers<PlacedLease>().promise];
    const route = placement.route(session);
    const refused = expect(route).rejects.toMatchObject({ code: 'worker_unavailable', retryable: true });
    await vi.advanceTimersByTimeAsync(LIMITS.answerMilliseconds);
    await refused;
  });
});

it('any worker is asked for now and then, and when it cannot be reached', async () => {
  for (let i = 0; i < 10; i++) expect(await placement.anyWorker()).toBe('http://any');
  expect(asked).toEqual(['any null']);
  await placement.unreachable('http://any');
  await placement.anyWorker();
  expect(asked).toEqual(['any null', 'any http://any', 'any null']);
});
