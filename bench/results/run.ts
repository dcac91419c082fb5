/** One trial, from its first step to its last: the same for whoever trains. */
import type { LabelledData } from '../../clients/datasets/digits/digits.ts';
import { isDivergence } from '../divergence.ts';
import { samplesOf, stepsPerEpoch, type SampleOrder } from '../../shared/sample-order.ts';
import type { Parts } from '../parts.ts';
import type { Outcome, Point, Score, Trial } from './trial.ts';

/** A training in progress. */
export interface Training {
  /**
   * Takes steps on batches of these samples.
   *
   * @returns each batch's mean loss before its step, and the seconds that the steps took
   * @throws Error if the training diverges
   */
  readonly train: (samples: Uint32Array) => Promise<{ readonly losses: readonly number[]; readonly seconds: number }>;
  readonly evaluate: (part: 'validation' | 'test') => Promise<Score>;
  readonly stop: () => Promise<void>;
}

/** In which everybody takes the samples. */
export function sampleOrder({ seed }: Pick<Trial, 'seed'>): SampleOrder {
  return { kind: 'shuffled', seed };
}

/** The training part as the trial takes it: the first samples of it. */
export function trainingPart({ train }: Parts, { trainingSamples }: Pick<Trial, 'trainingSamples'>): LabelledData {
  return trainingSamples === null ? train : { ...train, size: Math.min(trainingSamples, train.size) };
}

/** The validation or test part as the trial takes it. */
export function evaluatedPart(
  parts: Parts,
  part: 'validation' | 'test',
  { evaluatedSamples = Number.POSITIVE_INFINITY }: Pick<Trial, 'evaluatedSamples'>,
): LabelledData {
  return { ...parts[part], size: Math.min(evaluatedSamples, parts[part].size) };
}

function stepsOf(trial: Trial, parts: Parts): number {
  return trial.epochs * stepsPerEpoch(trainingPart(parts, trial).size, trial.batch);
}

export async function runTrial(trial: Trial, parts: Parts, begin: () => Promise<Training>): Promise<Outcome> {
  const began = performance.now();
  const { batch, evaluations } = trial;
  const { size } = trainingPart(parts, trial);
  const steps = stepsOf(trial, parts);
  const samplesOfStep = samplesOf({ order: sampleOrder(trial), samples: size, batch });
  const samples = new Uint32Array(steps * batch);
  for (let step = 0; step < steps; step++) samples.set(samplesOfStep(step), step * batch);
  const points: Point[] = [];
  let validation: Score | null = null;
  const training = await begin();
  try {
    let seconds = 0;
    let step = 0;
    for (let evaluation = 1; evaluation <= evaluations; evaluation++) {
      const end = Math.round((evaluation * steps) / evaluations);
      const { losses, seconds: taken } = await training.train(samples.subarray(step * batch, end * batch));
      seconds += taken;
      step = end;
      const trainingLoss = losses.reduce((sum, loss) => sum + loss, 0) / losses.length;
      points.push({ step, seconds, trainingLoss, ...finite(await training.evaluate('test')) });
    }
    validation = finite(await training.evaluate('validation'));
  } catch (error) {
    if (!isDivergence(error)) throw error;
  } finally {
    await training.stop();
  }
  return { points, validation, milliseconds: Math.round(performance.now() - began) };
}

function finite(score: Score): Score {
  if (Number.isFinite(score.loss)) return score;
  throw new Error('the training diverged: the loss is not a finite number');
}
