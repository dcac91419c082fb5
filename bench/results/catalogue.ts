/** All items, in the order in which they are run, with the pages that they make. */
import type { Files, Item, ResultsHeader, Section } from './item.ts';
import { ablation } from './items/ablation.ts';
import { accuracy } from './items/accuracy.ts';
import { defaultRate } from './items/default-rate.ts';
import { feedback } from './items/feedback.ts';
import { sensitivity } from './items/sensitivity.ts';
import { untuned } from './items/untuned.ts';
import { renderAblation } from './report/ablation.ts';
import { renderAccuracy } from './report/accuracy.ts';
import { renderDefaultRate } from './report/default-rate.ts';
import { renderFeedback } from './report/feedback.ts';
import { renderSensitivity } from './report/sensitivity.ts';
import { renderUntuned } from './report/untuned.ts';
import type { TrialStore } from './store.ts';

export interface Pages {
  /** What is stored as JSON; the files are made of it. */
  readonly stored: object;
  readonly files: Files;
}

export interface Entry {
  readonly id: string;
  readonly sections: readonly Section[];
  readonly pages: (store: TrialStore, complete: ReadonlySet<string>, header: ResultsHeader) => Pages;
  /** The files of an item's stored JSON. */
  readonly render: (stored: unknown) => Files;
}

function entry<Results extends object>(
  { id, sections, results }: Item<Results>,
  render: (stored: ResultsHeader & Results) => Files,
): Entry {
  return {
    id,
    sections,
    pages(store, complete, header) {
      const stored = { ...header, ...results(store, complete) };
      return { stored, files: render(stored) };
    },
    // The file is this item's own: nobody else writes it.
    render: (stored) => render(stored as ResultsHeader & Results),
  };
}

export const CATALOGUE: readonly Entry[] = [
  entry(accuracy, renderAccuracy),
  entry(sensitivity, renderSensitivity),
  entry(feedback, renderFeedback),
  entry(defaultRate, renderDefaultRate),
  entry(untuned, renderUntuned),
  entry(ablation, renderAblation),
];
