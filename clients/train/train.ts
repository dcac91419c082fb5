/** A training loop: epochs of mini-batches, an evaluation after each. */
import type { TrainingSession } from '../js/index.ts';
import type { LabelledData } from '../datasets/digits/digits.ts';
import type { LocalOptimizer } from './baselines.ts';
import { judgesLastStep } from '../../shared/optimizer.ts';
import { miniBatches, type MiniBatch } from './data.ts';
import { serviceStep } from './feedback-step.ts';
import type { MultilayerPerceptron } from './multilayer-perceptron.ts';
import { seededRandom } from './random.ts';

export interface TrainingTask {
  readonly train: LabelledData;
  readonly test: LabelledData;
  readonly batchSize: number;
  readonly epochs: number;
  /** Orders the mini-batches: the same seed gives every optimizer the same batches. */
  readonly seed: number;
}

export interface EpochReport {
  /** From 1. */
  readonly epoch: number;
  /** Mean loss over the training set. */
  readonly trainLoss: number;
  readonly testAccuracy: number;
}

interface StepProgress {
  /** Steps taken, over all epochs. */
  readonly step: number;
  readonly steps: number;
  /** Mean loss of the mini-batch before the step. */
  readonly loss: number;
  /** Bytes sent and received for the step; 0 for a local optimizer. */
  readonly bytes: number;
}

export interface TrainingObserver {
  readonly onStep?: (progress: StepProgress) => void;
  readonly onEpoch?: (report: EpochReport) => void;
}

/** Trains through the service. Stops with the signal's reason when it is aborted. */
export async function trainWithService(
  network: MultilayerPerceptron,
  task: TrainingTask,
  session: TrainingSession,
  observer: TrainingObserver = {},
  signal?: AbortSignal,
): Promise<EpochReport[]> {
  const { learningRate } = session.session.optimizer;
  let beforeLastStep: MultilayerPerceptron | null = null;
  return run(network, task, observer, signal, async (batch) => {
    const previousLosses: Float32Array | undefined = beforeLastStep?.forward(batch).losses;
    beforeLastStep = judgesLastStep(learningRate, session.nextStep + 1) ? network.clone() : null;
    const { lossBefore, bytesSent, bytesReceived } = await serviceStep(network, batch, session, {
      ...(previousLosses === undefined ? {} : { previousLosses }),
      ...(signal === undefined ? {} : { signal }),
    });
    return { loss: lossBefore, bytes: bytesSent + bytesReceived };
  });
}

/** Trains with a local optimizer. Stops with the signal's reason when it is aborted. */
export async function trainLocally(
  network: MultilayerPerceptron,
  task: TrainingTask,
  optimizer: LocalOptimizer,
  observer: TrainingObserver = {},
  signal?: AbortSignal,
): Promise<EpochReport[]> {
  return run(network, task, observer, signal, (batch) =>
    Promise.resolve({ loss: optimizer.step(network, batch), bytes: 0 }),
  );
}

async function run(
  network: MultilayerPerceptron,
  { train, test, batchSize, epochs, seed }: TrainingTask,
  { onStep, onEpoch }: TrainingObserver,
  signal: AbortSignal | undefined,
  takeStep: (batch: MiniBatch) => Promise<{ loss: number; bytes: number }>,
): Promise<EpochReport[]> {
  const random = seededRandom(seed);
  const steps = epochs * Math.ceil(train.size / batchSize);
  const reports: EpochReport[] = [];
  let step = 0;
  for (let epoch = 1; epoch <= epochs; epoch++) {
    for (const batch of miniBatches(train, batchSize, random)) {
      signal?.throwIfAborted();
      const { loss, bytes } = await takeStep(batch);
      step++;
      onStep?.({ step, steps, loss, bytes });
    }
    const report = { epoch, trainLoss: network.evaluate(train).loss, testAccuracy: network.evaluate(test).accuracy };
    reports.push(report);
    onEpoch?.(report);
    // Local steps never leave the thread: let it answer signals and draw.
    await new Promise((resolve) => setTimeout(resolve));
  }
  return reports;
}
