/** A step as a graph is the same step computed operation by operation, to float32 rounding: every layer with every metric, and hosted models. */
import { describe, expect, it } from 'vitest';
import { createDeferredEngine } from '../../gpu-worker/tensor/deferred/engine.ts';
import type { Compile } from '../../gpu-worker/tensor/deferred/programs.ts';
import type { Engine } from '../../gpu-worker/tensor/engine.ts';
import { findBinding, loadBinding } from '../../gpu-worker/tensor/tensorflow/binding.ts';
import { createTensorFlowEngine } from '../../gpu-worker/tensor/tensorflow/operations.ts';
import { hostedTrainer } from '../../gpu-worker/training/hosted-trainer.ts';
import { layersTrainer } from '../../gpu-worker/training/layers-trainer.ts';
import type { Trainer } from '../../gpu-worker/training/trainer.ts';
import { hostedDefinitionSchema } from '../../shared/hosted-definition.ts';
import { layersDefinitionSchema, type LayersDefinitionInput } from '../../shared/layers-definition.ts';
import { seededRandom } from '../../shared/random.ts';
import { encode, readHeader, readValues } from '../../shared/safetensors.ts';
import { BATCH, randomStep } from './bodies.ts';

type LayerInput = LayersDefinitionInput['layers'][number];
type MetricInput = NonNullable<NonNullable<LayersDefinitionInput['optimizer']>['metric']>;

const STEPS = 4;
const TOLERANCE = 1e-4;

const LAYERS: readonly LayerInput[] = [
  { name: 'dense', kind: 'dense', inputs: 5, outputs: 4 },
  { name: 'sequence', kind: 'dense', inputs: 4, outputs: 3, sequence: true },
  { name: 'conv', kind: 'conv2d', height: 5, width: 4, inputs: 2, outputs: 4, kernel: [3, 2], groups: 2, strides: [2, 1], padding: { kind: 'same' } },
  { name: 'lowered', kind: 'conv2d', height: 5, width: 4, inputs: 4, outputs: 2, kernel: [3, 3], padding: { kind: 'same' } },
  { name: 'norm', kind: 'scale-shift', features: 4, sequence: true },
  { name: 'embedding', kind: 'embedding', inputs: 7, outputs: 3 },
  { name: 'generic', kind: 'generic', parameters: 5 },
]; // prettier-ignore
const METRICS: readonly MetricInput[] = [
  { kind: 'identity' },
  { kind: 'rmsprop' },
  { kind: 'adam' },
  { kind: 'kronecker', refreshEvery: 2, damping: 0.1 },
  { kind: 'ekfac', refreshEvery: 2, damping: 0.1 },
];

const file = findBinding();

function fail(reason: string): never {
  throw new Error(reason);
}

function engines(): { eager: Engine; compiled: Engine; graphs: () => number } {
  if (file === null) throw new Error('the tensorflow engine is not there');
  const { engine: eager, compile } = createTensorFlowEngine(loadBinding(file));
  let made = 0;
  const counting: Compile = (computation, inputs) => {
    made++;
    return compile(computation, inputs);
  };
  return { eager, compiled: createDeferredEngine(eager, counting, fail), graphs: () => made };
}

/** All numbers of an answer that is a safetensors file. */
function numbersOf(body: Uint8Array): number[] {
  const header = readHeader(body);
  return header.entries.flatMap((entry) => [...readValues(body, header, entry)]);
}

function expectClose(actual: readonly number[], expected: readonly number[]): void {
  expect(actual).toHaveLength(expected.length);
  const scale = Math.max(...expected.map(Math.abs));
  const errors = expected.map((value, index) => Math.abs(actual[index]! - value) / scale);
  expect(Math.max(...errors)).toBeLessThan(TOLERANCE);
}

