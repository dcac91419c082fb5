/** Data sets in a worker's memory: those that runs draw from, and others as long as there is room. */
import { ProblemError } from '../../shared/errors.ts';

/** A data set that can be read again. */
export interface LoadedData {
  /** Gives up what it holds in memory. */
  readonly unload: () => void;
}

interface Held {
  readonly bytes: number;
  /** Whether a run draws from it. */
  readonly isInUse: boolean;
}

export class DataMemory {
  readonly #limit: number;
  /** In the order in which they were used, the latest last. */
  readonly #held = new Map<LoadedData, Held>();

  /** @param limit bytes of all of them */
  constructor(limit: number) {
    this.#limit = limit;
  }

  /** Has room for a data set until {@link release}; others that nobody uses make way. @throws ProblemError `memory_full` */
  use(data: LoadedData, bytes: number): void {
    this.#held.delete(data);
    let total = bytes + [...this.#held.values()].reduce((sum, held) => sum + held.bytes, 0);
    for (const [other, held] of this.#held) {
      if (total <= this.#limit) break;
      if (held.isInUse) continue;
      other.unload();
      this.#held.delete(other);
      total -= held.bytes;
    }
    if (total > this.#limit) {
      data.unload();
      throw new ProblemError('memory_full', {
        detail: `Data sets that runs draw from take ${String(total - bytes)} bytes; with ${String(bytes)} more they would exceed ${String(this.#limit)}.`,
        remedy: 'Send the same request again when other runs have ended.',
      });
    }
    this.#held.set(data, { bytes, isInUse: true });
  }

  /** No run draws from it any more; it may stay. */
  release(data: LoadedData): void {
    const held = this.#held.get(data);
    if (held !== undefined) this.#held.set(data, { ...held, isInUse: false });
  }

  /** It is gone. */
  forget(data: LoadedData): void {
    this.#held.delete(data);
  }
}
