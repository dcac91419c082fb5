/** Pages and figures of docs/results, from what is stored. */
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import sharp from 'sharp';
import { provenance } from '../provenance.ts';
import type { Entry, Pages } from './catalogue.ts';
import { isComplete, versionsOf } from './item.ts';
import { renderClaims, type StoredResults } from './report/claims.ts';
import type { TrialStore } from './store.ts';

const FOLDER = new URL('../../docs/results/', import.meta.url);
/** Pixels to an inch of a figure, where the SVG's unit is a 72nd of one. */
const DENSITY = 144;

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

/** Writes the JSON, the page, and every figure as SVG and PNG. */
export async function writePages(id: string, { stored, files }: Pages): Promise<void> {
  await mkdir(FOLDER, { recursive: true });
  await writeFile(new URL(`${id}.json`, FOLDER), `${JSON.stringify(stored)}\n`);
  for (const [name, content] of files) {
    await writeFile(new URL(name, FOLDER), content);
    if (!name.endsWith('.svg')) continue;
    const target = fileURLToPath(new URL(name.replace(/svg$/, 'png'), FOLDER));
    await sharp(Buffer.from(content), { density: DENSITY }).png({ palette: true }).toFile(target);
  }
}

/** What is stored in docs/results, whoever ran it. */
export async function storedResults(): Promise<StoredResults> {
  const entries = await Promise.all(
    (['accuracy', 'sensitivity', 'feedback', 'ablation', 'untuned'] as const).map(async (id) => [id, await stored(id)]),
  );
  return Object.fromEntries(entries.filter(([, content]) => content !== null)) as StoredResults;
}

async function stored(id: string): Promise<unknown> {
  try {
    return JSON.parse(await readFile(new URL(`${id}.json`, FOLDER), 'utf8'));
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return null;
    throw error;
  }
}

/** Writes the page of claims, from the stored results. */
export async function writeClaims(): Promise<void> {
  await writeFile(new URL('README.md', FOLDER), renderClaims(await storedResults()));
}
