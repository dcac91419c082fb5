/** What runs have come to, in a file that git ignores, so that a benchmark that is stopped goes on where it was. */
import { rmSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { appendJsonLine, readJsonLines } from '../json-lines.ts';

const FOLDER = fileURLToPath(new URL('../../.bench/', import.meta.url));

export class Store<Value> {
  readonly #file: string;
  readonly #values = new Map<string, Value>();

  /** @param name of the file */
  constructor(name: string) {
    this.#file = path.join(FOLDER, `${name}.jsonl`);
    const lines = readJsonLines(this.#file) as [string, Value][];
    for (const [key, value] of lines) this.#values.set(key, value);
  }

  get(key: string): Value | undefined {
    return this.#values.get(key);
  }

  set(key: string, value: Value): void {
    appendJsonLine(this.#file, [key, value]);
    this.#values.set(key, value);
  }

  /** Forgets everything. */
  clear(): void {
    rmSync(this.#file, { force: true });
    this.#values.clear();
  }
}
