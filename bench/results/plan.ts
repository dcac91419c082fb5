/** What has to be run, and the choice of settings in between. */
import type { TrialStore } from './store.ts';
import { settingsOf, type Optimizer, type Setting } from './optimizers.ts';
import { trialOf, type Task } from './tasks.ts';
import type { Outcome, Trial } from './trial.ts';

export interface PlannedTrial {
  readonly trial: Trial;
  /** Trials of one group take about as long; for the estimate of what remains. */
  readonly group: string;
}

export interface Plan {
  /** Those that can be defined now, whether or not they have been run. */
  readonly trials: readonly PlannedTrial[];
  /** Those that wait for a choice that others decide. */
  readonly waiting: number;
}

export function planned(task: Task, optimizer: Optimizer, trial: Trial): PlannedTrial {
  return { trial, group: `${task.id} ${optimizer.id}` };
}

/** The trials of one setting that have a say in the choice, one a tuning seed. */
export function settingTrials(task: Task, optimizer: Optimizer, setting: Setting): Trial[] {
  const trainer = optimizer.trainer(setting, task);
  const seeds = optimizer.isSlow ? task.tuningSeeds.slice(0, 1) : task.tuningSeeds;
  return seeds.map((seed) => trialOf(task, trainer, { seed, evaluations: 1 }));
}

function tuningTrials(task: Task, optimizer: Optimizer): Trial[] {
  const settings = settingsOf(optimizer, task);
  return settings.length === 1 ? [] : settings.flatMap((setting) => settingTrials(task, optimizer, setting));
}

/**
 * The setting with the best mean accuracy on the validation part over the tuning seeds, of equal ones that with the smallest mean
 * loss; null as long as trials of it are missing. A trial that diverged counts as accuracy 0. The test part has no say in it.
 */
export function choose(store: TrialStore, task: Task, optimizer: Optimizer): Setting | null {
  const settings = settingsOf(optimizer, task);
  const [only] = settings;
  if (settings.length === 1) return only ?? null;
  const scores: { setting: Setting; accuracy: number; loss: number }[] = [];
  for (const setting of settings) {
    const outcomes = outcomesOf(store, settingTrials(task, optimizer, setting));
    if (outcomes === null) return null;
    const mean = (value: (outcome: Outcome) => number): number =>
      outcomes.reduce((sum, outcome) => sum + value(outcome), 0) / outcomes.length;
    scores.push({
      setting,
      accuracy: mean(({ validation }) => validation?.accuracy ?? 0),
      loss: mean(({ validation }) => validation?.loss ?? Number.POSITIVE_INFINITY),
    });
  }
  const best = scores.reduce((left, right) =>
    right.accuracy > left.accuracy || (right.accuracy === left.accuracy && right.loss < left.loss) ? right : left,
  );
  return best.setting;
}

interface ChosenOptions extends Pick<Trial, 'inRuns' | 'onAllProcessors'> {
  readonly seeds?: readonly number[];
  readonly alone?: boolean;
}

function seedsOf({ seeds }: Task, { isSlow }: Optimizer): readonly number[] {
  return isSlow ? seeds.slice(0, seeds.length / 2) : seeds;
}

/** The trials of the chosen setting, one a seed; null as long as it has not been chosen. */
export function chosenTrials(
  store: TrialStore,
  task: Task,
  optimizer: Optimizer,
  { seeds = seedsOf(task, optimizer), alone = false, ...options }: ChosenOptions = {},
): Trial[] | null {
  const setting = choose(store, task, optimizer);
  if (setting === null) return null;
  const trainer = optimizer.trainer(setting, task);
  return seeds.map((seed) => trialOf(task, trainer, { seed, evaluations: task.evaluations, alone, ...options }));
}

/** In the order of the trials; null if any is missing. */
export function outcomesOf(store: TrialStore, trials: readonly Trial[]): Outcome[] | null {
  const outcomes = trials.map((trial) => store.outcome(trial));
  return outcomes.every((outcome) => outcome !== undefined) ? outcomes : null;
}

/** The tuning of these optimizers on a task, and the trials of what it chooses. */
export function tunedPlan(
  store: TrialStore,
  task: Task,
  optimizers: readonly Optimizer[],
  options: ChosenOptions = {},
): Plan {
  const plans = optimizers
    .filter((optimizer) => optimizer.runsOn(task))
    .map((optimizer): Plan => {
      const chosen = chosenTrials(store, task, optimizer, options);
      const trials = [...tuningTrials(task, optimizer), ...(chosen ?? [])];
      return {
        trials: trials.map((trial) => planned(task, optimizer, trial)),
        waiting: chosen === null ? (options.seeds ?? seedsOf(task, optimizer)).length : 0,
      };
    });
  return joined(plans);
}

export function joined(plans: readonly Plan[]): Plan {
  return {
    trials: plans.flatMap(({ trials }) => trials),
    waiting: plans.reduce((sum, { waiting }) => sum + waiting, 0),
  };
}
