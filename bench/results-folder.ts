/** The files of docs/results, as every benchmark writes them: what was measured as JSON, its page, and its figures as SVG and PNG. */
import { existsSync, readFileSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import sharp from 'sharp';
import { digestOf } from './digest.ts';

const RESULTS_FOLDER = new URL('../docs/results/', import.meta.url);
/** Pixels to an inch of a figure, where the SVG's unit is a 72nd of one. */
const DENSITY = 144;

/**
 * @param id of the results, which the JSON is named after
 * @param files page and figures by name
 */
export async function writeResults(id: string, results: object, files: ReadonlyMap<string, string>): Promise<void> {
  await mkdir(RESULTS_FOLDER, { recursive: true });
  await writeFile(new URL(`${id}.json`, RESULTS_FOLDER), `${JSON.stringify(results)}\n`);
  for (const [name, content] of files) {
    await writeFile(new URL(name, RESULTS_FOLDER), content);
    if (name.endsWith('.svg')) await writePng(name, content);
  }
}

/** Digests of the SVGs that the PNGs were made of: a PNG's own bytes depend on the machine's fonts. */
export const PNG_SOURCES = 'figures';

async function writePng(name: string, svg: string): Promise<void> {
  await sharp(Buffer.from(svg), { density: DENSITY })
    .png({ palette: true })
    .toFile(fileURLToPath(new URL(name.replace(/svg$/, 'png'), RESULTS_FOLDER)));
  const sources = { ...(readResults(PNG_SOURCES) as Record<string, string> | undefined), [name]: digestOf(svg) };
  const sorted = Object.entries(sources).toSorted(([a], [b]) => (a < b ? -1 : 1));
  await writeFile(
    new URL(`${PNG_SOURCES}.json`, RESULTS_FOLDER),
    `${JSON.stringify(Object.fromEntries(sorted), null, 2)}\n`,
  );
}

/** What an earlier run has written; undefined if none has. */
export function readResults(id: string): unknown {
  const file = new URL(`${id}.json`, RESULTS_FOLDER);
  return existsSync(file) ? (JSON.parse(readFileSync(file, 'utf8')) as unknown) : undefined;
}
