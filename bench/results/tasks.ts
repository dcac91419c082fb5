/** What is trained on what, and for how long. */
import { NETWORKS } from '../peers/networks.ts';
import type { DataSetName } from './data.ts';
import type { Network, Trainer, Trial } from './trial.ts';

export interface Task {
  readonly id: string;
  /** For the reader: network, activation. */
  readonly description: string;
  readonly dataSet: DataSetName;
  readonly trainingSamples: number | null;
  /** Of the test part, as many as count. */
  readonly testSamples: number;
  /** Samples of the validation part, and of the test part, that count; null for all. */
  readonly evaluatedSamples: number | null;
  /** Points of a curve that a training at a chosen setting is measured at. */
  readonly evaluations: number;
  /** Whether optimizers are tuned over their regularisations, too; else they have none. */
  readonly tunesRegularization: boolean;
  readonly network: Network;
  readonly batch: number;
  readonly epochs: number;
  /** Seeds of the runs that the results are made of. */
  readonly seeds: readonly number[];
  /** Seeds of the runs that choose a setting, other ones. */
  readonly tuningSeeds: readonly number[];
}

const CONVOLUTIONAL_SAMPLES = { training: 2560, evaluated: 2000 } as const;

export type Activation = 'relu' | 'tanh' | 'sigmoid';

/** Dense layers with an activation between them; weights begin as suits it. */
export function denseNetwork([input = 0, ...widths]: readonly number[], activation: Activation): Network {
  const initialization = activation === 'relu' ? 'he-normal' : 'glorot-uniform';
  const layers = widths.flatMap((outputs, t): Network['layers'] => {
    const dense = { kind: 'dense', name: `dense${String(t + 1)}`, outputs, initialization } as const;
    return t < widths.length - 1 ? [dense, { kind: activation }] : [dense];
  });
  return { input: [input], layers };
}

export function seeds(count: number, first = 0): number[] {
  return Array.from({ length: count }, (_, index) => first + index);
}

interface DenseOptions extends Pick<Task, 'dataSet' | 'testSamples' | 'batch' | 'epochs'> {
  readonly widths: readonly number[];
  readonly activation: Activation;
  readonly trainingSamples?: number;
  readonly tuningSeeds?: number;
}

function denseTask(id: string, { widths, activation, trainingSamples, tuningSeeds = 2, ...rest }: DenseOptions): Task {
  return {
    id,
    description: `${widths.join('-')}, ${activation}`,
    trainingSamples: trainingSamples ?? null,
    evaluatedSamples: null,
    evaluations: 12,
    tunesRegularization: true,
    network: denseNetwork(widths, activation),
    seeds: seeds(10),
    tuningSeeds: seeds(tuningSeeds, 100),
    ...rest,
  };
}

/** The paper's convolutional nets on as little as two cores train hundreds of times in hours. */
function convolutionalTask(dataSet: DataSetName, shape: readonly [number, number, number]): Task {
  return {
    id: `${dataSet}-cnn`,
    description: 'four 3×3×32 convolutions and two dense layers, relu',
    dataSet,
    testSamples: CONVOLUTIONAL_SAMPLES.evaluated,
    trainingSamples: CONVOLUTIONAL_SAMPLES.training,
    evaluatedSamples: CONVOLUTIONAL_SAMPLES.evaluated,
    evaluations: 4,
    tunesRegularization: false,
    network: { ...NETWORKS['cnn-32'], input: [...shape] },
    batch: 128,
    epochs: 3,
    seeds: seeds(3),
    tuningSeeds: seeds(1, 100),
  };
}

/** The paper's dense nets: five layers, ten to 32 wide, batches of 8 to 32, tanh on WINE and DIGITS. */
export const WINE = denseTask('wine', {
  dataSet: 'wine',
  testSamples: 36,
  widths: [13, 16, 16, 16, 16, 3],
  activation: 'tanh',
  batch: 8,
  epochs: 10,
});
export const DIGITS = denseTask('digits', {
  dataSet: 'digits',
  testSamples: 359,
  widths: [64, 32, 32, 32, 32, 10],
  activation: 'tanh',
  batch: 32,
  epochs: 5,
});
/** No default was chosen on it, nor is it in the paper. */
export const BREAST_CANCER = denseTask('breast-cancer', {
  dataSet: 'breast-cancer',
  testSamples: 114,
  widths: [30, 16, 16, 16, 16, 2],
  activation: 'tanh',
  batch: 16,
  epochs: 6,
});
export const MNIST = denseTask('mnist', {
  dataSet: 'mnist',
  testSamples: 10_000,
  widths: [784, 32, 32, 32, 32, 10],
  activation: 'relu',
  batch: 32,
  epochs: 1,
  trainingSamples: 10_000,
  tuningSeeds: 1,
});
export const FASHION_MNIST = denseTask('fashion-mnist', {
  dataSet: 'fashion-mnist',
  testSamples: 10_000,
  widths: [784, 32, 32, 32, 32, 10],
  activation: 'relu',
  batch: 32,
  epochs: 1,
  trainingSamples: 10_000,
  tuningSeeds: 1,
});
export const SMALL_TASKS = [WINE, DIGITS] as const;
export const CONVOLUTIONAL_TASKS: readonly Task[] = [
  convolutionalTask('mnist', [28, 28, 1]),
  convolutionalTask('fashion-mnist', [28, 28, 1]),
  convolutionalTask('cifar10', [32, 32, 3]),
  convolutionalTask('svhn', [32, 32, 3]),
];

interface TrialSettings extends Pick<Trial, 'seed' | 'evaluations' | 'inRuns' | 'onAllProcessors'> {
  readonly alone?: boolean;
}

export function trialOf(
  { dataSet, trainingSamples, evaluatedSamples, network, batch, epochs }: Task,
  trainer: Trainer,
  { seed, evaluations, alone = false, inRuns, onAllProcessors }: TrialSettings,
): Trial {
  return {
    dataSet,
    trainingSamples,
    network,
    batch,
    epochs,
    seed,
    evaluations,
    evaluatedSamples: evaluatedSamples ?? undefined,
    trainer,
    alone,
    inRuns,
    onAllProcessors,
  };
}
