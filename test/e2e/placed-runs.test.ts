/**
 * Runs on several workers: the one that takes the steps is killed, or told to stop, in the middle, and another goes on. What the client is
 * told, and the weights at the end, are those of a run that nothing disturbs. For an edge in workerd and for one under Node.
 */
import { afterAll, beforeAll, expect, it, onTestFinished } from 'vitest';
import { DdpnoptClient, type HostedTrainingSession } from '../../clients/js/index.ts';
import { SYSTEM_TIMING, type Timing } from '../../clients/js/retry.ts';
import type { ServiceProcess } from '../../deploy/local/child.ts';
import { EDGE_RUNTIMES, type EdgeRuntime } from '../../deploy/local/edge.ts';
import { startStack, type LocalStack } from '../../deploy/local/stack.ts';
import { LIMITS } from '../../shared/limits.ts';
import type { StepMetrics } from '../../shared/session.ts';
import { DATA, HOSTED } from './data-sets.ts';
import { startPlacedService, type PlacedService } from './placed-service.ts';
import { call, persistent } from './support.ts';
import { folder } from './worker-session.ts';

const { model, loss } = HOSTED;
/** Milliseconds, where a worker is to count as lost soon. */
const BRIEF_HEARTBEAT = 1000;
const PLAN = { batch: 6, order: { kind: 'shuffled', seed: 3 } } as const;

async function begin(url: string, timing: Timing = SYSTEM_TIMING): Promise<HostedTrainingSession> {
  const session = await new DdpnoptClient({ url, timing }).createHostedSession({ model, loss });
  await session.uploadData(DATA, { chunkSamples: 15 });
  return session;
}

/** By the client, which asks again where a session is just being taken over. */
async function weightsOf(session: HostedTrainingSession): Promise<unknown> {
  return [...(await session.weights())];
}

/** What a run that nothing disturbs tells its client, and what it leaves behind. */
async function unbrokenRun(steps: number) {
  const session = await begin(undisturbed.url);
  const told: StepMetrics[] = [];
  await session.run({ ...PLAN, steps }, { onProgress: ({ metrics }) => told.push(metrics) });
  expect(told.map(({ step }) => step)).toEqual(Array.from({ length: steps }, (_, n) => n));
  return { told, weights: await weightsOf(session) };
}

let undisturbed: LocalStack;
beforeAll(async () => {
  undisturbed = await startStack({ engine: 'reference', edge: 'node' });
});
afterAll(() => undisturbed.stop());

/** @param heartbeat milliseconds */
async function start(runtime: EdgeRuntime, count: number, heartbeat?: number): Promise<PlacedService> {
  // Of what precedes a snapshot the metrics are not kept: a client that is behind would be told that it missed them.
  const store = { storage: folder(), settings: { DDPNOPT_SNAPSHOT_STEPS: '1000000' } };
  const service = await startPlacedService(runtime, store, count, heartbeat);
  onTestFinished(() => service.stop());
  return service;
}

/** Steps that a worker has computed, those of a recovery left out. */
async function stepsOf({ ready }: ServiceProcess): Promise<number> {
  const metrics = await (await fetch(`${ready.url}/metrics`)).text();
  return Number(/^ddpnopt_steps_total (\d+)$/m.exec(metrics)![1]);
}

it.each(EDGE_RUNTIMES)(
  'a run through an edge in %s: its worker is killed with SIGKILL, the next one told to stop; its client hears of every step once',
  async (runtime) => {
    const { url, owner, workers } = await start(runtime, 3);
    const session = await begin(url);
    const told: StepMetrics[] = [];
    const { promise: hasBegun, resolve: heard } = Promise.withResolvers<undefined>();
    // It ends when the test is done with it, and not before.
    const running = session.run(
      { ...PLAN, steps: LIMITS.runSteps },
      {
        onProgress: ({ metrics }) => {
          told.push(metrics);
          heard(undefined);
        },
      },
    );
    await Promise.race([hasBegun, running]);
    const first = await owner();
    await first.kill();
    // Whoever is asked for the session goes on with the run.
    expect(await session.describe()).toMatchObject({ run: 0 });
    const second = await owner();
    await expect.poll(() => stepsOf(second)).toBeGreaterThan(0);
    await second.stop();
    expect(second.errors()).not.toMatch(/storage_failed|defect/);
    expect(await session.describe()).toMatchObject({ run: 0 });
    const [third] = workers.filter((worker) => worker !== first && worker !== second);
    await expect.poll(() => stepsOf(third!)).toBeGreaterThan(0);
    const { state, nextStep } = await session.cancelRun(0);
    expect(state).toBe('cancelled');

    expect(await running).toMatchObject({ state, nextStep, metrics: told.at(-1) });
    const unbroken = await unbrokenRun(nextStep);
    expect(told).toEqual(unbroken.told);
    expect(await weightsOf(session)).toEqual(unbroken.weights);
  },
);

it('a lost worker’s run that nobody asks for goes on', async () => {
  const { url, owner, workers } = await start('node', 2, BRIEF_HEARTBEAT);
  const session = await begin(url);
  const lost = await owner();
  const heir = workers.find((worker) => worker !== lost)!;
  // It ends when the test is done with it, and not before its worker is lost.
  const order = { ...PLAN, steps: LIMITS.runSteps };
  const path = `/v1/sessions/${session.session.id}/runs/0`;
  const begun = await persistent(() => call(url, 'PUT', path, { body: JSON.stringify(order), type: 'application/json' })); // prettier-ignore
  expect(begun.status).toBe(202);
  await expect.poll(() => stepsOf(lost)).toBeGreaterThan(0);
  await lost.kill();
  await expect.poll(() => stepsOf(heir)).toBeGreaterThan(0);
  const { state, nextStep } = await session.cancelRun(0);
  expect(state).toBe('cancelled');
  expect(await weightsOf(session)).toEqual((await unbrokenRun(nextStep)).weights);
});

it('a worker hangs that takes a run’s steps: its client does not wait for it', async () => {
  const { url, owner, workers } = await start('node', 2, BRIEF_HEARTBEAT);
  // A client's minute is seconds.
  const schedule: Timing['schedule'] = (milliseconds, callback) => SYSTEM_TIMING.schedule(milliseconds / 15, callback);
  const session = await begin(url, { ...SYSTEM_TIMING, schedule });
  const hung = await owner();
  const heir = workers.find((worker) => worker !== hung)!;
  const told: StepMetrics[] = [];
  const running = session.run(
    { ...PLAN, steps: LIMITS.runSteps },
    {
      onProgress: ({ metrics }) => {
        if (told.length === 0) process.kill(hung.pid, 'SIGSTOP');
        told.push(metrics);
      },
    },
  );
  await expect.poll(() => stepsOf(heir)).toBeGreaterThan(0);
  const { state, nextStep } = await session.cancelRun(0);
  expect(await running).toMatchObject({ state, nextStep });
  const unbroken = await unbrokenRun(nextStep);
  expect(told).toEqual(unbroken.told);
  expect(await weightsOf(session)).toEqual(unbroken.weights);
});
