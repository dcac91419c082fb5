/**
 * DIGITS with a 64-32-32-10 network: DDPNOpt through the service, next to SGD with momentum and Adam run locally. All start from
 * the same weights and see the same batches.
 */
import { loadDigits, type LabelledData } from '../datasets/digits/digits.ts';
import type { DdpnoptClient } from '../js/index.ts';
import { adam, sgdWithMomentum, type LocalOptimizer } from './baselines.ts';
import { split } from './data.ts';
import { MultilayerPerceptron } from './multilayer-perceptron.ts';
import { seededRandom } from './random.ts';
import { trainLocally, trainWithService, type EpochReport, type TrainingObserver, type TrainingTask } from './train.ts';

export const COMPARISON = {
  widths: [64, 32, 32, 10],
  batchSize: 64,
  epochs: 10,
  testFraction: 0.2,
  /** The learning rates of the baselines: each optimizer's best on this task, and its neighbours on either side. */
  sgdLearningRates: [0.03, 0.1, 0.3],
  adamLearningRates: [0.003, 0.01, 0.03],
  /** The epoch whose training loss decides which learning rate was a baseline's best. */
  comparedEpoch: 5,
} as const;

export interface ComparisonSetup {
  readonly data: LabelledData;
  readonly task: TrainingTask;
  readonly initial: MultilayerPerceptron;
}

export interface TrainingRun {
  readonly optimizer: string;
  /** Null for the service's default, a rule. */
  readonly learningRate: number | null;
  readonly epochs: readonly EpochReport[];
}

export async function prepareComparison(seed: number): Promise<ComparisonSetup> {
  const data = await loadDigits();
  const { train, test } = split(data, COMPARISON.testFraction, seededRandom(3 * seed));
  const { widths, batchSize, epochs } = COMPARISON;
  return {
    data,
    task: { train, test, batchSize, epochs, seed: 3 * seed + 1 },
    initial: MultilayerPerceptron.initialise(widths, seededRandom(3 * seed + 2)),
  };
}

/** Trains through the service, with its defaults. */
export async function runService(
  { task, initial }: ComparisonSetup,
  client: DdpnoptClient,
  observer: TrainingObserver,
  signal?: AbortSignal,
): Promise<TrainingRun> {
  const network = initial.clone();
  const session = await client.createSession(
    {
      layers: network.layers.map(({ name, inputs, outputs }) => ({ name, kind: 'dense' as const, inputs, outputs })),
    },
    signal === undefined ? {} : { signal },
  );
  const epochs = await trainWithService(network, task, session, observer, signal);
  await session.delete();
  return { optimizer: 'DDPNOpt', learningRate: null, epochs };
}

/** All runs of both baselines, one per learning rate. */
export async function runBaselines(
  { task, initial }: ComparisonSetup,
  onRun: (optimizer: LocalOptimizer) => void,
  signal?: AbortSignal,
): Promise<TrainingRun[]> {
  const optimizers = [
    ...COMPARISON.sgdLearningRates.map((rate) => sgdWithMomentum(rate)),
    ...COMPARISON.adamLearningRates.map((rate) => adam(rate)),
  ];
  const runs: TrainingRun[] = [];
  for (const optimizer of optimizers) {
    onRun(optimizer);
    const epochs = await trainLocally(initial.clone(), task, optimizer, {}, signal);
    runs.push({ optimizer: optimizer.name, learningRate: optimizer.learningRate, epochs });
  }
  return runs;
}

/** The learning rate of a run, as tables have it. */
export function rateOf({ learningRate }: Pick<TrainingRun, 'learningRate'>): string {
  return learningRate === null ? 'default' : String(learningRate);
}

export function reportAt({ epochs }: TrainingRun, epoch: number): EpochReport {
  const report = epochs[epoch - 1];
  if (report === undefined) throw new RangeError(`the run has no epoch ${String(epoch)}`);
  return report;
}

/** Per optimizer the run with the smallest training loss after the compared epoch. */
export function bestRuns(runs: readonly TrainingRun[]): TrainingRun[] {
  const best = new Map<string, TrainingRun>();
  const loss = (run: TrainingRun): number => reportAt(run, COMPARISON.comparedEpoch).trainLoss;
  for (const run of runs) {
    const other = best.get(run.optimizer);
    // A diverged run has a loss of NaN, which is never the smaller one.
    if (other === undefined || loss(run) < loss(other) || Number.isNaN(loss(other))) best.set(run.optimizer, run);
  }
  return [...best.values()];
}
