/**
 * What trials have come to, in a file that git ignores: one line of JSON each, added when the trial is done. A process that is killed
 * while it writes leaves a line without an end, which the next one takes away; every other line stands.
 */
import { appendFileSync, existsSync, mkdirSync, readFileSync, rmSync, truncateSync } from 'node:fs';
import path from 'node:path';
import { keyOf, type Outcome, type Trial } from './trial.ts';

/** Who computed it. */
export interface Versions {
  readonly revision: string;
  /** The service's tensor engine, or PyTorch. */
  readonly trainer: string;
}

interface Line {
  readonly key: string;
  readonly trial: Trial;
  readonly outcome: Outcome;
  readonly versions: Versions;
}

export class TrialStore {
  readonly #file: string;
  readonly #lines = new Map<string, Line>();

  /** @param file is made with the first outcome */
  constructor(file: string) {
    this.#file = file;
    if (!existsSync(file)) return;
    const bytes = readFileSync(file);
    const end = bytes.lastIndexOf('\n') + 1;
    if (end < bytes.length) truncateSync(file, end);
    for (const text of bytes.toString('utf8', 0, end).split('\n')) {
      if (text === '') continue;
      const line = JSON.parse(text) as Line;
      this.#lines.set(line.key, line);
    }
  }

  get size(): number {
    return this.#lines.size;
  }

  outcome(trial: Trial): Outcome | undefined {
    return this.#lines.get(keyOf(trial))?.outcome;
  }

  versions(trial: Trial): Versions | undefined {
    return this.#lines.get(keyOf(trial))?.versions;
  }

  add(trial: Trial, outcome: Outcome, versions: Versions): void {
    const line: Line = { key: keyOf(trial), trial, outcome, versions };
    mkdirSync(path.dirname(this.#file), { recursive: true });
    appendFileSync(this.#file, `${JSON.stringify(line)}\n`);
    this.#lines.set(line.key, line);
  }

  /** Forgets everything. */
  clear(): void {
    rmSync(this.#file, { force: true });
    this.#lines.clear();
  }
}
