/**
 * Runs on a session's data set at a worker: the same steps as a client's, also where the worker is killed with SIGKILL in the middle,
 * whatever it keeps sessions in.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { ServiceProcess } from '../../deploy/local/child.ts';
import { startWorker } from '../../deploy/local/worker.ts';
import { dataSetSchema, type DataSet } from '../../shared/data-set.ts';
import { LIMITS } from '../../shared/limits.ts';
import { runSchema, type Run, type RunOrderInput } from '../../shared/run.ts';
import type { StepMetrics } from '../../shared/session.ts';
import { startS3Server, type S3Server } from '../../bench/durability/s3-server.ts';
import { batches, chunk, CHUNKS, HOSTED, SAMPLES } from './data-sets.ts';
import { Listener } from './listener.ts';
import { call, json } from './support.ts';
import { folder, portOf, problemOf, start, WorkerSession } from './worker-session.ts';

const PLAN = { batch: 6, order: { kind: 'shuffled', seed: 3 } } as const;

class RunSession extends WorkerSession {
  get path(): string {
    return `/sessions/${this.id}`;
  }

  async upload(): Promise<DataSet> {
    // In any order.
    const chunks = [...CHUNKS().entries()].toReversed();
    let data: DataSet | null = null;
    for (const [k, body] of chunks) {
      const answer = await call(this.url, 'PUT', `${this.path}/data/${k}`, { body });
      expect(answer.status).toBe(200);
      data = dataSetSchema.parse(json(answer));
    }
    return data!;
  }

  begin(n: number, order: RunOrderInput) {
    return call(this.url, 'PUT', `${this.path}/runs/${n}`, { body: JSON.stringify(order) });
  }

  listen(n: number, order: RunOrderInput, after?: number): Promise<Listener> {
    const headers = { accept: 'text/event-stream', ...(after === undefined ? {} : { 'last-event-id': String(after) }) };
    const init = { method: 'PUT', body: JSON.stringify(order) };
    return Listener.open(this.url, `${this.path}/runs/${n}`, headers, init);
  }

  async run(n: number): Promise<Run> {
    return runSchema.parse(json(await call(this.url, 'GET', `${this.path}/runs/${n}`)));
  }

  /** Waits for the end of a run. */
  async ended(n: number): Promise<Run> {
    const { steps, batch, order } = await this.run(n);
    const listener = await this.listen(n, { steps, batch, order });
    for (;;) {
      const event = await listener.parsed();
      if (event === null) throw new Error('the stream ended before the run');
      if (event.event !== 'run') continue;
      const run = runSchema.parse(event.data);
      if (run.state !== 'running') return run;
    }
  }

  async change(changes: object): Promise<number> {
    const answer = await call(this.url, 'PATCH', this.path, { body: JSON.stringify(changes) });
    expect(answer.status).toBe(200);
    return (json(answer) as { optimizerFromStep: number }).optimizerFromStep;
  }
}

/** A client that takes the steps one by one, with the changes of the options from the steps on where a run was told of them. */
async function stepByStep(
  url: string,
  count: number,
  changes: ReadonlyMap<number, object> = new Map(),
): Promise<{ readonly state: unknown; readonly metrics: StepMetrics[] }> {
  const session = new RunSession(url);
  await session.create(HOSTED);
  const metrics: StepMetrics[] = [];
  for (const [n, body] of batches(PLAN, 0, count).entries()) {
    const change = changes.get(n);
    if (change !== undefined) await session.change(change);
    const answer = await session.step(n, body);
    expect(answer.status).toBe(200);
    metrics.push(json(answer) as StepMetrics);
  }
  return { state: await session.state(), metrics };
}

/** Keeps sessions in its memory alone. */
let undisturbed: ServiceProcess;
let url: string;
beforeAll(async () => {
  undisturbed = await startWorker({ port: 0, engine: 'reference' });
  ({ url } = undisturbed.ready);
});
afterAll(() => undisturbed.stop());

it('takes exactly the steps of a client with the same batches, in one run or in several', async () => {
  const expected = await stepByStep(url, 20);
  for (const lengths of [[20], [7, 13]]) {
    const session = new RunSession(url);
    await session.create(HOSTED);
    expect(await session.upload()).toMatchObject({ samples: SAMPLES, missingChunks: [] });
    let first = 0;
    const metrics: unknown[] = [];
    for (const steps of lengths) {
      const listener = await session.listen(first, { ...PLAN, steps });
      for (let event = await listener.parsed(); event !== null; event = await listener.parsed()) {
        if (event.event === 'step') metrics.push(event.data);
      }
      expect(await session.run(first)).toMatchObject({ state: 'finished', nextStep: first + steps, problem: null });
      first += steps;
    }
    expect(metrics).toEqual(expected.metrics);
    expect(await session.state()).toEqual(expected.state);
    // The reply of its last step is there for whoever asks.
    expect(json(await call(url, 'GET', `${session.path}/steps/19`))).toEqual(expected.metrics[19]);
    problemOf(await session.step(19, batches(PLAN, 0, 1)[0]!), 'step_conflict', 422);
  }
});

interface Store {
  readonly title: string;
  readonly settings: Readonly<Record<string, string>>;
  readonly isBucket: boolean;
}

