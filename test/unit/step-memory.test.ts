/**
 * The bytes that a step is said to take, against the tensors alive on wasm, which frees a tensor when it is told to. Factorisations are
 * made on the host there: they are in what is said, not in what is counted.
 */
import * as tf from '@tensorflow/tfjs-core';
import { expect, it } from 'vitest';
import { perceptron } from '../../bench/peers/networks.ts';
import { randomStepBody, type BodySizes, type Trained } from '../../bench/scaling/step-body.ts';
import { loadEngine } from '../../gpu-worker/tensor/index.ts';
import { hostedTrainer } from '../../gpu-worker/training/hosted-trainer.ts';
import { layersTrainer } from '../../gpu-worker/training/layers-trainer.ts';
import { hostedDefinitionSchema, type HostedDefinitionInput } from '../../shared/hosted-definition.ts';
import { layersDefinitionSchema, type LayersDefinitionInput } from '../../shared/layers-definition.ts';
import { stateBytes } from '../../shared/session.ts';
import { stepBytes } from '../../shared/step.ts';

const wasm = await loadEngine('wasm');

type OptimizerInput = NonNullable<HostedDefinitionInput['optimizer']>;

const learningRate = { kind: 'constant', value: 1e-3 } as const;
const hosted = (model: HostedDefinitionInput['model'], optimizer: OptimizerInput = {}): Trained =>
  hostedDefinitionSchema.parse({
    mode: 'hosted',
    model,
    loss: { kind: 'softmax-cross-entropy' },
    optimizer: { learningRate, ...optimizer },
  });
const inLayers = (input: LayersDefinitionInput): Trained => layersDefinitionSchema.parse(input);
const dense = perceptron([256, 256, 256, 256, 10]);
const deep = perceptron(Array.from({ length: 17 }, (_, t) => (t < 16 ? 128 : 10)));
const convolutions: HostedDefinitionInput['model'] = {
  input: [12, 12, 4],
  layers: [
    { kind: 'conv2d', name: 'a', outputs: 16, kernel: [3, 3], padding: { kind: 'same' } },
    { kind: 'relu' },
    { kind: 'conv2d', name: 'b', outputs: 16, kernel: [3, 3], padding: { kind: 'same' } },
    { kind: 'relu' },
    { kind: 'max-pooling', window: [2, 2] },
    { kind: 'flatten' },
    { kind: 'dense', name: 'c', outputs: 10 },
  ],
};
const sequence = inLayers({
  layers: [
    { name: 'words', kind: 'embedding', inputs: 200, outputs: 32 },
    { name: 'shared', kind: 'dense', inputs: 32, outputs: 64, sequence: true },
    { name: 'norm', kind: 'scale-shift', features: 64, sequence: true },
    { name: 'other', kind: 'generic', parameters: 3000 },
    { name: 'out', kind: 'dense', inputs: 64, outputs: 10 },
  ],
  optimizer: { coupling: 'value', learningRate },
});
const policy = inLayers({
  layers: ['a', 'b', 'c'].map((name) => ({ name, kind: 'dense', inputs: 300, outputs: 300 })),
});

const CASES: readonly (readonly [string, Trained, BodySizes])[] = [
  ['a few samples', hosted(dense), { batch: 16, positions: 1 }],
  ['a batch', hosted(dense), { batch: 512, positions: 1 }],
  ['conjugate gradients', hosted(dense, { solver: { choleskyRows: 100 } }), { batch: 512, positions: 1 }],
  ['a deep net', hosted(deep), { batch: 128, positions: 1 }],
  ['identity', hosted(dense, { metric: { kind: 'identity' } }), { batch: 256, positions: 1 }],
  ['adam', hosted(dense, { metric: { kind: 'adam' } }), { batch: 32, positions: 1 }],
  ['ekfac', hosted(dense, { metric: { kind: 'ekfac' } }), { batch: 32, positions: 1 }],
  ['no cross-sample terms', hosted(dense, { batchCoupling: 'diagonal' }), { batch: 512, positions: 1 }],
  ['ten columns', hosted(dense, { terminalCurvature: { kind: 'gauss-newton', columns: 10 } }), { batch: 32, positions: 1 }],
  ['momentum and lookahead', hosted(dense, { coupling: 'value', momentum: 0.5, lookahead: {} }), { batch: 64, positions: 1 }],
  ['convolutions', hosted(convolutions), { batch: 64, positions: 1 }],
  ['convolutions, ten columns', hosted(convolutions, { terminalCurvature: { kind: 'gauss-newton', columns: 10 } }), { batch: 8, positions: 1 }],
  ['layers of every kind', sequence, { batch: 64, positions: 20 }],
  ['policies', policy, { batch: 256, positions: 1 }],
]; // prettier-ignore

it.each(CASES)('%s', async (_, definition, sizes) => {
  const before = tf.memory().numBytes;
  const trainer = definition.mode === 'hosted' ? hostedTrainer(wasm, definition) : layersTrainer(wasm, definition);
  const body = randomStepBody(definition, sizes, 1);
  let peak = 0;
  for (let step = 0; step < 3; step++) {
    const { peakBytes } = await tf.profile(() => void trainer.step(body));
    peak = Math.max(peak, peakBytes - before);
  }
  trainer.close();
  const positions = new Map(['words', 'shared', 'norm'].map((name) => [name, sizes.positions]));
  const estimate = stateBytes(definition) + stepBytes(definition, sizes.batch, positions);
  expect(peak / estimate).toBeLessThan(1.15);
  expect(peak / estimate).toBeGreaterThan(0.4);
});
