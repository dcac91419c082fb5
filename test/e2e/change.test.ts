/** PATCH of a session: options that change between two steps, in their turn, once, and for good. */
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { DdpnoptClient } from '../../clients/js/index.ts';
import { startEdge } from '../../deploy/local/edge.ts';
import type { ServiceProcess } from '../../deploy/local/child.ts';
import { encode } from '../../shared/safetensors.ts';
import { sessionSchema, type Session, type SessionDefinitionInput } from '../../shared/session.ts';
import { startHeldWorker, type HeldWorker } from './held-worker.ts';
import {
  call,
  describeSession,
  expectProblem,
  json,
  LAYERS,
  newSession,
  putStep,
  stepBody,
  stepTensors,
  type Answer,
} from './support.ts';
import { serveTests } from './stack.ts';

const stack = serveTests({ engine: 'reference' });

const VALUE = {
  layers: LAYERS,
  optimizer: { coupling: 'value', learningRate: { kind: 'constant', value: 10 } },
} satisfies SessionDefinitionInput;

function patch(id: string, changes: unknown, url = stack.url, type = 'application/merge-patch+json'): Promise<Answer> {
  return call(url, 'PATCH', `/v1/sessions/${id}`, { body: JSON.stringify(changes), type });
}

async function changed(id: string, changes: unknown): Promise<Session> {
  const answer = await patch(id, changes);
  expect(answer.status).toBe(200);
  return sessionSchema.parse(json(answer));
}

async function step(id: string, n: number): Promise<string> {
  const answer = await putStep(stack.url, id, n, stepBody(n + 1));
  expect(answer.status).toBe(200);
  return Buffer.from(answer.bytes).toString('base64');
}

describe('what changes', () => {
  it('holds from the next step on, as if the session had been created with it', async () => {
    const first = {
      ...VALUE,
      optimizer: { ...VALUE.optimizer, learningRate: { kind: 'constant', value: 3 } },
    } as const;
    const { id } = await newSession(stack.url, first);
    const { id: other } = await newSession(stack.url, VALUE);
    const before = await step(id, 0);
    const session = await changed(id, { optimizer: { learningRate: { value: 10 } } });
    expect(session).toMatchObject({ nextStep: 1, optimizerFromStep: 1 });
    expect(session.optimizer.learningRate).toEqual({ kind: 'constant', value: 10, warmUpSteps: 0 });
    expect(await describeSession(stack.url, id)).toMatchObject({ optimizerFromStep: 1, optimizer: session.optimizer });
    // With metric statistics independent of η the second steps agree.
    expect(await step(other, 0)).not.toBe(before);
    expect(await step(id, 1)).toBe(await step(other, 1));
  });

  it('is another rule, of which nothing is left of the old one', async () => {
    const { id } = await newSession(stack.url, { layers: LAYERS });
    const { optimizer } = await changed(id, { optimizer: { learningRate: { kind: 'constant', value: 1 } } });
    expect(optimizer.learningRate).toEqual({ kind: 'constant', value: 1, warmUpSteps: 0 });
    const back = await changed(id, { optimizer: { learningRate: null } });
    expect(back.optimizer.learningRate).toEqual({ kind: 'leverage', value: 10, decay: 0.9, warmUpSteps: 10 });
  });

  it('is merged member by member; null takes an option back to its default', async () => {
    const { id } = await newSession(stack.url, VALUE);
    const session = await changed(id, {
      optimizer: {
        metric: { damping: 0.5, refreshEvery: 3 },
        momentum: 0.5,
        weightDecay: { kind: 'decoupled', rate: 0.1 },
      },
      ttlSeconds: 100,
    });
    expect(session.optimizer).toMatchObject({
      metric: { kind: 'kronecker', damping: 0.5, refreshEvery: 3, decay: 0.95 },
      momentum: 0.5,
      weightDecay: { kind: 'decoupled', rate: 0.1, biases: false },
    });
    expect(session.ttlSeconds).toBe(100);
    const back = await changed(id, {
      optimizer: { metric: { damping: null }, momentum: null, weightDecay: null },
      ttlSeconds: null,
    });
    expect(back.optimizer).toMatchObject({ metric: { damping: 0.01, refreshEvery: 3 }, weightDecay: null });
    expect(back.ttlSeconds).toBe(3600);
  });

  it('changes nothing the second time', async () => {
    const { id } = await newSession(stack.url, VALUE);
    const changes = { optimizer: { learningRate: { value: 2 } } };
    await step(id, 0);
    await changed(id, changes);
    await step(id, 1);
    expect(await changed(id, changes)).toMatchObject({ nextStep: 2, optimizerFromStep: 1 });
    expect(await changed(id, {})).toMatchObject({ nextStep: 2, optimizerFromStep: 1 });
    // The lifetime has no step.
    expect(await changed(id, { ttlSeconds: 60 })).toMatchObject({ ttlSeconds: 60, optimizerFromStep: 1 });
  });

  it('can change what a step carries and is answered with', async () => {
    const { id } = await newSession(stack.url, VALUE);
    await step(id, 0);
    await changed(id, { optimizer: { weightDecay: { kind: 'decoupled', rate: 0.1 } } });
    expectProblem(await putStep(stack.url, id, 1, stepBody(2)), {
      status: 422,
      code: 'missing_tensor',
      param: 'layers.fc1.parameter.weight',
    });
    await changed(id, { optimizer: { weightDecay: null, coupling: 'feedback' } });
    expect(Buffer.from(await step(id, 1), 'base64').toString('latin1')).toContain('layers.fc1.policy.chol');
  });

  it('keeps versions of inverses growing when refreshes become rare', async () => {
    const client = new DdpnoptClient({ url: stack.url });
    const session = await client.createSession({
      layers: [...LAYERS],
      policyEncoding: 'inverse-factors',
      optimizer: { metric: { kind: 'kronecker', refreshEvery: 1 } },
    });
    const values = (width: number): Float64Array => new Float64Array(6 * width).fill(0.5);
    const input = {
      losses: new Float64Array(6).fill(1),
      layers: {
        fc1: { input: values(5), outputGradient: values(4) },
        fc2: { input: values(4), outputGradient: values(3) },
      },
    };
    for (let n = 0; n < 4; n++) await session.step(input);
    await session.change({ optimizer: { metric: { refreshEvery: 3 } } });
    const refreshed: boolean[] = [];
    for (let n = 4; n < 8; n++) refreshed.push((await session.step(input)).metrics.refreshed);
    expect(refreshed).toEqual([false, false, true, false]);
    expect(session.session.optimizer.metric).toMatchObject({ refreshEvery: 3 });
    await session.delete();
  });
});

