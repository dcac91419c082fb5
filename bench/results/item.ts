/** A question, the trials that answer it, and the page that says what they came to. */
import type { Plan } from './plan.ts';
import type { TrialStore } from './store.ts';

/** What is run, and reported, as a whole. */
export interface Section {
  readonly id: string;
  /** Whether the quick run has it. */
  readonly isQuick: boolean;
  readonly plan: (store: TrialStore) => Plan;
}

/** What every item's stored JSON begins with. */
export interface ResultsHeader {
  readonly command: string;
  readonly machine: string;
  /** Of the code that the trials ran with. */
  readonly revisions: readonly string[];
  /** The service's tensor engines, and PyTorch. */
  readonly trainers: readonly string[];
  /** Sections that have not been run. */
  readonly missing: readonly string[];
}

/** Files by name. */
export type Files = ReadonlyMap<string, string>;

export interface Item<Results extends object> {
  /** Of the option --only, and of the files. */
  readonly id: string;
  readonly sections: readonly Section[];
  /** What the sections that are complete came to, one at least. */
  readonly results: (store: TrialStore, complete: ReadonlySet<string>) => Results;
}

/** Whether every trial of it has been run. */
export function isComplete(store: TrialStore, { plan }: Section): boolean {
  const { trials, waiting } = plan(store);
  return waiting === 0 && trials.every(({ trial }) => store.outcome(trial) !== undefined);
}

/** Who computed the trials of these sections. */
export function versionsOf(
  store: TrialStore,
  sections: readonly Section[],
): Pick<ResultsHeader, 'revisions' | 'trainers'> {
  const versions = sections
    .flatMap(({ plan }) => plan(store).trials)
    .flatMap(({ trial }) => store.versions(trial) ?? []);
  const distinct = (values: readonly string[]): string[] => [...new Set(values)].toSorted();
  return {
    revisions: distinct(versions.map(({ revision }) => revision)),
    trainers: distinct(versions.map(({ trainer }) => trainer)),
  };
}
