/** The device's work for one session: in its turn, on its state while the device has that, and counted. */
import { ProblemError } from '../../shared/errors.ts';
import { sessionNotFound, type SessionId } from '../../shared/session.ts';
import type { Compute } from '../engine/compute.ts';
import type { ComputeQueue } from '../engine/queue.ts';

/** Measures what the device does; {@link elapsed} is in milliseconds, on a clock that never goes back. */
export interface Meter {
  readonly elapsed: () => number;
  /** A piece of work has waited so many seconds for its turn. */
  readonly waited: (seconds: number) => void;
  /** A step has been computed, in so many seconds; so many of its inversions failed. */
  readonly stepped: (seconds: number, failedFactorizations: number) => void;
}

/** What a session has taken of the service since it was last asked. */
export interface SessionUsage {
  readonly steps: number;
  readonly computeSeconds: number;
}

export const NO_USAGE: SessionUsage = { steps: 0, computeSeconds: 0 };

export function addUsage(a: SessionUsage, b: SessionUsage): SessionUsage {
  return { steps: a.steps + b.steps, computeSeconds: a.computeSeconds + b.computeSeconds };
}

export interface ComputeResources {
  readonly compute: Compute;
  readonly queue: ComputeQueue;
  readonly meter: Meter;
}

export class SessionCompute {
  readonly #id: SessionId;
  readonly #resources: ComputeResources;
  /** Whether the device holds the state. */
  #isOpen = false;
  #isClosed = false;
  /** What requests for a closed session are told. */
  #gone: ProblemError;
  /** Settles when the last applied step is acknowledged, or is undone. */
  #acknowledging: Promise<void> = Promise.resolve();
  /** Not reported yet. */
  #usage = NO_USAGE;

  constructor(id: SessionId, resources: ComputeResources) {
    this.#id = id;
    this.#resources = resources;
    this.#gone = sessionNotFound(id);
  }

  get isOpen(): boolean {
    return this.#isOpen;
  }

  get isClosed(): boolean {
    return this.#isClosed;
  }

  /** The device holds the state from now on. */
  opened(): void {
    this.#isOpen = true;
  }

  /** @throws ProblemError if the session is closed */
  assertNotClosed(): void {
    if (this.#isClosed) throw this.#gone;
  }

  /** Work in the session's turn on a state that is acknowledged. @throws ProblemError as `ComputeQueue.run`; `session_not_found` */
  inTurn<Result>(work: () => Result | Promise<Result>, signal?: AbortSignal): Promise<Result> {
    return this.#resources.queue.run(this.#id, this.#acknowledged(work), signal);
  }

  /** As {@link inTurn}, for what the worker gives itself to do, one piece after the other: never refused. */
  inTurnAlways<Result>(work: () => Result | Promise<Result>, signal?: AbortSignal): Promise<Result> {
    return this.#resources.queue.runAlways(this.#id, this.#acknowledged(work), signal);
  }

  #acknowledged<Result>(work: () => Result | Promise<Result>): () => Promise<Result> {
    const { meter } = this.#resources;
    const asked = meter.elapsed();
    return async () => {
      meter.waited((meter.elapsed() - asked) / 1000);
      await this.#acknowledging;
      this.assertNotClosed();
      return work();
    };
  }

  /** Work on the state, in the session's turn. @throws ProblemError as {@link inTurn} and {@link assertOpen} */
  onDevice<Result>(work: (compute: Compute) => Promise<Result>, signal?: AbortSignal): Promise<Result> {
    return this.inTurn(() => {
      this.assertOpen();
      return this.metered(() => work(this.#resources.compute));
    }, signal);
  }

  /** @throws ProblemError if the state was given up since the request came */
  assertOpen(): void {
    if (this.#isOpen) return;
    throw new ProblemError('storage_unavailable', {
      detail: `A step of session ${this.#id} could not be stored; the session goes back to the step before it.`,
      remedy: 'Send the same request again.',
    });
  }

  /** Does some of the device's work, and counts its time, also of work that comes to nothing. */
  async metered<Result>(work: () => Promise<Result>): Promise<Result> {
    const { meter } = this.#resources;
    const begun = meter.elapsed();
    try {
      return await work();
    } finally {
      this.#usage = addUsage(this.#usage, { steps: 0, computeSeconds: (meter.elapsed() - begun) / 1000 });
    }
  }

  countStep(): void {
    this.#usage = addUsage(this.#usage, { steps: 1, computeSeconds: 0 });
  }

  /** What was computed since this was last asked: whoever asks accounts for it, so that nothing is counted twice. */
  takeUsage(): SessionUsage {
    const usage = this.#usage;
    this.#usage = NO_USAGE;
    return usage;
  }

  /** Nothing else is done in the session's turn before a step is acknowledged, or undone. */
  acknowledge(step: Promise<void>): void {
    this.#acknowledging = step;
  }

  /** Settles when the last applied step is acknowledged, or is undone. */
  get acknowledged(): Promise<void> {
    return this.#acknowledging;
  }

  /** The next request has the state computed anew from what is stored. */
  giveUpState(): void {
    this.#isOpen = false;
    if (!this.#isClosed) this.#resources.compute.close(this.#id);
  }

  /** @param gone what requests are told from now on; unless given, that there is no such session any more */
  close(gone?: ProblemError): void {
    this.#isClosed = true;
    if (gone !== undefined) this.#gone = gone;
    this.#resources.compute.close(this.#id);
  }
}
