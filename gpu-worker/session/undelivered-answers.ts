/** Answers on their way to clients: what a slow reader has not taken yet stays in the worker's memory. */
import { ProblemError } from '../../shared/errors.ts';
import type { Compute } from '../engine/compute.ts';

export class UndeliveredAnswers {
  readonly #limit: number;
  /** On how many connections each is being sent: copies of a step's reply are the same memory. */
  readonly #connections = new Map<ArrayBuffer, number>();
  #bytes = 0;

  /** @param limit bytes of answers from which on no more are computed; what has just been computed by then comes on top of it */
  constructor(limit: number) {
    this.#limit = limit;
  }

  /** Counts an answer while it is sent on one connection. @returns to be called once, when it is delivered or given up */
  hold({ buffer }: Uint8Array<ArrayBuffer>): () => void {
    const others = this.#connections.get(buffer) ?? 0;
    if (others === 0) this.#bytes += buffer.byteLength;
    this.#connections.set(buffer, others + 1);
    return () => {
      const remaining = (this.#connections.get(buffer) ?? 0) - 1;
      if (remaining > 0) {
        this.#connections.set(buffer, remaining);
        return;
      }
      this.#connections.delete(buffer);
      this.#bytes -= buffer.byteLength;
    };
  }

  /**
   * The device's work without what would make more answers while too many are undelivered: that throws ProblemError `memory_full`
   * in its turn, before anything is computed.
   */
  limiting(compute: Compute): Compute {
    return {
      ...compute,
      step: async (id, body) => {
        this.admit();
        return compute.step(id, body);
      },
      weights: async (id) => {
        this.admit();
        return compute.weights(id);
      },
      predict: async (id, body) => {
        this.admit();
        return compute.predict(id, body);
      },
      solve: async (options, body) => {
        this.admit();
        return compute.solve(options, body);
      },
    };
  }

  /** @throws ProblemError `memory_full` while too much is undelivered */
  admit(): void {
    if (this.#bytes < this.#limit) return;
    throw new ProblemError('memory_full', {
      detail: `Answers of ${String(this.#bytes)} bytes have been made and not read by their clients; the most are ${String(this.#limit)}.`,
      remedy: 'Read answers as they come, and send the same request again in a second.',
    });
  }
}
