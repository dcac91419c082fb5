/** Estimates against what is really sent, answered and refused. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { DdpnoptClient, type Estimate } from '../../clients/js/index.ts';
import { startStack, type LocalStack } from '../../deploy/local/stack.ts';
import { estimateSchema } from '../../shared/estimate.ts';
import { LIMITS } from '../../shared/limits.ts';
import { seededRandom } from '../../shared/random.ts';
import { readHeader } from '../../shared/safetensors.ts';
import { sessionDefinitionSchema, stateBytes, type SessionDefinitionInput } from '../../shared/session.ts';
import { stepBytes } from '../../shared/step.ts';
import { BATCH, MODEL, randomStep } from '../conformance/bodies.ts';
import { call, create, expectProblem, json, LAYERS, newSession, putStep } from './support.ts';

let stack: LocalStack;
let client: DdpnoptClient;
beforeAll(async () => {
  stack = await startStack({ engine: 'wasm' });
  client = new DdpnoptClient({ url: stack.url });
});
afterAll(() => stack.stop());

/** Positions of a sequence in the random steps. */
const POSITIONS = 3;

async function estimate(order: Record<string, unknown>): Promise<Estimate> {
  const answer = await call(stack.url, 'POST', '/v1/estimates', {
    body: JSON.stringify(order),
    type: 'application/json',
  });
  expect(answer.status).toBe(200);
  return estimateSchema.parse(json(answer));
}

describe('bytes', () => {
  it.each<{ readonly title: string; readonly session: SessionDefinitionInput }>([
    { title: 'updates', session: { layers: LAYERS, optimizer: { coupling: 'value' } } },
    {
      title: 'updates in half precision',
      session: { layers: LAYERS, optimizer: { coupling: 'value' }, transport: { reply: 'f16' } },
    },
    { title: 'sample factors', session: { layers: LAYERS, policyEncoding: 'sample-factors' } },
    {
      title: 'inverse factors of the identity, without cross-sample terms',
      session: {
        layers: LAYERS,
        policyEncoding: 'inverse-factors',
        optimizer: { metric: { kind: 'identity' }, batchCoupling: 'diagonal' },
      },
    },
    { title: 'inverse diagonals', session: { layers: LAYERS, optimizer: { metric: { kind: 'adam' } } } },
    {
      title: 'layers of many kinds, with columns and weight decay',
      session: {
        layers: [
          { name: 'words', kind: 'embedding', inputs: 7, outputs: 3 },
          { name: 'sequence', kind: 'dense', inputs: 3, outputs: 5, sequence: true },
          { name: 'grouped', kind: 'conv2d', height: 4, width: 4, inputs: 4, outputs: 6, kernel: [3, 3], groups: 2 },
          { name: 'norm', kind: 'scale-shift', features: 6 },
          { name: 'own', kind: 'generic', parameters: 11 },
        ],
        optimizer: {
          coupling: 'gauss-newton-step',
          terminalCurvature: { kind: 'gauss-newton', columns: 2 },
          weightDecay: { kind: 'running-cost', rate: 0.1 },
        },
      },
    },
    {
      title: 'kernels',
      session: { mode: 'kernel', layers: [{ name: 'a' }, { name: 'b' }], optimizer: { coupling: 'value' } },
    },
    { title: 'kernels, answered by factors', session: { mode: 'kernel', layers: [{ name: 'a' }] } },
    { title: 'a hosted model', session: { mode: 'hosted', model: MODEL, loss: { kind: 'softmax-cross-entropy' } } },
  ])('$title: those of a real step and its reply, exactly', async ({ session }) => {
    const definition = sessionDefinitionSchema.parse(session);
    const positions = { words: POSITIONS, sequence: POSITIONS };
    const estimated = await estimate({ session, batch: BATCH, positions });
    const body = randomStep(definition, seededRandom(1));
    expect(estimated.request).toEqual({ bytes: body.length, statisticsBytes: null });
    expect(estimated).toMatchObject({ accepted: true, problems: [] });
    const { id } = await newSession(stack.url, session);
    const answer = await putStep(stack.url, id, 0, body);
    expect(answer.status).toBe(200);
    if (definition.mode === 'hosted') expect(estimated.reply).toEqual({ bytes: 0, refreshedBytes: 0 });
    else expect(estimated.reply.refreshedBytes).toBe(answer.bytes.length - readHeader(answer.bytes).dataStart);
    // What the worker counts.
    expect(estimated.memory.stateBytes).toBe(stateBytes(definition));
    const places = new Map(Object.entries(positions));
    expect(estimated.memory.stepBytes).toBe(definition.mode === 'kernel' ? null : stepBytes(definition, BATCH, places));
  });

  it.each(['F32', 'F16'] as const)('of what the client library sends, in %s', async (dtype) => {
    const sendAs = dtype === 'F32' ? {} : { sendAs: dtype };
    const layered = await client.createSession({ layers: [...LAYERS], policyEncoding: 'inverse-factors' });
    const filled = (width: number): Float32Array => new Float32Array(4 * width).fill(0.5);
    const input = {
      losses: new Float32Array(4).fill(1),
      layers: {
        fc1: { input: filled(5), outputGradient: filled(4) },
        fc2: { input: filled(4), outputGradient: filled(3) },
      },
    };
    const estimated = await client.estimate({ layers: [...LAYERS], policyEncoding: 'inverse-factors' }, 4, {
      sendAs: dtype,
    });
    for (let n = 0; n < 2; n++) {
      const { bytesSent, bytesReceived } = await layered.step(input, sendAs);
      expect(bytesSent).toBe(estimated.request.bytes);
      // The first reply has the inverses, the second has none; both have a header.
      const tensors = n === 0 ? estimated.reply.refreshedBytes : estimated.reply.bytes;
      expect(bytesReceived).toBeGreaterThan(tensors);
      expect(bytesReceived).toBeLessThan(tensors + 1500);
    }

    const definition = {
      mode: 'kernel',
      layers: [{ name: 'a', factors: { inputs: 3, outputs: 2 } }],
      optimizer: { metric: { kind: 'kronecker' }, coupling: 'value' },
    } satisfies SessionDefinitionInput;
    const kernels = await client.createKernelSession(definition);
    const { request } = await client.estimate(definition, 2, { sendAs: dtype });
    const gram = Float32Array.of(2, 1, 1, 2);
    const factors = { input: Float32Array.of(1, 0, 0, 0, 1, 0, 0, 0, 1), outputGradient: Float32Array.of(1, 0, 0, 1) };
    const losses = Float32Array.of(1, 2);
    const withStatistics = await kernels.step({ losses, layers: { a: { gram, factors } } }, sendAs);
    const without = await kernels.step({ losses, layers: { a: { gram } } }, sendAs);
    expect([without.bytesSent, withStatistics.bytesSent]).toEqual([request.bytes, request.statisticsBytes]);
  });
});

