/** The client library in hosted mode: what it sends, what it gives, what it refuses, and that it trains. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { loadDigits } from '../../clients/datasets/digits/digits.ts';
import { DdpnoptClient, DdpnoptError, type HostedTrainingSession } from '../../clients/js/index.ts';
import { miniBatches, split } from '../../clients/train/data.ts';
import { startStack, type LocalStack } from '../../deploy/local/stack.ts';
import type { HostedDefinitionInput } from '../../shared/hosted-definition.ts';
import type { LayersDefinitionInput } from '../../shared/layers-definition.ts';
import { seededRandom } from '../../shared/random.ts';
import { LAYERS } from './support.ts';

let stack: LocalStack;
let client: DdpnoptClient;
beforeAll(async () => {
  stack = await startStack({ engine: 'wasm' });
  client = new DdpnoptClient({ url: stack.url });
});
afterAll(() => stack.stop());

const DEFINITION: Omit<HostedDefinitionInput, 'mode'> = {
  model: { input: [2], layers: [{ kind: 'dense', name: 'line', outputs: 1 }] },
  loss: { kind: 'mse' },
  optimizer: { coupling: 'value' },
};
const BATCH = { x: Float32Array.of(1, 0, 0, 1, 1, 1), y: [3, -2, 1] };

const weightsOf = async (session: HostedTrainingSession) => Object.fromEntries(await session.weights());

it('creates, steps, reads, predicts, opens again and deletes', async () => {
  const session = await client.createHostedSession(DEFINITION);
  expect(session.session).toMatchObject({ mode: 'hosted', nextStep: 0, metrics: null });
  const initial = await weightsOf(session);
  expect(initial).toMatchObject({ 'layers.line.weight': { shape: [2, 1] }, 'layers.line.bias': { shape: [1], values: Float32Array.of(0) } }); // prettier-ignore

  const [a, b] = initial['layers.line.weight']!.values;
  const before = await session.predict({ x: BATCH.x, y: BATCH.y });
  expect([...before.outputs]).toEqual([a!, b!, a! + b!].map((value) => expect.closeTo(value, 6) as number));
  const errors = [a! - 3, b! + 2, a! + b! - 1];
  expect(before.loss).toBeCloseTo(
    errors.reduce((sum, error) => sum + (error * error) / 6, 0),
    5,
  );

  const metrics = await session.step(BATCH);
  expect(metrics).toMatchObject({ step: 0, batch: 3 });
  expect(metrics.loss).toBeCloseTo(before.loss!, 5);
  // Without feedback there is no second pass that would know it.
  expect(metrics.lossAfter).toBeNull();
  expect(session.nextStep).toBe(1);
  expect(await session.describe()).toMatchObject({ nextStep: 1, metrics });
  expect(await weightsOf(session)).not.toEqual(initial);
  expect(await session.predict({ x: BATCH.x })).toMatchObject({ loss: null });
  expect((await session.predict({ x: BATCH.x, y: BATCH.y })).loss).toBeLessThan(metrics.loss);

  const opened = await client.openHostedSession(session.session.id);
  expect(opened.nextStep).toBe(1);
  expect(await weightsOf(opened)).toEqual(await weightsOf(session));
  expect((await opened.step(BATCH)).step).toBe(1);
  // To the first one it is as if its reply had been lost.
  expect((await session.step(BATCH)).step).toBe(1);
  expect(await session.describe()).toMatchObject({ nextStep: 2 });

  await session.delete();
  for (const request of [() => session.step(BATCH), () => session.weights(), () => session.predict({ x: BATCH.x })]) {
    await expect(request()).rejects.toMatchObject({ problem: { code: 'session_not_found' } });
  }
});

it('sends labels, sample weights and images', async () => {
  const session = await client.createHostedSession({
    model: { input: [2, 2, 1], layers: [{ kind: 'flatten' }, { kind: 'dense', name: 'out', outputs: 2 }] },
    loss: { kind: 'softmax-cross-entropy' },
  });
  const x = Float64Array.from({ length: 12 }, (_, i) => Math.sin(i));
  const { loss } = await session.predict({ x, y: Uint8Array.of(0, 1, 1) });
  const metrics = await session.step({ x, y: [0, 1, 1], sampleWeights: Float32Array.of(2, 2, 2) });
  expect(metrics).toMatchObject({ batch: 3 });
  expect(metrics.loss).toBeCloseTo(2 * loss!, 5);
  await session.delete();
});

describe('what it refuses', () => {
  it('a session of the other mode', async () => {
    const hosted = await client.createHostedSession(DEFINITION);
    const layered = await client.createSession({ layers: LAYERS });
    const { id } = hosted.session;
    await expect(client.openSession(id)).rejects.toThrow(TypeError);
    await expect(client.openSession(id)).rejects.toThrow(`session ${id} is in mode "hosted"; open it with openHostedSession`); // prettier-ignore
    const { id: other } = layered.session;
    await expect(client.openHostedSession(other)).rejects.toThrow(TypeError);
    await expect(client.openHostedSession(other)).rejects.toThrow(`session ${other} is in mode "layers"; open it with openSession`); // prettier-ignore
    await hosted.delete();
    await layered.delete();
  });

  it('a definition of the other mode, before there is a session', async () => {
    const small = await startStack({ engine: 'reference', maximumSessions: 1 });
    try {
      const one = new DdpnoptClient({ url: small.url });
      const hosted = { mode: 'hosted', ...DEFINITION };
      const layered = { mode: 'layers', layers: LAYERS };
      const asLayered = one.createSession(hosted as unknown as LayersDefinitionInput);
      await expect(asLayered).rejects.toThrow(new TypeError('the definition is in mode "hosted"; create it with createHostedSession')); // prettier-ignore
      const asHosted = one.createHostedSession(layered as unknown as HostedDefinitionInput);
      await expect(asHosted).rejects.toThrow(new TypeError('the definition is in mode "layers"; create it with createSession')); // prettier-ignore
      // There is still room for the only one.
      await one.createHostedSession(DEFINITION);
    } finally {
      await small.stop();
    }
  });

  it('values that are no whole samples, before they are sent', async () => {
    const session = await client.createHostedSession({
      ...DEFINITION,
      model: { input: [3], layers: [{ kind: 'dense', name: 'out', outputs: 2 }] },
    });
    const x = new Float32Array(6);
    const y = new Float32Array(4);
    await expect(session.step({ x: new Float32Array(7), y })).rejects.toThrow(new RangeError('x has 7 values; a sample has 3')); // prettier-ignore
    await expect(session.step({ x, y: [1, 2, 3] })).rejects.toThrow(new RangeError('y has 3 values; a sample has 2'));
    await expect(session.predict({ x: new Float32Array(2) })).rejects.toThrow(RangeError);
    expect(session.nextStep).toBe(0);
    expect((await session.step({ x, y })).step).toBe(0);
    await session.delete();
  });

  it('what the service refuses, with its problem; the step can be taken again', async () => {
    const session = await client.createHostedSession(DEFINITION);
    const bad = session.step({ ...BATCH, sampleWeights: Float32Array.of(1, -1, 1) });
    await expect(bad).rejects.toThrow(DdpnoptError);
    await expect(bad).rejects.toThrow(/sample_weights\[1\] is -1/);
    await expect(session.step({ ...BATCH, y: [1, 2] })).rejects.toMatchObject({ problem: { code: 'shape_mismatch', param: 'y' } }); // prettier-ignore
    await expect(client.createHostedSession({ ...DEFINITION, model: { input: [2], layers: [] } })).rejects.toMatchObject({ problem: { code: 'invalid_parameter', param: 'model.layers' } }); // prettier-ignore
    expect((await session.step(BATCH)).step).toBe(0);
    await session.delete();
  });

  it('to go on when it is told to stop', async () => {
    const session = await client.createHostedSession(DEFINITION);
    const signal = AbortSignal.abort();
    for (const request of [
      () => session.step(BATCH, { signal }),
      () => session.weights({ signal }),
      () => session.predict(BATCH, { signal }),
    ]) {
      await expect(request()).rejects.toMatchObject({ name: 'AbortError' });
    }
    expect((await session.step(BATCH)).step).toBe(0);
    await session.delete();
  });
});

it('trains DIGITS: one epoch of a dense net gets more than 90 % of the test images right', async () => {
  const { train, test } = split(await loadDigits(), 0.2, seededRandom(1));
  const session = await client.createHostedSession({
    model: {
      input: [64],
      layers: [{ kind: 'dense', name: 'hidden', outputs: 32 }, { kind: 'relu' }, { kind: 'dense', name: 'out', outputs: 10 }],
    }, // prettier-ignore
    loss: { kind: 'softmax-cross-entropy' },
  });
  const random = seededRandom(2);
  for (const { inputs, labels } of miniBatches(train, 64, random)) await session.step({ x: inputs, y: labels });
  const { outputs } = await session.predict({ x: test.inputs });
  const right = test.labels.filter((label, i) => {
    const row = outputs.subarray(10 * i, 10 * i + 10);
    return row.indexOf(Math.max(...row)) === label;
  });
  expect(right.length / test.size).toBeGreaterThan(0.9);
  await session.delete();
});
