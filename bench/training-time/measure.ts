/** Choosing learning rates, and the measured runs in which the contenders take turns. */
import type { Contender, Entrant, Run, RunOptions } from './contenders.ts';
import { isDivergence } from '../divergence.ts';
import { sampleOrder, stepsPerEpoch, type Parts } from '../parts.ts';
import type { Task } from './task.ts';

/** A point of a training curve. */
export interface Point {
  /** Of training, the whitening of inputs included; evaluations stop the clock. */
  readonly seconds: number;
  readonly loss: number;
  readonly accuracy: number;
}

export interface Tuning {
  readonly learningRate: number;
  /** On the validation part, by learning rate; null where the training diverged. */
  readonly accuracies: readonly { readonly learningRate: number; readonly accuracy: number | null }[];
}

/** Evaluations of a measured run. */
const PIECES = 8;
const TUNING_SEED = 100;
/** Steps of a run before the clock starts: they compile graphs and touch memory. */
const WARM_UP_STEPS = 60;

/** The learning rate with the best accuracy on the validation part at the task's tuning budget. */
export async function tune(task: Task, parts: Parts, { learningRates }: Contender, entrant: Entrant): Promise<Tuning> {
  const [only] = learningRates;
  if (learningRates.length === 1 && only !== undefined) return { learningRate: only, accuracies: [] };
  const samples = sampleOrder(parts.train, task.batch, task.tuningBudget, TUNING_SEED);
  const accuracies: { learningRate: number; accuracy: number | null }[] = [];
  for (const learningRate of learningRates) {
    const run = await entrant.start({ learningRate, steps: samples.length / task.batch, seed: TUNING_SEED });
    try {
      await run.train(samples);
      accuracies.push({ learningRate, accuracy: (await run.evaluate('validation')).accuracy });
    } catch (error) {
      if (!isDivergence(error)) throw error;
      accuracies.push({ learningRate, accuracy: null });
    } finally {
      await run.stop();
    }
  }
  const best = accuracies.reduce((left, right) => ((right.accuracy ?? 0) > (left.accuracy ?? 0) ? right : left));
  return { learningRate: best.learningRate, accuracies };
}

/**
 * Trains every contender once for that many epochs, in turns of an eighth of the run, so that whatever else the machine does
 * meets all of them.
 *
 * @returns per contender the curve on the test part, up to where the training diverged
 */
export async function race(
  task: Task,
  parts: Parts,
  entrants: readonly { readonly entrant: Entrant; readonly learningRate: number }[],
  { epochs, seed }: { readonly epochs: number; readonly seed: number },
): Promise<Point[][]> {
  const samples = sampleOrder(parts.train, task.batch, epochs, seed);
  const steps = epochs * stepsPerEpoch(parts.train, task.batch);
  const runs: { run: Run | null; points: Point[]; seconds: number }[] = [];
  for (const { entrant, learningRate } of entrants) {
    const options: RunOptions = { learningRate, steps, seed };
    await warmUp(entrant, task, parts, options);
    const run = await entrant.start(options);
    runs.push({ run, points: [], seconds: run.setUpSeconds });
  }
  try {
    for (let piece = 0; piece < PIECES; piece++) {
      const [begin, end] = [piece, piece + 1].map((part) => Math.floor((part * steps) / PIECES) * task.batch);
      for (const entry of runs) {
        if (entry.run === null) continue;
        try {
          entry.seconds += await entry.run.train(samples.subarray(begin, end));
          entry.points.push({ seconds: entry.seconds, ...(await entry.run.evaluate('test')) });
        } catch (error) {
          if (!isDivergence(error)) throw error;
          await entry.run.stop();
          entry.run = null;
        }
      }
    }
  } finally {
    for (const { run } of runs) await run?.stop();
  }
  return runs.map(({ points }) => points);
}

async function warmUp(entrant: Entrant, task: Task, parts: Parts, options: RunOptions): Promise<void> {
  const run = await entrant.start(options);
  try {
    const epochs = Math.ceil(WARM_UP_STEPS / stepsPerEpoch(parts.train, task.batch));
    const samples = sampleOrder(parts.train, task.batch, epochs, options.seed);
    await run.train(samples.subarray(0, WARM_UP_STEPS * task.batch));
  } catch (error) {
    if (!isDivergence(error)) throw error;
  } finally {
    await run.stop();
  }
}
