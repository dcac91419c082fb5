/** What trials have come to, in a file that git ignores: one line each, added when the trial is done. */
import { rmSync } from 'node:fs';
import { appendJsonLine, readJsonLines, writeJsonLines } from '../json-lines.ts';
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
    for (const line of readJsonLines(file) as Line[]) this.#lines.set(line.key, line);
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
    appendJsonLine(this.#file, line);
    this.#lines.set(line.key, line);
  }

  /** Forgets these trials, as far as it has them. */
  forget(trials: readonly Trial[]): void {
    for (const trial of trials) this.#lines.delete(keyOf(trial));
    writeJsonLines(this.#file, [...this.#lines.values()]);
  }

  /** Forgets everything. */
  clear(): void {
    rmSync(this.#file, { force: true });
    this.#lines.clear();
  }
}
