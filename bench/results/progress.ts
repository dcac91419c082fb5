/** How far a run is, and how long what remains will take. */
import type { Plan, PlannedTrial } from './plan.ts';
import { missingOf } from './runner.ts';
import type { TrialStore } from './store.ts';
import { keyOf } from './trial.ts';

/** Of a trial of which nothing is known yet. */
const GUESSED_MILLISECONDS = 2000;

export class Progress {
  readonly #began = performance.now();
  /** Since this process began. */
  #done = 0;
  #doneMilliseconds = 0;

  /** Counts a trial that has just been run. */
  add(milliseconds: number): void {
    this.#done++;
    this.#doneMilliseconds += milliseconds;
  }

  /** One line: the share of all trials that is done, and an estimate of the rest, as far as it is known. */
  line(store: TrialStore, { trials, waiting }: Plan): string {
    const missing = missingOf(store, trials);
    const all = new Set(trials.map(({ trial }) => keyOf(trial))).size + waiting;
    const remaining = remainingMilliseconds(store, trials, missing, waiting);
    // Several at a time: as fast as it has gone so far.
    const pace = this.#doneMilliseconds > 0 ? (performance.now() - this.#began) / this.#doneMilliseconds : 1;
    const done = all - missing.length - waiting;
    const share = Math.floor((100 * done) / Math.max(all, 1));
    return `${String(share)} % (${String(done)} of ${String(all)} trials), ${spell(remaining * pace)} left, ${String(this.#done)} done now`;
  }
}

function remainingMilliseconds(
  store: TrialStore,
  trials: readonly PlannedTrial[],
  missing: readonly PlannedTrial[],
  waiting: number,
): number {
  const known = new Map<string, number[]>();
  for (const { trial, group } of trials) {
    const outcome = store.outcome(trial);
    if (outcome !== undefined) known.set(group, [...(known.get(group) ?? []), outcome.milliseconds]);
  }
  const overall = mean([...known.values()].flat()) ?? GUESSED_MILLISECONDS;
  const each = missing.map(({ group }) => mean(known.get(group) ?? []) ?? overall);
  return each.reduce((sum, milliseconds) => sum + milliseconds, 0) + waiting * overall;
}

function mean(values: readonly number[]): number | undefined {
  return values.length === 0 ? undefined : values.reduce((sum, value) => sum + value, 0) / values.length;
}

function spell(milliseconds: number): string {
  const minutes = milliseconds / 60_000;
  return minutes < 1 ? 'under a minute' : `${minutes < 10 ? minutes.toFixed(1) : String(Math.round(minutes))} minutes`;
}
