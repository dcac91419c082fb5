/** Item 9: the defaults, which nobody tuned, against each baseline's best setting. */
import type { DataSetName } from '../data.ts';
import type { Item } from '../item.ts';
import { BASELINES, TUNED, UNTUNED, type Optimizer } from '../optimizers.ts';
import { chosenTrials, joined, outcomesOf, planned, tunedPlan, type Plan } from '../plan.ts';
import { median } from '../../median.ts';
import { mean } from '../statistics.ts';
import type { TrialStore } from '../store.ts';
import { BREAST_CANCER, CONVOLUTIONAL_TASKS, DIGITS, FASHION_MNIST, MNIST, seeds, WINE, type Task } from '../tasks.ts';
import { engineFor, type Outcome, type Trial } from '../trial.ts';

interface CurvePoint {
  readonly step: number;
  readonly trainingLoss: number;
  readonly accuracy: number;
}

export interface OptimizerCurve {
  readonly id: string;
  readonly name: string;
  /** By the median pace of the timed trials that did not diverge at once; null if all did. */
  readonly millisecondsPerStep: number | null;
  /** The same of the service where it draws the batches itself, from a data set that is sent once. */
  readonly millisecondsPerStepInRuns?: number | null;
  /** Seeds on which the training diverged. */
  readonly diverged: number;
  /** Means over the other ones. */
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
const IN_RUNS: Timing = { inRuns: true };
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

/** Whether the service trains, which can draw the batches itself. */
function isService(optimizer: Optimizer): boolean {
  return [UNTUNED, TUNED].includes(optimizer);
}

/** How the seconds of one optimizer are taken; the least count. */
type Timing = Pick<Trial, 'inRuns' | 'onAllProcessors'>;

/**
 * PyTorch has as many processors as the service: one where that computes in WebAssembly. Where a net is small two may be slower than one,
 * so that both are tried.
 */
function timingsOf(task: Task, optimizer: Optimizer): readonly Timing[] {
  if (isService(optimizer)) return [{}];
  if (CONVOLUTIONAL_TASKS.includes(task)) return [{ onAllProcessors: true }];
  return engineFor(task.network) === 'wasm' ? [{}] : [{}, { onAllProcessors: true }];
}

/** The tuned trials, and some of the chosen ones with the machine to themselves, in rounds of one of each. */
function planOf(store: TrialStore, task: Task): Plan {
  const rounds = timedSeeds(task).map((seed): Plan => {
    const trials = comparedOn(task).flatMap((optimizer) =>
      [...timingsOf(task, optimizer), ...(isService(optimizer) ? [IN_RUNS] : [])].map((timing) => ({
        optimizer,
        chosen: timedTrials(store, task, optimizer, timing, [seed]),
      })),
    );
    return {
      trials: trials.flatMap(({ optimizer, chosen }) => (chosen ?? []).map((trial) => planned(task, optimizer, trial))),
      waiting: trials.filter(({ chosen }) => chosen === null).length,
    };
  });
  return joined([tunedPlan(store, task, comparedOn(task)), ...rounds]);
}

function timedTrials(
  store: TrialStore,
  task: Task,
  optimizer: Optimizer,
  timing: Timing,
  which: readonly number[],
): ReturnType<typeof chosenTrials> {
  return chosenTrials(store, task, optimizer, { seeds: which, alone: true, ...timing });
}

/** Milliseconds a step, the median over the seeds: other work on the machine slows some. Null if all diverged before a point. */
function paceOf(store: TrialStore, task: Task, optimizer: Optimizer, timing: Timing): number | null {
  const outcomes = found(store, timedTrials(store, task, optimizer, timing, timedSeeds(task)));
  const paces = outcomes.flatMap(({ points }) => points.slice(-1).map(({ seconds, step }) => seconds / step));
  return paces.length === 0 ? null : Number((1000 * median(paces)).toPrecision(3));
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
  const whole = outcomes.filter(({ validation }) => validation !== null).map(({ points }) => points);
  const [first = []] = whole;
  const average = (values: readonly number[], digits: number): number => Number(mean(values).toPrecision(digits));
  const paces = timingsOf(task, optimizer).flatMap((timing) => paceOf(store, task, optimizer, timing) ?? []);
  return {
    id: optimizer.id,
    name: optimizer.name,
    millisecondsPerStep: paces.length === 0 ? null : Math.min(...paces),
    ...(isService(optimizer) ? { millisecondsPerStepInRuns: paceOf(store, task, optimizer, IN_RUNS) } : {}),
    diverged: outcomes.length - whole.length,
    curve: first.map(({ step }, index) => ({
      step,
      trainingLoss: average(whole.flatMap((points) => points[index]?.trainingLoss ?? []), 4), // prettier-ignore
      accuracy: average(whole.flatMap((points) => points[index]?.accuracy ?? []), 5), // prettier-ignore
    })),
  };
}

function found(store: TrialStore, trials: ReturnType<typeof chosenTrials>): Outcome[] {
  const outcomes = trials === null ? null : outcomesOf(store, trials);
  if (outcomes === null) throw new Error('a trial of this section has not been run');
  return outcomes;
}

/** The first step after which the mean accuracy is at least this; null if there is none. */
export function firstReaching({ curve }: Pick<OptimizerCurve, 'curve'>, accuracy: number): number | null {
  return curve.find((point) => point.accuracy >= accuracy)?.step ?? null;
}

export function bestAccuracy({ curve }: Pick<OptimizerCurve, 'curve'>): number {
  return Math.max(...curve.map(({ accuracy }) => accuracy));
}
