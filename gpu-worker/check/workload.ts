/** A training step that is worth timing: a perceptron trained in hosted mode, with the defaults of the service. */
import { hostedDefinitionSchema } from '../../shared/hosted-definition.ts';
import { HOSTED_TENSOR } from '../../shared/hosted-tensors.ts';
import { seededRandom } from '../../shared/random.ts';
import { encode } from '../../shared/safetensors.ts';
import { hostedTrainer } from '../training/hosted-trainer.ts';
import type { Trainer } from '../training/trainer.ts';
import type { Engine } from '../tensor/engine.ts';

export interface Workload {
  readonly name: string;
  /** Of every layer, from the inputs on. */
  readonly widths: readonly number[];
  readonly batch: number;
}

export const WORKLOADS: readonly Workload[] = [
  { name: '784-256-256-10, B = 128', widths: [784, 256, 256, 10], batch: 128 },
  { name: '784-1024-1024-1024-10, B = 512', widths: [784, 1024, 1024, 1024, 10], batch: 512 },
];

/** Steps from one refresh of the metric to the next. */
export const CYCLE = 10;

export interface Training {
  readonly trainer: Trainer;
  /** The body of every step. */
  readonly body: Uint8Array;
}

export function startTraining(engine: Engine, { widths, batch }: Workload): Training {
  const [inputs = 1, ...outputs] = widths;
  const classes = outputs.at(-1) ?? 1;
  const definition = hostedDefinitionSchema.parse({
    mode: 'hosted',
    model: {
      input: [inputs],
      layers: outputs.flatMap((width, index) => [
        { kind: 'dense', name: `dense${String(index)}`, outputs: width },
        ...(index < outputs.length - 1 ? [{ kind: 'relu' }] : []),
      ]),
    },
    loss: { kind: 'softmax-cross-entropy' },
    optimizer: {
      // The labels are random: a step as long as the default would diverge on them.
      learningRate: { kind: 'constant', value: 1e-3 },
      metric: { kind: 'kronecker', refreshEvery: CYCLE },
    },
  });
  const random = seededRandom(17);
  const x = Float32Array.from({ length: batch * inputs }, () => Math.max(0, 2 * random() - 1));
  const y = Float32Array.from({ length: batch }, () => Math.floor(classes * random()));
  const body = encode([
    { name: HOSTED_TENSOR.samples, shape: [batch, inputs], values: x },
    { name: HOSTED_TENSOR.truth, shape: [batch], values: y },
  ]);
  return { trainer: hostedTrainer(engine, definition), body };
}