describe.each<Store>([
  { title: 'a file without a snapshot', settings: {}, isBucket: false },
  { title: 'a file with a snapshot every 4 steps', settings: { DDPNOPT_SNAPSHOT_STEPS: '4' }, isBucket: false },
  { title: 'a bucket', settings: { DDPNOPT_SNAPSHOT_STEPS: '7' }, isBucket: true },
])('sessions in $title', ({ settings, isBucket }) => {
  let server: S3Server | null = null;
  beforeAll(async () => {
    if (isBucket) server = await startS3Server();
  });
  afterAll(() => server?.end());

  const storeOf = () => {
    if (server === null) return { storage: folder(), settings };
    return { storage: server.storage, settings: { ...server.settings, ...settings } };
  };

  it('kill -9 in the middle of a run, again and again: it goes on by itself, with the same result', async () => {
    const STEPS = 40;
    const store = storeOf();
    let worker = await start(store);
    const session = new RunSession(worker.ready.url);
    await session.create(HOSTED);
    await session.upload();
    const order = { ...PLAN, steps: STEPS };
    const changes = new Map<number, object>();
    const seen = new Map<number, unknown>();
    for (const goal of [5, 21, STEPS]) {
      const listener = await session.listen(0, order, Math.max(-1, ...seen.keys()));
      if (goal === 21) {
        const change = { optimizer: { learningRate: { value: 3 } } };
        changes.set(await session.change(change), change);
      }
      for (let last = -1; last < goal - 1;) {
        const event = (await listener.parsed())!;
        if (event.event !== 'step') continue;
        last = (event.data as StepMetrics).step;
        seen.set(last, event.data);
      }
      if (goal === STEPS) break;
      await worker.kill();
      await listener.close().catch(() => undefined);
      worker = await start({ ...store, port: portOf(worker) });
      // What was told of it is not taken back.
      const { nextStep } = await session.describe();
      expect(nextStep).toBeGreaterThanOrEqual(goal);
    }
    expect(await session.ended(0)).toMatchObject({ state: 'finished', nextStep: STEPS, steps: STEPS });
    const expected = await stepByStep(url, STEPS, changes);
    for (const [n, metrics] of seen) expect(metrics).toEqual(expected.metrics[n]);
    expect(await session.state()).toEqual(expected.state);
    expect((await call(session.url, 'DELETE', session.path)).status).toBe(204);
  });
});

describe('what has ended', () => {
  it('a data set that is deleted after a run is not needed any more', async () => {
    const store = { storage: folder() };
    let worker = await start(store);
    const session = new RunSession(worker.ready.url);
    await session.create(HOSTED);
    await session.upload();
    expect((await session.begin(0, { ...PLAN, steps: 6 })).status).toBe(202);
    await session.ended(0);
    expect((await call(session.url, 'DELETE', `${session.path}/data`)).status).toBe(204);
    problemOf(await session.begin(6, { ...PLAN, steps: 2 }), 'data_missing', 412);
    expect((await call(session.url, 'PUT', `${session.path}/data/0`, { body: chunk(0, 9) })).status).toBe(200);
    await worker.kill();
    worker = await start({ ...store, port: portOf(worker) });
    expect(await session.state()).toEqual((await stepByStep(url, 6)).state);
    expect(await session.run(0)).toMatchObject({ state: 'finished', nextStep: 6 });
    const data = dataSetSchema.parse(json(await call(session.url, 'GET', `${session.path}/data`)));
    expect(data).toMatchObject({ samples: 9, chunks: [{ chunk: 0, samples: 9 }] });
  });

  it('a cancelled run stays cancelled; a worker that is told to stop leaves a run to go on with', async () => {
    const store = { storage: folder() };
    let worker = await start(store);
    const session = new RunSession(worker.ready.url);
    await session.create(HOSTED);
    await session.upload();
    expect((await session.begin(0, { ...PLAN, steps: LIMITS.runSteps })).status).toBe(202);
    const answer = await call(session.url, 'DELETE', `${session.path}/runs/0`);
    const cancelled = runSchema.parse(json(answer));
    expect(cancelled).toMatchObject({ state: 'cancelled', problem: null });
    const { nextStep } = cancelled;
    const restart = async (how: 'kill' | 'stop'): Promise<void> => {
      await worker[how]();
      worker = await start({ ...store, port: portOf(worker) });
    };
    await restart('kill');
    expect(await session.run(0)).toEqual(cancelled);
    expect(await session.describe()).toMatchObject({ nextStep, run: null });

    const end = nextStep + 40;
    expect((await session.begin(nextStep, { ...PLAN, steps: 40 })).status).toBe(202);
    await restart('stop');
    expect(await session.ended(nextStep)).toMatchObject({ state: 'finished', nextStep: end });
    expect(await session.state()).toEqual((await stepByStep(url, end)).state);
  });
});

it('the runs of a worker that is started again go on without being asked for', async () => {
  const storage = folder();
  const worker = await start({ storage });
  const session = new RunSession(worker.ready.url);
  await session.create(HOSTED);
  await session.upload();
  const listener = await session.listen(0, { ...PLAN, steps: LIMITS.runSteps });
  await listener.parsed();
  await listener.parsed();
  await worker.kill();
  await listener.close().catch(() => undefined);
  const again = await start({ storage, port: portOf(worker) });
  const stepsOf = async (): Promise<number> => {
    const metrics = await (await fetch(`${again.ready.url}/metrics`)).text();
    return Number(/^ddpnopt_steps_total(?:\{[^}]*\})? (\d+)/m.exec(metrics)?.[1] ?? 0);
  };
  await expect.poll(stepsOf).toBeGreaterThan(5);
});
