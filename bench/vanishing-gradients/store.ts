/**
 * What runs have come to, in a file that git ignores: one line of JSON each, so that a benchmark that is stopped goes on where it was.
 * A line without an end, left by a process that was killed while it wrote, is taken away.
 */
import { appendFileSync, existsSync, mkdirSync, readFileSync, rmSync, truncateSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const FOLDER = fileURLToPath(new URL('../../.bench/', import.meta.url));

export class Store<Value> {
  readonly #file: string;
  readonly #values = new Map<string, Value>();

  /** @param name of the file */
  constructor(name: string) {
    this.#file = path.join(FOLDER, `${name}.jsonl`);
    if (!existsSync(this.#file)) return;
    const bytes = readFileSync(this.#file);
    const end = bytes.lastIndexOf('\n') + 1;
    if (end < bytes.length) truncateSync(this.#file, end);
    for (const line of bytes.toString('utf8', 0, end).split('\n')) {
      if (line === '') continue;
      const [key, value] = JSON.parse(line) as [string, Value];
      this.#values.set(key, value);
    }
  }

  get(key: string): Value | undefined {
    return this.#values.get(key);
  }

  set(key: string, value: Value): void {
    mkdirSync(FOLDER, { recursive: true });
    appendFileSync(this.#file, `${JSON.stringify([key, value])}\n`);
    this.#values.set(key, value);
  }

  /** Forgets everything. */
  clear(): void {
    rmSync(this.#file, { force: true });
    this.#values.clear();
  }
}
