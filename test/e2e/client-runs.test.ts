/** The client library's data sets and runs: uploads that go on where they broke off, runs that outlive a connection, and their end. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import { DdpnoptClient, samplesOf, type HostedTrainingSession, type RunProgress } from '../../clients/js/index.ts';
import { startStack, type LocalStack } from '../../deploy/local/stack.ts';
import { LIMITS } from '../../shared/limits.ts';
import { startCuttingProxy, type CuttingProxy } from './cutting-proxy.ts';
import { DATA, HOSTED, SAMPLES } from './data-sets.ts';

const PLAN = { batch: 6, order: { kind: 'shuffled', seed: 3 } } as const;
const { model, loss } = HOSTED;

let stack: LocalStack;
let proxy: CuttingProxy;
let client: DdpnoptClient;
beforeAll(async () => {
  stack = await startStack({ engine: 'reference' });
  proxy = await startCuttingProxy(stack.url);
  client = new DdpnoptClient({ url: proxy.url, retry: { baseMilliseconds: 1 } });
});
afterAll(async () => {
  proxy.close();
  await stack.stop();
});

async function withSession(work: (session: HostedTrainingSession) => Promise<void>): Promise<void> {
  const session = await client.createHostedSession({ model, loss });
  try {
    await work(session);
  } finally {
    proxy.set(null);
    await session.delete();
  }
}

it('sends a data set in chunks, each once, and more of it later', async () => {
  await withSession(async (session) => {
    const progress: number[] = [];
    const onProgress = ({ samples }: { samples: number }): number => progress.push(samples);
    const data = await session.uploadData(DATA, { chunkSamples: 15, onProgress });
    expect(data).toMatchObject({ samples: SAMPLES, missingChunks: [] });
    expect(progress).toEqual([15, 30, 40]);
    // Once more, as after a failure: asked for, and not sent again.
    proxy.set(null);
    expect(await session.uploadData(DATA, { chunkSamples: 15 })).toEqual(data);
    expect(proxy.passed().request.toString('latin1')).not.toContain('PUT ');
    const more = { x: DATA.x.subarray(0, 10), y: DATA.y.subarray(0, 2), sampleWeights: Float32Array.of(0.5, 2) };
    expect(await session.uploadData(more, { firstChunk: 3, sendAs: 'F16' })).toMatchObject({ samples: SAMPLES + 2 });
    await expect(session.uploadData(more, { chunkSamples: 15 })).rejects.toMatchObject({ code: 'chunk_conflict' });
    await expect(session.uploadData({ x: DATA.x.subarray(1), y: DATA.y })).rejects.toThrow(RangeError);
    await expect(session.uploadData(more, { chunkSamples: 0 })).rejects.toThrow(RangeError);
    await session.deleteData();
    expect(await session.data()).toMatchObject({ samples: 0 });
  });
});

it('a run takes the steps of the same batches, and reports them one by one', async () => {
  await withSession(async (session) => {
    await session.uploadData(DATA);
    const progress: RunProgress[] = [];
    const run = await session.run({ ...PLAN, steps: 9 }, { onProgress: (step) => progress.push(step) });
    expect(run).toMatchObject({ state: 'finished', firstStep: 0, nextStep: 9 });
    expect(progress.map(({ step, steps }) => [step, steps])).toEqual(Array.from({ length: 9 }, (_, k) => [k + 1, 9]));
    expect(session.nextStep).toBe(9);
    expect(session.history.records.map(({ metrics }) => metrics)).toEqual(progress.map(({ metrics }) => metrics));
    expect(await session.runs()).toEqual([run]);
    // The same, step by step; then both go on alike.
    await withSession(async (other) => {
      const of = samplesOf({ ...PLAN, samples: SAMPLES });
      for (let n = 0; n < 9; n++) {
        const indices = [...of(n)];
        const x = Float32Array.from(indices.flatMap((i) => [...DATA.x.subarray(5 * i, 5 * i + 5)]));
        const metrics = await other.step({ x, y: indices.map((i) => DATA.y[i]!) });
        expect(metrics).toEqual(progress[n]!.metrics);
      }
      expect(await other.weights()).toEqual(await session.weights());
    });
  });
});

it('goes on listening where the connection broke, and hears of every step', async () => {
  await withSession(async (session) => {
    await session.uploadData(DATA);
    const steps: number[] = [];
    let cuts = 0;
    const run = await session.run(
      { ...PLAN, steps: 300 },
      {
        onProgress: ({ metrics }) => {
          steps.push(metrics.step);
          // In the middle of an event.
          if (metrics.step === 20 || metrics.step === 100) {
            proxy.set({ side: 'answer', bytes: 333 });
            cuts++;
          }
        },
      },
    );
    expect(run.state).toBe('finished');
    expect(cuts).toBe(2);
    expect(steps).toEqual(Array.from({ length: 300 }, (_, n) => n));
  });
});

it('its signal cancels it; what it has taken counts', async () => {
  await withSession(async (session) => {
    await session.uploadData(DATA);
    const controller = new AbortController();
    const reason = new Error('enough');
    const running = session.run(
      { ...PLAN, steps: LIMITS.runSteps },
      {
        signal: controller.signal,
        onProgress: ({ step }) => {
          if (step === 5) controller.abort(reason);
        },
      },
    );
    await expect(session.run({ ...PLAN, steps: 1 })).rejects.toThrow(/wait for its end/);
    await expect(running).rejects.toBe(reason);
    const [run] = await session.runs();
    expect(run!.state).toBe('cancelled');
    expect(session.nextStep).toBe(run!.nextStep);
    expect((await session.run({ ...PLAN, steps: 2 })).firstStep).toBe(run!.nextStep);
    // Before it has begun there is nothing to cancel.
    await expect(session.run({ ...PLAN, steps: 1 }, { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
    expect((await session.step({ x: DATA.x.subarray(0, 30), y: DATA.y.subarray(0, 6) })).step).toBe(run!.nextStep + 2);
  });
});

it('a step that cannot be taken is its error', async () => {
  await withSession(async (session) => {
    await session.uploadData({ x: new Float32Array(10).fill(3e38), y: [0, 1] });
    const running = session.run({ steps: 3, batch: 2, order: { kind: 'sequential' } });
    await expect(running).rejects.toMatchObject({ name: 'RunError', run: { state: 'failed', problem: { code: 'numerical_failure' } } }); // prettier-ignore
    await expect(session.run({ steps: 3, batch: 4 })).rejects.toMatchObject({
      code: 'invalid_parameter',
      param: 'batch',
    });
  });
});
