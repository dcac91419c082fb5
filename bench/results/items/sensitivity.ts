/** Item 3: accuracy over learning rate and regularisation. */
import type { Item } from '../item.ts';
import { BASELINES, PAPER, TUNED, LAYERWISE, type Optimizer } from '../optimizers.ts';
import { outcomesOf, planned, settingTrials } from '../plan.ts';
import { mean } from '../statistics.ts';
import type { TrialStore } from '../store.ts';
import { SMALL_TASKS, type Task } from '../tasks.ts';
import { finalAccuracy } from '../trial.ts';

export interface SensitivityMap {
  readonly id: string;
  readonly name: string;
  readonly learningRates: readonly number[];
  readonly regularizations: readonly number[];
  readonly regularizer: string;
  /** Mean test accuracy over the seeds, a row per regularisation; a run that diverged counts as 0. */
  readonly accuracies: readonly (readonly number[])[];
}

export interface TaskSensitivity {
  readonly id: string;
  readonly description: string;
  readonly seeds: readonly number[];
  readonly testSamples: number;
  readonly maps: readonly SensitivityMap[];
}

export interface SensitivityResults {
  readonly learningRates: number;
  readonly tasks: readonly TaskSensitivity[];
}

const COMPARED: readonly Optimizer[] = [TUNED, LAYERWISE, ...PAPER, ...BASELINES];

export const sensitivity: Item<SensitivityResults> = {
  id: 'sensitivity',
  sections: SMALL_TASKS.map((task) => ({
    id: task.id,
    isQuick: false,
    plan: () => ({
      trials: COMPARED.flatMap((optimizer) =>
        cellsOf(optimizer)
          .flat()
          .flatMap((setting) => settingTrials(task, optimizer, setting))
          .map((trial) => planned(task, optimizer, trial)),
      ),
      waiting: 0,
    }),
  })),
  results: (store, complete) => ({
    learningRates: TUNED.widerLearningRates.length,
    tasks: SMALL_TASKS.filter(({ id }) => complete.has(id)).map((task) => taskSensitivity(store, task)),
  }),
};

/** A row per regularisation. */
function cellsOf({ widerLearningRates, regularizations }: Optimizer): ReturnType<typeof row>[] {
  return regularizations.map((regularization) => row(widerLearningRates, regularization));
}

function row(
  learningRates: readonly number[],
  regularization: number,
): { learningRate: number; regularization: number }[] {
  return learningRates.map((learningRate) => ({ learningRate, regularization }));
}

function taskSensitivity(store: TrialStore, task: Task): TaskSensitivity {
  return {
    id: task.id,
    description: task.description,
    seeds: task.tuningSeeds,
    testSamples: task.testSamples,
    maps: COMPARED.map((optimizer) => ({
      id: optimizer.id,
      name: optimizer.name,
      learningRates: optimizer.widerLearningRates,
      regularizations: optimizer.regularizations,
      regularizer: optimizer.regularizer,
      accuracies: cellsOf(optimizer).map((settings) =>
        settings.map((setting) => {
          const outcomes = outcomesOf(store, settingTrials(task, optimizer, setting));
          if (outcomes === null) throw new Error(`${task.id} ${optimizer.id} has not been run`);
          return Number(mean(outcomes.map(finalAccuracy)).toFixed(5));
        }),
      ),
    })),
  };
}

export interface Range {
  /** The best mean accuracy of the map. */
  readonly best: number;
  /** Between the ends of the run of learning rates around the best that are so near it, at the best's regularisation. */
  readonly decades: number;
  /** Whether it reaches an end of the grid, and may be wider. */
  readonly isCut: boolean;
}

/** What a point of accuracy is. */
export const POINT = 0.01;

/** @param within of the best accuracy */
export function goodRange(
  { learningRates, accuracies }: Pick<SensitivityMap, 'learningRates' | 'accuracies'>,
  within: number,
): Range {
  const best = Math.max(...accuracies.flat());
  const ranges = accuracies.flatMap((row) =>
    row.flatMap((value, index) => (value === best ? [rangeAround(learningRates, row, index, within)] : [])),
  );
  const widest = ranges.reduce((left, right) => (right.decades > left.decades ? right : left));
  return { best, ...widest };
}

function rangeAround(
  learningRates: readonly number[],
  row: readonly number[],
  around: number,
  within: number,
): Omit<Range, 'best'> {
  const isGood = (index: number): boolean => (row[index] ?? 0) >= (row[around] ?? 0) - within;
  let [low, high] = [around, around];
  while (low > 0 && isGood(low - 1)) low--;
  while (high < row.length - 1 && isGood(high + 1)) high++;
  const decades = Math.log10((learningRates[high] ?? 1) / (learningRates[low] ?? 1));
  return { decades: Number(decades.toFixed(1)), isCut: low === 0 || high === row.length - 1 };
}
