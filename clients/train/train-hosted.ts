/** Training of a perceptron that the service holds, with its data set: an epoch of steps in one call, an evaluation after each. */
import type { LabelledData } from '../datasets/digits/digits.ts';
import { stepsPerEpoch, type HostedTrainingSession } from '../js/index.ts';
import type { ModelInput } from '../../shared/model.ts';
import type { EpochReport, TrainingObserver, TrainingTask } from './train.ts';

/** Samples of one prediction. */
const PREDICTED_SAMPLES = 1000;

/** The perceptron of `MultilayerPerceptron`, as the service declares it. @param widths from the features to the classes */
export function hostedPerceptron([features = 0, ...widths]: readonly number[]): ModelInput {
  const layers = widths.flatMap((outputs, index) => {
    const dense = { kind: 'dense' as const, name: `fc${String(index + 1)}`, outputs };
    return index === widths.length - 1 ? [dense] : [dense, { kind: 'relu' as const }];
  });
  return { input: [features], layers };
}

/** Trains by runs. Stops with the signal's reason when it is aborted. */
export async function trainHosted(
  session: HostedTrainingSession,
  { train, test, batchSize, epochs, seed }: TrainingTask,
  { onStep, onEpoch }: TrainingObserver = {},
  signal?: AbortSignal,
): Promise<EpochReport[]> {
  const options = signal === undefined ? {} : { signal };
  await session.uploadData({ x: train.inputs, y: train.labels }, options);
  const batch = Math.min(batchSize, train.size);
  const steps = stepsPerEpoch(train.size, batch);
  const reports: EpochReport[] = [];
  for (let epoch = 1; epoch <= epochs; epoch++) {
    const order = { kind: 'shuffled' as const, seed };
    await session.run(
      { steps, batch, order },
      {
        ...options,
        onProgress: ({ metrics }) =>
          onStep?.({ step: metrics.step + 1, steps: epochs * steps, loss: metrics.loss, bytes: 0 }),
      },
    );
    const trainLoss = (await evaluate(session, train, signal)).loss;
    const report = { epoch, trainLoss, testAccuracy: (await evaluate(session, test, signal)).accuracy };
    reports.push(report);
    onEpoch?.(report);
  }
  return reports;
}

/** Mean loss, and the share of samples whose class has the largest output. */
async function evaluate(
  session: HostedTrainingSession,
  { size, features, classes, inputs, labels }: LabelledData,
  signal: AbortSignal | undefined,
): Promise<{ readonly loss: number; readonly accuracy: number }> {
  let sum = 0;
  let right = 0;
  for (let begin = 0; begin < size; begin += PREDICTED_SAMPLES) {
    const end = Math.min(size, begin + PREDICTED_SAMPLES);
    const x = inputs.subarray(begin * features, end * features);
    const y = labels.subarray(begin, end);
    const { outputs, loss } = await session.predict({ x, y }, signal === undefined ? {} : { signal });
    sum += (loss ?? 0) * y.length;
    for (const [index, label] of y.entries()) {
      const scores = outputs.subarray(index * classes, (index + 1) * classes);
      if (scores.every((score) => score <= (scores[label] ?? 0))) right++;
    }
  }
  return { loss: sum / size, accuracy: right / size };
}
