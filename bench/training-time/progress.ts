/** What has been measured so far, in a file that git ignores, so that a run that was stopped goes on where it was. */
import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import * as path from 'node:path';
import type { Point, Tuning } from './measure.ts';

const FOLDER = fileURLToPath(new URL('../../.bench/', import.meta.url));

interface Entries {
  readonly tunings: Record<string, Tuning>;
  readonly curves: Record<string, readonly Point[]>;
}

export class Progress {
  readonly #file: string;
  #entries: Entries;

  /** @param name of the file */
  constructor(name: string) {
    this.#file = path.join(FOLDER, `${name}.json`);
    this.#entries = readEntries(this.#file) ?? { tunings: {}, curves: {} };
  }

  tuning(key: string): Tuning | undefined {
    return this.#entries.tunings[key];
  }

  curve(key: string): readonly Point[] | undefined {
    return this.#entries.curves[key];
  }

  addTuning(key: string, tuning: Tuning): void {
    this.#entries.tunings[key] = tuning;
    this.#store();
  }

  addCurves(curves: readonly (readonly [key: string, curve: readonly Point[]])[]): void {
    Object.assign(this.#entries.curves, Object.fromEntries(curves));
    this.#store();
  }

  /** Forgets everything. */
  clear(): void {
    rmSync(this.#file, { force: true });
    this.#entries = { tunings: {}, curves: {} };
  }

  #store(): void {
    mkdirSync(FOLDER, { recursive: true });
    // Under another name first: a run that is stopped while it writes must not lose what was there.
    writeFileSync(`${this.#file}.new`, JSON.stringify(this.#entries));
    renameSync(`${this.#file}.new`, this.#file);
  }
}

function readEntries(file: string): Entries | null {
  try {
    return JSON.parse(readFileSync(file, 'utf8')) as Entries;
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return null;
    throw error;
  }
}