describe.skipIf(file === null)('layers mode', () => {
  const cases = LAYERS.flatMap((layer) => METRICS.map((metric) => ({ layer, metric })));
  it.each(cases)('$layer.name with $metric.kind', ({ layer, metric }) => {
    const { eager, compiled, graphs } = engines();
    const definition = layersDefinitionSchema.parse({
      layers: [layer, { name: 'head', kind: 'dense', inputs: 3, outputs: 2 }],
      optimizer: { coupling: 'gauss-newton-step', metric, momentum: 0.5, learningRate: { kind: 'leverage', value: 3 } },
    });
    const random = seededRandom(3);
    const trainers = [layersTrainer(eager, definition), layersTrainer(compiled, definition)] as const;
    for (let step = 0; step < STEPS; step++) {
      const body = randomStep(definition, random);
      const [expected, actual] = trainers.map((trainer) => numbersOf(trainer.step(body).answer.body));
      expectClose(actual!, expected!);
    }
    expect(graphs()).toBeGreaterThan(0);
    for (const trainer of trainers) trainer.close();
  });

  it('policies, with weight decay and a regularised value function', () => {
    const { eager, compiled } = engines();
    const definition = layersDefinitionSchema.parse({
      layers: [
        { name: 'a', kind: 'dense', inputs: 3, outputs: 4 },
        { name: 'head', kind: 'dense', inputs: 4, outputs: 2 },
      ],
      optimizer: {
        weightDecay: { kind: 'running-cost', rate: 0.1 },
        valueRegularization: 0.1,
      },
    });
    const random = seededRandom(4);
    const trainers = [layersTrainer(eager, definition), layersTrainer(compiled, definition)] as const;
    for (let step = 0; step < STEPS; step++) {
      const body = randomStep(definition, random);
      const [expected, actual] = trainers.map((trainer) => numbersOf(trainer.step(body).answer.body));
      expectClose(actual!, expected!);
    }
  });
});

describe.skipIf(file === null)('hosted mode', () => {
  it.each(['feedback', 'value'] as const)('a convolutional model with norms, pooling and dropout, %s', (coupling) => {
    const { eager, compiled, graphs } = engines();
    const definition = hostedDefinitionSchema.parse({
      mode: 'hosted',
      model: {
        input: [6, 6, 1],
        layers: [
          { kind: 'conv2d', name: 'conv', outputs: 4, kernel: [3, 3], padding: { kind: 'same' } },
          { kind: 'batch-norm', name: 'norm' },
          { kind: 'relu' },
          { kind: 'max-pooling', window: [2, 2] },
          { kind: 'flatten' },
          { kind: 'dropout', rate: 0.2 },
          { kind: 'dense', name: 'head', outputs: 3 },
        ],
      },
      loss: { kind: 'softmax-cross-entropy' },
      optimizer: {
        coupling,
        learningRate: { kind: 'constant', value: 1 },
        metric: { kind: 'kronecker', refreshEvery: 2 },
      },
    });
    const random = seededRandom(5);
    const trainers: readonly [Trainer, Trainer] = [
      hostedTrainer(eager, definition),
      hostedTrainer(compiled, definition),
    ];
    for (let step = 0; step < STEPS; step++) {
      const x = Float32Array.from({ length: BATCH * 36 }, () => 2 * random() - 1);
      const y = Float32Array.from({ length: BATCH }, () => Math.floor(3 * random()));
      const body = encode([
        { name: 'x', shape: [BATCH, 6, 6, 1], values: x },
        { name: 'y', shape: [BATCH], values: y },
      ]);
      const [expected, actual] = trainers.map((trainer) => trainer.step(body).metrics);
      expect(Math.abs(actual!.lossAfter! - expected!.lossAfter!)).toBeLessThan(1e-3);
      const [weights, others] = trainers.map((trainer) => numbersOf(trainer.model!.weights().body));
      expectClose(others!, weights!);
    }
    // Those of steps that refresh the metric, and one of steps that do not.
    expect(graphs()).toBeLessThan(12);
    for (const trainer of trainers) trainer.close();
  });
});