describe('operations', () => {
  const MLP = (optimizer: object) => ({
    session: {
      mode: 'hosted',
      model: {
        input: [10],
        layers: [
          { kind: 'dense', name: 'a', outputs: 20, bias: false },
          { kind: 'tanh' },
          { kind: 'dense', name: 'b', outputs: 5, bias: false },
        ],
      },
      loss: { kind: 'softmax-cross-entropy' },
      optimizer,
    },
  });

  it('are those of the formulas', async () => {
    const { operations } = await estimate({ ...MLP({ metric: { kind: 'kronecker' }, coupling: 'value' }), batch: 4 });
    const forward = 4 * (10 * 20 + 20 + 20 * 5);
    expect(operations).toEqual({
      passes: 3 * forward,
      tangentKernels: 4 * (10 ** 2 + 20 ** 2) + 4 ** 2 * (10 + 20) + 4 * (20 ** 2 + 5 ** 2) + 4 ** 2 * (20 + 5),
      systems: (2 * 4 ** 3) / 3,
      refresh: 10 ** 3 + 20 ** 3 + 20 ** 3 + 5 ** 3,
    });
  });

  it('count a second forward pass, iterations, and no systems without cross-sample terms', async () => {
    const value = await estimate({ ...MLP({ coupling: 'value' }), batch: 600 });
    const feedback = await estimate({ ...MLP({}), batch: 600 });
    expect(feedback.operations.passes / value.operations.passes).toBeCloseTo(4 / 3, 12);
    expect(value.operations.systems).toBe(2 * 600 ** 2 * 10);
    const diagonal = await estimate({ ...MLP({ batchCoupling: 'diagonal' }), batch: 600 });
    expect(diagonal.operations.systems).toBe(0);
    expect(diagonal.operations.tangentKernels).toBeLessThan(value.operations.tangentKernels);
  });
});

describe('what would be refused', () => {
  it('a step: with the words that the step itself is refused with', async () => {
    const layers = [{ name: 'fc', kind: 'dense', inputs: 1, outputs: 1 }] as const;
    const session = { layers: Array.from({ length: 4 }, (_, t) => ({ ...layers[0], name: `l${t}` })) };
    const { accepted, problems } = await estimate({ session, batch: 2048 });
    expect(accepted).toBe(false);
    expect(problems).toEqual([expect.objectContaining({ code: 'step_too_large', param: 'losses' })]);
    expect(problems[0]!.remedy).toMatch(/at most [0-9]+ samples/);
    const most = Number(/at most ([0-9]+) samples/.exec(problems[0]!.remedy)![1]);
    expect(await estimate({ session, batch: most })).toMatchObject({ accepted: true });
    expect(await estimate({ session, batch: most + 1 })).toMatchObject({ accepted: false });
  });

  it('a body, a batch and a state that are too large', async () => {
    const wide = {
      layers: [{ name: 'fc', kind: 'dense', inputs: 16_000, outputs: 16_000 }],
      optimizer: { metric: { kind: 'adam' } },
    };
    const { problems, memory } = await estimate({ session: wide, batch: 1000 });
    expect(problems.map(({ code }) => code)).toContain('body_too_large');
    expect(problems.map(({ code }) => code)).toContain('session_limit_reached');
    expect(memory.stateBytes).toBeGreaterThan(LIMITS.stateBytes);
    expectProblem(await create(stack.url, wide), { status: 503, code: 'session_limit_reached' });
    const many = await estimate({ session: { layers: LAYERS }, batch: 5000 });
    expect(many.problems.map(({ code }) => code)).toEqual(['shape_mismatch']);
  });

  it('a definition that is none is refused as it is', async () => {
    const send = (order: unknown) =>
      call(stack.url, 'POST', '/v1/estimates', { body: JSON.stringify(order), type: 'application/json' });
    const expected = { status: 422, code: 'invalid_parameter' } as const;
    expectProblem(await send({ session: { layers: [] }, batch: 2 }), { ...expected, param: 'session.layers' });
    expectProblem(await send({ session: { layers: LAYERS }, batch: 0 }), { ...expected, param: 'batch' });
    expectProblem(await send({ session: { layers: LAYERS } }), { ...expected, param: 'batch' });
    expectProblem(await send({ session: { layers: LAYERS }, batch: 2, sendAs: 'I8' }), {
      ...expected,
      param: 'sendAs',
    });
  });
});
