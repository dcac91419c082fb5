/** Bytes that several may hold together. */
import { ProblemError } from '../../shared/errors.ts';

export class ByteBudget {
  readonly #limit: number;
  readonly #what: string;
  #held = 0;

  /** @param what holds them, in words: "Bodies that are being worked on" */
  constructor(limit: number, what: string) {
    this.#limit = limit;
    this.#what = what;
  }

  /** @throws ProblemError `memory_full` if there is not so much left */
  take(bytes: number): void {
    if (this.#held + bytes > this.#limit) {
      throw new ProblemError('memory_full', {
        detail: `${this.#what} take ${String(this.#held)} bytes; with ${String(bytes)} more they would exceed ${String(this.#limit)}.`,
        remedy: 'Send the same request again in a second.',
      });
    }
    this.#held += bytes;
  }

  free(bytes: number): void {
    this.#held -= bytes;
  }
}
