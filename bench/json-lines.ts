/**
 * Files of one JSON value a line, to which a benchmark adds what it has measured, so that it goes on where it was stopped. A process
 * that is killed while it writes leaves a line without an end, which the next one takes away; every other line stands.
 */
import { appendFileSync, existsSync, mkdirSync, readFileSync, renameSync, truncateSync, writeFileSync } from 'node:fs';
import path from 'node:path';

/** The values in the order in which they were added; none where there is no file. */
export function readJsonLines(file: string): unknown[] {
  if (!existsSync(file)) return [];
  const bytes = readFileSync(file);
  const end = bytes.lastIndexOf('\n') + 1;
  if (end < bytes.length) truncateSync(file, end);
  const lines = bytes.toString('utf8', 0, end).split('\n');
  return lines.filter((line) => line !== '').map((line): unknown => JSON.parse(line));
}

/** @param file is made, with its folder, if there is none */
export function appendJsonLine(file: string, value: unknown): void {
  mkdirSync(path.dirname(file), { recursive: true });
  appendFileSync(file, `${JSON.stringify(value)}\n`);
}

/** Puts these values in the place of all that the file had, or of none: a process that is killed meanwhile leaves it as it was. */
export function writeJsonLines(file: string, values: readonly unknown[]): void {
  mkdirSync(path.dirname(file), { recursive: true });
  const next = `${file}.next`;
  writeFileSync(next, values.map((value) => `${JSON.stringify(value)}\n`).join(''));
  renameSync(next, file);
}