describe('what is refused, and changes nothing', () => {
  it.each([
    {
      changes: { optimizer: { metric: { kind: 'identity' } } },
      code: 'option_fixed',
      param: 'optimizer.metric.kind',
    },
    {
      changes: { optimizer: { metric: { kind: 'ekfac', damping: 0.1 } } },
      code: 'option_fixed',
      param: 'optimizer.metric.kind',
    },
    {
      changes: { optimizer: { metric: { firstInputFactor: { kind: 'frozen' } } } },
      code: 'option_fixed',
      param: 'optimizer.metric.firstInputFactor',
    },
    { changes: { layers: [] }, code: 'invalid_parameter', param: 'layers' },
    { changes: { seed: 3 }, code: 'invalid_parameter', param: 'seed' },
    { changes: { optimizer: 3 }, code: 'invalid_parameter', param: 'optimizer' },
    { changes: [], code: 'invalid_parameter', param: undefined },
    {
      changes: { optimizer: { learningRate: { value: -1 } } },
      code: 'invalid_parameter',
      param: 'optimizer.learningRate.value',
    },
    {
      changes: { optimizer: { metric: { refreshLag: 11 } } },
      code: 'invalid_parameter',
      param: 'optimizer.metric.refreshLag',
    },
    { changes: { optimizer: { lerningRate: {} } }, code: 'invalid_parameter', param: 'optimizer.lerningRate' },
    { changes: { ttlSeconds: 1 }, code: 'invalid_parameter', param: 'ttlSeconds' },
    // Rules over several fields hold for the whole.
    {
      changes: { optimizer: { coupling: 'feedback', momentum: 0.5 } },
      code: 'invalid_parameter',
      param: 'optimizer.coupling',
    },
  ] as const)('$param: $changes', async ({ changes, code, param }) => {
    const { id } = await newSession(stack.url, VALUE);
    const before = await describeSession(stack.url, id);
    expectProblem(await patch(id, changes), { status: 422, code, param });
    expect(await describeSession(stack.url, id)).toMatchObject({ optimizer: before.optimizer, ttlSeconds: 3600 });
  });

  it('an unknown session, another content type', async () => {
    expectProblem(await patch('ses_0', {}), { status: 404, code: 'session_not_found' });
    const { id } = await newSession(stack.url);
    expectProblem(await patch(id, {}, stack.url, 'text/plain'), { status: 415, code: 'unsupported_media_type' });
    expect((await patch(id, {}, stack.url, 'application/json')).status).toBe(200);
  });
});

describe('at the same time as steps', () => {
  let worker: HeldWorker;
  let edge: ServiceProcess;
  beforeEach(async () => {
    worker = await startHeldWorker();
    edge = await startEdge({ port: 0, workerUrl: worker.url });
  });
  afterEach(async () => {
    await edge.stop();
    await worker.stop();
  });

  it('is seen by an edge that knows the session as it was', async () => {
    const { url } = edge.ready;
    const { id } = await newSession(url, VALUE);
    expect((await putStep(url, id, 0, stepBody(1))).status).toBe(200);
    // As through another edge.
    const changes = { optimizer: { weightDecay: { kind: 'decoupled', rate: 0.1 } } };
    const answer = await call(worker.url, 'PATCH', `/sessions/${id}`, { body: JSON.stringify(changes) });
    expect(answer.status).toBe(200);
    const decaying = encode([
      ...stepTensors(2),
      { name: 'layers.fc1.parameter.weight', shape: [5, 4], values: new Float32Array(20) },
      { name: 'layers.fc2.parameter.weight', shape: [4, 3], values: new Float32Array(12) },
    ]);
    expectProblem(await putStep(url, id, 1, stepBody(2)), { status: 422, code: 'missing_tensor' });
    expect((await putStep(url, id, 1, decaying)).status).toBe(200);
  });

  it('waits for the step that is being computed, and for those before it', async () => {
    const { url } = edge.ready;
    const { id } = await newSession(url, VALUE);
    const release = worker.hold();
    const first = putStep(url, id, 0, stepBody(1));
    await expect.poll(() => worker.computed.filter((kind) => kind === 'step')).toHaveLength(1);
    const change = patch(id, { optimizer: { learningRate: { value: 1 } } }, url);
    await expect.poll(() => worker.queue.length).toBe(1);
    release();
    const session = sessionSchema.parse(json(await change));
    expect(session).toMatchObject({ nextStep: 1, optimizerFromStep: 1, metrics: { step: 0, learningRate: 10 } });
    expect((await first).status).toBe(200);
    await putStep(url, id, 1, stepBody(2));
    expect((await describeSession(url, id)).metrics).toMatchObject({ step: 1, learningRate: 1 });
  });
});
