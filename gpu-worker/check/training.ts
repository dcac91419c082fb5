/** The optimizer's steps on an engine, held against the float64 reference: every layer with every metric, and hosted models. */
import { hostedDefinitionSchema, type HostedDefinitionInput } from '../../shared/hosted-definition.ts';
import { HOSTED_TENSOR } from '../../shared/hosted-tensors.ts';
import {
  layersDefinitionSchema,
  type LayersDefinition,
  type LayersDefinitionInput,
} from '../../shared/layers-definition.ts';
import { seededRandom, type Random } from '../../shared/random.ts';
import { encode, readHeader, readValues } from '../../shared/safetensors.ts';
import { elementCount } from '../../shared/shape.ts';
import { expectedTensors } from '../../shared/step.ts';
import type { Engine } from '../tensor/engine.ts';
import { hostedTrainer } from '../training/hosted-trainer.ts';
import { layersTrainer } from '../training/layers-trainer.ts';
import { relativeError, type Comparison } from './comparison.ts';

type LayerInput = LayersDefinitionInput['layers'][number];
type MetricInput = NonNullable<NonNullable<LayersDefinitionInput['optimizer']>['metric']>;

/** More than the layers have inputs: the eigenvectors of a singular factor are unique to no precision. */
const BATCH = 24;
const POSITIONS = 3;
const VOCABULARY = 7;
/** Two of which refresh the metric. */
const STEPS = 4;
/** A step in float32, relative to its largest number, with what earlier steps left in the averages. */
const STEP_TOLERANCE = 3e-4;

const LAYERS: readonly LayerInput[] = [
  { name: 'dense', kind: 'dense', inputs: 12, outputs: 9 },
  { name: 'dense-over-a-sequence', kind: 'dense', inputs: 6, outputs: 5, sequence: true },
  { name: 'conv2d', kind: 'conv2d', height: 6, width: 5, inputs: 4, outputs: 6, kernel: [3, 2], groups: 2, strides: [2, 1], padding: { kind: 'same' } },
  { name: 'scale-shift', kind: 'scale-shift', features: 6, sequence: true },
  { name: 'embedding', kind: 'embedding', inputs: VOCABULARY, outputs: 4 },
  { name: 'generic', kind: 'generic', parameters: 11 },
]; // prettier-ignore
const METRICS: readonly MetricInput[] = [
  { kind: 'identity' },
  { kind: 'rmsprop' },
  { kind: 'adam' },
  { kind: 'kronecker', refreshEvery: 2, damping: 0.1 },
  { kind: 'ekfac', refreshEvery: 2, damping: 0.1 },
];

export function compareLayers(engine: Engine, reference: Engine): Comparison[] {
  return LAYERS.flatMap((layer) =>
    METRICS.map((metric): Comparison => {
      const definition = layersDefinitionSchema.parse({
        layers: [layer],
        optimizer: { coupling: 'value', metric, learningRate: { kind: 'constant', value: 1 } },
      });
      return {
        name: `${layer.name}, ${metric.kind}`,
        error: layersError(definition, engine, reference),
        tolerance: STEP_TOLERANCE,
      };
    }),
  );
}

/** The largest error of all steps. */
function layersError(definition: LayersDefinition, engine: Engine, reference: Engine): number {
  const random = seededRandom(11);
  const trainers = [layersTrainer(engine, definition), layersTrainer(reference, definition)] as const;
  let largest = 0;
  for (let step = 0; step < STEPS; step++) {
    const body = layersBody(definition, random);
    const [actual, expected] = trainers.map((trainer) => numbersOf(trainer.step(body).answer.body));
    largest = Math.max(largest, relativeError(actual ?? [], expected ?? []));
  }
  for (const trainer of trainers) trainer.close();
  return largest;
}

