/** Pages and figures of docs/results, from what is stored. */
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { provenance } from '../provenance.ts';
import { RESULTS_FOLDER } from '../results-folder.ts';
import type { Entry, Pages } from './catalogue.ts';
import { isComplete, versionsOf } from './item.ts';
import { renderClaims, type StoredResults } from './report/claims.ts';
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
export async function claimsPage(): Promise<string> {
  const { sources } = JSON.parse(await readFile(new URL('claims.json', RESULTS_FOLDER), 'utf8')) as ClaimSources;
  return renderClaims(await storedResults(sources));
}

/** Writes the page of claims, from whatever results are stored. */
export async function writeClaims(): Promise<void> {
  const present = await readdir(RESULTS_FOLDER);
  const sources = SOURCES.filter((id) => present.includes(`${id}.json`));
  await writeFile(new URL('claims.json', RESULTS_FOLDER), `${JSON.stringify({ sources } satisfies ClaimSources)}\n`);
  await writeFile(new URL('README.md', RESULTS_FOLDER), renderClaims(await storedResults(sources)));
}

async function storedResults(sources: readonly Source[]): Promise<StoredResults> {
  const entries = sources.map(
    async (id) => [id, JSON.parse(await readFile(new URL(`${id}.json`, RESULTS_FOLDER), 'utf8')) as unknown] as const,
  );
  return Object.fromEntries(await Promise.all(entries));
}
