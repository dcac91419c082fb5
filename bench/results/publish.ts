/** Pages and figures of docs/results, from what is stored. */
import { provenance } from '../provenance.ts';
import { readResults, writeResults } from '../results-folder.ts';
import type { Entry, Pages } from './catalogue.ts';
import { isComplete, versionsOf } from './item.ts';
import { renderClaims } from './report/claims.ts';
import type { TrialStore } from './store.ts';

/** null as long as no section of the item is complete. */
export function makePages(store: TrialStore, entry: Entry): Pages | null {
  const { id, sections, pages } = entry;
  const done = sections.filter((section) => isComplete(store, section));
  if (done.length === 0) return null;
  return pages(store, new Set(done.map((section) => section.id)), {
    command: `npm run bench:results -- --only ${id}`,
    machine: provenance('').machine,
    ...versionsOf(store, done),
    missing: sections.filter((section) => !done.includes(section)).map((section) => section.id),
  });
}

/** What the page of claims may be made of. */
const SOURCES = [
  'accuracy',
  'sensitivity',
  'feedback',
  'ablation',
  'untuned',
  'vanishing-gradients',
  'time-memory',
] as const;
type Source = (typeof SOURCES)[number];

/** What the page of claims has been made of. */
interface ClaimSources {
  readonly sources: readonly Source[];
}

/** The page of claims as the stored results have it, from those that it was made of. */
export function claimsPage(): string {
  return pageOf((readResults('claims') as ClaimSources).sources);
}

/** Writes the page of claims, from whatever results are stored. */
export async function writeClaims(): Promise<void> {
  const sources = SOURCES.filter((id) => readResults(id) !== undefined);
  await writeResults('claims', { sources } satisfies ClaimSources, new Map([['README.md', pageOf(sources)]]));
}

function pageOf(sources: readonly Source[]): string {
  return renderClaims(Object.fromEntries(sources.map((id) => [id, readResults(id)])));
}
