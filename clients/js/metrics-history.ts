/** What a session's steps reported, as columns that a plot takes. */
import type { StepMetrics } from '../../shared/session.ts';

/** A step as the client saw it. */
export interface StepRecord {
  readonly metrics: StepMetrics;
  /** From the request to the answer's last byte, attempts and waits included. */
  readonly milliseconds: number;
  readonly bytesSent: number;
  readonly bytesReceived: number;
}

/** One array per quantity, all of one length, in the order of the steps. */
export interface MetricsColumns {
  readonly step: number[];
  /** Mean loss of each step's batch before it. */
  readonly loss: number[];
  /** And after it; null where it is not known. */
  readonly lossAfter: (number | null)[];
  readonly learningRate: number[];
  readonly milliseconds: number[];
  /** Both ways. */
  readonly bytes: number[];
}

export class MetricsHistory {
  readonly #records: StepRecord[] = [];
  readonly #limit: number;

  /** @param limit steps that are kept, the last ones */
  constructor(limit = 100_000) {
    this.#limit = limit;
  }

  add(record: StepRecord): void {
    this.#records.push(record);
    // By a tenth at a time, since every removal moves the rest.
    if (this.#records.length > 1.1 * this.#limit) this.#records.splice(0, this.#records.length - this.#limit);
  }

  get records(): readonly StepRecord[] {
    return this.#records.slice(-this.#limit);
  }

  get columns(): MetricsColumns {
    const { records } = this;
    return {
      step: records.map(({ metrics }) => metrics.step),
      loss: records.map(({ metrics }) => metrics.loss),
      lossAfter: records.map(({ metrics }) => metrics.lossAfter),
      learningRate: records.map(({ metrics }) => metrics.learningRate),
      milliseconds: records.map(({ milliseconds }) => milliseconds),
      bytes: records.map(({ bytesSent, bytesReceived }) => bytesSent + bytesReceived),
    };
  }
}
