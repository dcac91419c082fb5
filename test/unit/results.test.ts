/** The pages of results are what their stored JSON says, and no number in them is typed by hand. */
import { readFile } from 'node:fs/promises';
import { expect, it } from 'vitest';
import { renderResults, type QuickstartResults } from '../../bench/quickstart/report.ts';

const FOLDER = new URL('../../docs/results/', import.meta.url);

it('docs/results/quickstart.md is made from quickstart.json', async () => {
  const stored = JSON.parse(await readFile(new URL('quickstart.json', FOLDER), 'utf8')) as QuickstartResults;
  expect(await readFile(new URL('quickstart.md', FOLDER), 'utf8')).toBe(renderResults(stored));
});