function layersBody(definition: LayersDefinition, random: Random): Uint8Array {
  return encode(
    expectedTensors(definition).map(({ name, layer, role, shape }) => {
      const sizes = shape.map((size) => (size === 'B' ? BATCH : size === 'S' ? POSITIONS : size));
      const isToken = layer === 'embedding' && role === 'input';
      const draw = (): number =>
        isToken ? Math.floor(VOCABULARY * random()) : role === 'losses' ? 0.5 + random() : 2 * random() - 1;
      return { name, shape: sizes, values: Float32Array.from({ length: elementCount(sizes) }, draw) };
    }),
  );
}

/** All numbers of a safetensors file. */
function numbersOf(body: Uint8Array): number[] {
  const header = readHeader(body);
  return header.entries.flatMap((entry) => [...readValues(body, header, entry)]);
}

const MODEL: HostedDefinitionInput['model'] = {
  input: [8, 8, 2],
  layers: [
    // Before a batch norm the gradient of a bias is 0 but for rounding, which adam divides by itself.
    { kind: 'conv2d', name: 'conv', outputs: 6, kernel: [3, 3], padding: { kind: 'same' }, bias: false },
    { kind: 'batch-norm', name: 'norm' },
    { kind: 'tanh' },
    { kind: 'average-pooling', window: [2, 2] },
    { kind: 'flatten' },
    { kind: 'dense', name: 'hidden', outputs: 10 },
    { kind: 'sigmoid' },
    { kind: 'dense', name: 'head', outputs: 3 },
  ],
};
const MODEL_SAMPLE = [8, 8, 2];
const CLASSES = 3;

type OptimizerInput = NonNullable<HostedDefinitionInput['optimizer']>;

const MODEL_OPTIMIZERS: Readonly<Record<string, OptimizerInput>> = {
  'feedback, kronecker': { coupling: 'feedback', metric: { kind: 'kronecker', refreshEvery: 2, damping: 0.1 } },
  'feedback, ekfac': { coupling: 'feedback', metric: { kind: 'ekfac', refreshEvery: 2, damping: 0.1 } },
  'feedback, adam': { coupling: 'feedback', metric: { kind: 'adam' } },
  'Gauss–Newton step, kronecker': {
    coupling: 'gauss-newton-step',
    terminalCurvature: { kind: 'gauss-newton', columns: CLASSES },
    metric: { kind: 'kronecker', refreshEvery: 2, damping: 0.1 },
  },
  'layer by layer, diagonal': {
    coupling: 'layerwise',
    batchCoupling: 'diagonal',
    metric: { kind: 'kronecker', refreshEvery: 2, damping: 0.1 },
  },
};

/** What a hosted model's weights have moved by after some steps. */
export function compareModels(engine: Engine, reference: Engine): Comparison[] {
  return Object.entries(MODEL_OPTIMIZERS).map(([name, optimizer]) => {
    const definition = hostedDefinitionSchema.parse({
      mode: 'hosted',
      model: MODEL,
      loss: { kind: 'softmax-cross-entropy' },
      optimizer: { ...optimizer, learningRate: { kind: 'constant', value: 0.3 } },
    });
    const [actual, expected] = [engine, reference].map((on) => {
      const trainer = hostedTrainer(on, definition);
      const weights = (): number[] => numbersOf(trainer.model?.weights().body ?? new Uint8Array());
      const random = seededRandom(13);
      const before = weights();
      for (let step = 0; step < STEPS; step++) trainer.step(hostedBody(random));
      const after = weights();
      trainer.close();
      return after.map((value, index) => value - (before[index] ?? 0));
    });
    return { name, error: relativeError(actual ?? [], expected ?? []), tolerance: STEP_TOLERANCE };
  });
}

function hostedBody(random: Random): Uint8Array {
  const x = Float32Array.from({ length: BATCH * elementCount(MODEL_SAMPLE) }, () => 2 * random() - 1);
  const y = Float32Array.from({ length: BATCH }, () => Math.floor(CLASSES * random()));
  return encode([
    { name: HOSTED_TENSOR.samples, shape: [BATCH, ...MODEL_SAMPLE], values: x },
    { name: HOSTED_TENSOR.truth, shape: [BATCH], values: y },
  ]);
}
