/** A question, the trials that answer it, and the page that says what they came to. */
import type { Provenance } from '../provenance.ts';
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
export interface ResultsHeader extends Provenance {
  readonly command: string;
  readonly torch: string;
  /** Sections that have not been run. */
  readonly missing: readonly string[];
}

/** Files by name. */
export type Files = ReadonlyMap<string, string>;

export interface Item {
  /** Of the option --only, and of the files. */
  readonly id: string;
  readonly title: string;
  readonly sections: readonly Section[];
  /** What the sections that are complete came to, for the JSON. */
  readonly results: (store: TrialStore, complete: ReadonlySet<string>) => object;
}

/** Whether every trial of it has been run. */
export function isComplete(store: TrialStore, { plan }: Section): boolean {
  const { trials, waiting } = plan(store);
  return waiting === 0 && trials.every(({ trial }) => store.outcome(trial) !== undefined);
}
