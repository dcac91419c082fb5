/** Items 1 and 2: accuracy of every optimizer at its chosen setting, and how the training went. */
import { ALL, OPTIMAL_CONTROL, settingsOf, TUNED, type Optimizer, type Setting } from '../optimizers.ts';
import { chosenTrials, choose, outcomesOf, settingTrials, tunedPlan } from '../plan.ts';
import { mean } from '../statistics.ts';
import { CONVOLUTIONAL_TASKS, FASHION_MNIST, MNIST, SMALL_TASKS, type Task } from '../tasks.ts';
import type { Item, Section } from '../item.ts';
import type { TrialStore } from '../store.ts';
import { finalAccuracy, type Point } from '../trial.ts';

export interface OptimizerAccuracy {
  readonly id: string;
  readonly name: string;
  readonly setting: Setting;
  /** Whether the chosen learning rate is the smallest or the largest of the grid. */
  readonly isAtEnd: boolean;
  readonly regularizer: string;
  /** Mean on the validation part, of the trials that chose the setting; null where there was no choice. */
  readonly validation: number | null;
  /** On the test part at the end, a seed each; 0 where the training diverged. */
  readonly accuracies: readonly number[];
  /** Over the seeds that did not diverge, at equal steps. */
  readonly curve: readonly Omit<Point, 'seconds'>[];
}

export interface TaskAccuracy {
  readonly id: string;
  readonly description: string;
  readonly isConvolutional: boolean;
  readonly batch: number;
  readonly epochs: number;
  readonly trainingSamples: number | null;
  readonly seeds: readonly number[];
  readonly tuningSeeds: readonly number[];
  readonly testSamples: number;
  /** Whether that is all there are. */
  readonly isTestWhole: boolean;
  readonly optimizers: readonly OptimizerAccuracy[];
}

export interface AccuracyResults {
  readonly learningRates: number;
  readonly regularizations: number;
  readonly tasks: readonly TaskAccuracy[];
}

const ACCURACY_TASKS: readonly Task[] = [...SMALL_TASKS, MNIST, FASHION_MNIST, ...CONVOLUTIONAL_TASKS];

/** Methods whose steps take a hundred times as long have a section of their own. */
const SLOW = '-optimal-control';

function sectionsOf(task: Task): Section[] {
  const isQuick = SMALL_TASKS.some(({ id }) => id === task.id);
  const slow = OPTIMAL_CONTROL.filter((optimizer) => optimizer.runsOn(task));
  const rest = ALL.filter((optimizer) => !OPTIMAL_CONTROL.includes(optimizer));
  const whole: Section = { id: task.id, isQuick, plan: (store) => tunedPlan(store, task, rest) };
  if (slow.length === 0) return [whole];
  return [whole, { id: `${task.id}${SLOW}`, isQuick: false, plan: (store) => tunedPlan(store, task, slow) }];
}

export const accuracy: Item<AccuracyResults> = {
  id: 'accuracy',
  sections: ACCURACY_TASKS.flatMap(sectionsOf),
  results: (store, complete) => ({
    learningRates: TUNED.learningRates.length,
    regularizations: TUNED.regularizations.length,
    tasks: ACCURACY_TASKS.filter(({ id }) => complete.has(id)).map((task) =>
      taskAccuracy(store, task, complete.has(`${task.id}${SLOW}`)),
    ),
  }),
};

function taskAccuracy(store: TrialStore, task: Task, hasSlow: boolean): TaskAccuracy {
  const { id, description, batch, epochs, trainingSamples, testSamples, seeds, tuningSeeds } = task;
  return {
    id,
    description,
    isConvolutional: CONVOLUTIONAL_TASKS.includes(task),
    batch,
    epochs,
    trainingSamples,
    testSamples,
    isTestWhole: task.evaluatedSamples === null,
    seeds,
    tuningSeeds,
    optimizers: ALL.filter(
      (optimizer) => optimizer.runsOn(task) && (hasSlow || !OPTIMAL_CONTROL.includes(optimizer)),
    ).map((optimizer) => ofOptimizer(store, task, optimizer)),
  };
}

function ofOptimizer(store: TrialStore, task: Task, optimizer: Optimizer): OptimizerAccuracy {
  const setting = choose(store, task, optimizer);
  const trials = chosenTrials(store, task, optimizer);
  const outcomes = trials === null ? null : outcomesOf(store, trials);
  if (setting === null || outcomes === null) throw new Error(`${task.id} ${optimizer.id} has not been run`);
  const rates = settingsOf(optimizer, task).map(({ learningRate }) => learningRate);
  return {
    id: optimizer.id,
    name: optimizer.name,
    regularizer: optimizer.regularizer,
    setting,
    isAtEnd: rates.length > 1 && [Math.min(...rates), Math.max(...rates)].includes(setting.learningRate),
    validation: validationOf(store, task, optimizer, setting),
    accuracies: outcomes.map(finalAccuracy),
    curve: meanCurve(outcomes.filter(({ validation }) => validation !== null).map(({ points }) => points)),
  };
}

function validationOf(store: TrialStore, task: Task, optimizer: Optimizer, setting: Setting): number | null {
  if (settingsOf(optimizer, task).length === 1) return null;
  const outcomes = outcomesOf(store, settingTrials(task, optimizer, setting)) ?? [];
  return significant(mean(outcomes.map(({ validation }) => validation?.accuracy ?? 0)));
}

function meanCurve(curves: readonly (readonly Point[])[]): Omit<Point, 'seconds'>[] {
  const [first = []] = curves;
  return first.map(({ step }, index) => {
    const average = (key: 'trainingLoss' | 'loss' | 'accuracy'): number =>
      significant(curves.reduce((sum, curve) => sum + (curve[index]?.[key] ?? Number.NaN), 0) / curves.length);
    return { step, trainingLoss: average('trainingLoss'), loss: average('loss'), accuracy: average('accuracy') };
  });
}

function significant(value: number): number {
  return Number(value.toPrecision(5));
}
