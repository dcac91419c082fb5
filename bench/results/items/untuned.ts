/** Item 9: the defaults, which nobody tuned, against each baseline's best setting. */
import type { DataSetName } from '../data.ts';
import type { Item } from '../item.ts';
import { BASELINES, TUNED, UNTUNED, type Optimizer } from '../optimizers.ts';
import { chosenTrials, joined, outcomesOf, planned, tunedPlan, type Plan } from '../plan.ts';
import { median } from '../../median.ts';
import { mean } from '../statistics.ts';
import type { TrialStore } from '../store.ts';
import { BREAST_CANCER, CONVOLUTIONAL_TASKS, DIGITS, FASHION_MNIST, MNIST, seeds, WINE, type Task } from '../tasks.ts';
import type { Outcome } from '../trial.ts';

interface CurvePoint {
  readonly step: number;
  /** By the median pace of the runs that took turns. */
  readonly seconds: number;
  readonly trainingLoss: number;
  /** Over all seeds; a run that diverged counts as 0. */
  readonly accuracy: number;
}

export interface OptimizerCurve {
  readonly id: string;
  readonly name: string;
  readonly millisecondsPerStep: number;
  /** Of the service, where it draws the batches itself from a data set that was sent once; null for the others. */
  readonly millisecondsPerStepInRuns: number | null;
  readonly curve: readonly CurvePoint[];
}

export interface TaskCurves {
  readonly id: string;
  readonly description: string;
  readonly batch: number;
  /** Whether a default was chosen on this task, or on its data. */
  readonly hadSay: boolean;
  readonly evaluations: number;
  readonly seeds: readonly number[];
  readonly timedSeeds: readonly number[];
  readonly optimizers: readonly OptimizerCurve[];
}

export interface UntunedResults {
  readonly tasks: readonly TaskCurves[];
}

const TASKS: readonly Task[] = [WINE, BREAST_CANCER, DIGITS, MNIST, FASHION_MNIST, ...CONVOLUTIONAL_TASKS];
/** The defaults were chosen in trials on them. */
const HAD_SAY: readonly DataSetName[] = ['digits', 'mnist'];
const TIMED: readonly Optimizer[] = [...BASELINES, UNTUNED];

/** Trials of convolutional nets take minutes, of which each has the machine to itself. */
function timedSeeds(task: Task): number[] {
  return seeds(CONVOLUTIONAL_TASKS.includes(task) ? 1 : 3, 200);
}

export const untuned: Item<UntunedResults> = {
  id: 'untuned',
  sections: TASKS.map((task) => ({ id: task.id, isQuick: false, plan: (store) => planOf(store, task) })),
  results: (store, complete) => ({
    tasks: TASKS.filter(({ id }) => complete.has(id)).map((task) => taskCurves(store, task)),
  }),
};

/** The tuned form, too, where item 1 tunes it. */
function comparedOn(task: Task): readonly Optimizer[] {
  return [...TIMED, ...(task === BREAST_CANCER ? [] : [TUNED])].filter((optimizer) => optimizer.runsOn(task));
}

/** Whether the service trains, which can draw batches itself. */
function takesRuns(optimizer: Optimizer): boolean {
  return [UNTUNED, TUNED].includes(optimizer);
}

/** The tuned trials, and some of the chosen ones with the machine to themselves, in rounds of one of each. */
function planOf(store: TrialStore, task: Task): Plan {
  const rounds = timedSeeds(task).map((seed): Plan => {
    const trials = comparedOn(task).flatMap((optimizer) =>
      (takesRuns(optimizer) ? [false, true] : [false]).map((inRuns) => ({
        optimizer,
        chosen: timedTrials(store, task, optimizer, { seeds: [seed], inRuns }),
      })),
    );
    return {
      trials: trials.flatMap(({ optimizer, chosen }) => (chosen ?? []).map((trial) => planned(task, optimizer, trial))),
      waiting: trials.filter(({ chosen }) => chosen === null).length,
    };
  });
  return joined([tunedPlan(store, task, comparedOn(task)), ...rounds]);
}

interface Timed {
  readonly seeds: readonly number[];
  readonly inRuns: boolean;
}

function timedTrials(
  store: TrialStore,
  task: Task,
  optimizer: Optimizer,
  { seeds: which, inRuns }: Timed,
): ReturnType<typeof chosenTrials> {
  return chosenTrials(store, task, optimizer, {
    seeds: which,
    alone: true,
    // Both left out where they are not so: outcomes of before there were such trials are of these.
    inRuns: inRuns ? true : undefined,
    onAllProcessors: CONVOLUTIONAL_TASKS.includes(task) && !takesRuns(optimizer) ? true : undefined,
  });
}

/** Seconds a step, the median over the seeds: other work on the machine slows some. */
function paceOf(store: TrialStore, task: Task, optimizer: Optimizer, inRuns: boolean): number {
  const outcomes = found(store, timedTrials(store, task, optimizer, { seeds: timedSeeds(task), inRuns }));
  return median(outcomes.flatMap(({ points }) => points.slice(-1).map(({ seconds, step }) => seconds / step)));
}

function taskCurves(store: TrialStore, task: Task): TaskCurves {
  return {
    id: task.id,
    description: task.description,
    batch: task.batch,
    hadSay: HAD_SAY.includes(task.dataSet),
    evaluations: task.evaluations,
    seeds: task.seeds,
    timedSeeds: timedSeeds(task),
    optimizers: comparedOn(task).map((optimizer) => curveOf(store, task, optimizer)),
  };
}

function curveOf(store: TrialStore, task: Task, optimizer: Optimizer): OptimizerCurve {
  const outcomes = found(store, chosenTrials(store, task, optimizer));
  const pace = paceOf(store, task, optimizer, false);
  const longest = outcomes.reduce((left, right) => (right.points.length > left.points.length ? right : left));
  return {
    id: optimizer.id,
    name: optimizer.name,
    millisecondsPerStep: milliseconds(pace),
    millisecondsPerStepInRuns: takesRuns(optimizer) ? milliseconds(paceOf(store, task, optimizer, true)) : null,
    curve: longest.points.map(({ step }, index) => ({
      step,
      seconds: Number((pace * step).toPrecision(4)),
      trainingLoss: Number(mean(outcomes.flatMap(({ points }) => points[index]?.trainingLoss ?? [])).toPrecision(4)),
      accuracy: Number(mean(outcomes.map(({ points }) => points[index]?.accuracy ?? 0)).toFixed(5)),
    })),
  };
}

function milliseconds(seconds: number): number {
  return Number((1000 * seconds).toPrecision(3));
}

function found(store: TrialStore, trials: ReturnType<typeof chosenTrials>): Outcome[] {
  const outcomes = trials === null ? null : outcomesOf(store, trials);
  if (outcomes === null) throw new Error('a trial of this section has not been run');
  return outcomes;
}

export interface Reached {
  readonly step: number;
  readonly seconds: number;
}

/** The first point whose mean accuracy is at least this; null if there is none. */
export function firstReaching({ curve }: Pick<OptimizerCurve, 'curve'>, accuracy: number): Reached | null {
  return curve.find((point) => point.accuracy >= accuracy) ?? null;
}

export function bestAccuracy({ curve }: Pick<OptimizerCurve, 'curve'>): number {
  return Math.max(...curve.map(({ accuracy }) => accuracy));
}
