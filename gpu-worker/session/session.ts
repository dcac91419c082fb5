/**
 * One training session: its state, its sequence numbers and its last reply.
 *
 * A step is applied once: the sequence number says which step it is, the digest of its body whether it is the same one again.
 */
import { ProblemError } from '../../shared/errors.ts';
import {
  sessionNotFound,
  type Session,
  type SessionDefinition,
  type SessionId,
  type StepMetrics,
} from '../../shared/session.ts';
import type { Compute } from '../engine/compute.ts';
import type { ComputeQueue } from '../engine/queue.ts';
import type { Answer } from '../training/trainer.ts';
import { SharedJob } from './shared-job.ts';

/** The body of a step with its SHA-256, in hexadecimal. */
export interface StepBody {
  /** Not the caller's any more once the step is computed. */
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly digest: string;
}

interface RetainedReply {
  readonly step: number;
  readonly digest: string;
  readonly answer: Answer;
}

export interface SessionResources {
  readonly compute: Compute;
  readonly queue: ComputeQueue;
  /** Milliseconds since the epoch. */
  readonly now: () => number;
}

export class TrainingSession {
  readonly id: SessionId;
  readonly definition: SessionDefinition;
  readonly #resources: SessionResources;
  readonly #createdAt: number;
  #lastUsed: number;
  #openRequests = 0;
  #nextStep = 0;
  #metrics: StepMetrics | null = null;
  #lastReply: RetainedReply | null = null;
  #closed = false;
  /** Steps in the queue, by number and digest: a copy waits with the first one and takes no place of its own. */
  readonly #waiting = new Map<string, SharedJob<Answer>>();
  /** Requests for steps, from their arrival to their answer, by what cancels them. */
  readonly #stepRequests = new Map<AbortController, number>();
  #isComputing = false;

  constructor(id: SessionId, definition: SessionDefinition, resources: SessionResources) {
    this.id = id;
    this.definition = definition;
    this.#resources = resources;
    this.#createdAt = resources.now();
    this.#lastUsed = this.#createdAt;
  }

  /** Makes the session's initial state on the device. @throws ProblemError `queue_full`, `session_not_found` if it was deleted */
  async open(): Promise<void> {
    const { queue, compute } = this.#resources;
    await queue.run(this.id, () => {
      if (this.#closed) throw sessionNotFound(this.id);
      return compute.open(this.id, this.definition);
    });
  }

  /** Does some work for a request; until it is done the session does not expire. */
  async use<Result>(work: () => Promise<Result>): Promise<Result> {
    this.#openRequests++;
    try {
      return await work();
    } finally {
      this.#openRequests--;
      this.touch();
    }
  }

  /** Marks the session as used, which puts off its expiry. */
  touch(): void {
    this.#lastUsed = this.#resources.now();
  }

  isExpired(now: number): boolean {
    return this.#openRequests === 0 && now >= this.#expiresAt;
  }

  get #expiresAt(): number {
    return this.#lastUsed + this.definition.ttlSeconds * 1000;
  }

  describe(): Session {
    return {
      id: this.id,
      ...this.definition,
      nextStep: this.#nextStep,
      metrics: this.#metrics,
      engine: this.#resources.compute.engine,
      createdAt: new Date(this.#createdAt).toISOString(),
      expiresAt: new Date(this.#expiresAt).toISOString(),
    };
  }

  /**
   * Does the work of a request for step n, from before its body is read.
   *
   * @param request is aborted when the step is cancelled
   * @throws ProblemError as {@link step}; by the number alone before the work begins
   */
  async useForStep<Result>(n: number, request: AbortController, work: () => Promise<Result>): Promise<Result> {
    this.#replyTo(n);
    this.#stepRequests.set(request, n);
    try {
      return await this.use(work);
    } finally {
      this.#stepRequests.delete(request);
    }
  }

  /**
   * Applies step n, or answers it again if it was the last one applied.
   *
   * @param signal of the request. A step is taken out of the queue when all requests for it are aborted; one that is being
   *   computed is applied, and its reply kept
   * @throws ProblemError `step_out_of_order`, `reply_not_retained`, `step_conflict`, `queue_full`, the codes of `Trainer.step`, the
   *   signal's reason; the session is then as it was before
   */
  async step(n: number, body: StepBody, signal?: AbortSignal): Promise<Answer> {
    // Checked twice: here, to refuse before the body waits in the queue, and in its turn, when earlier steps have been applied.
    const retained = this.#answerFor(n, body.digest);
    if (retained !== null) return retained;
    signal?.throwIfAborted();
    const key = `${String(n)} ${body.digest}`;
    const same = this.#waiting.get(key);
    if (same?.isAbandoned === false) return same.wait(signal);
    const compute = (): Answer | Promise<Answer> => this.#answerFor(n, body.digest) ?? this.#apply(n, body);
    const job = new SharedJob((abandoned) => this.#resources.queue.run(this.id, compute, abandoned));
    this.#waiting.set(key, job);
    try {
      return await job.wait(signal);
    } finally {
      if (this.#waiting.get(key) === job) this.#waiting.delete(key);
    }
  }

  /**
   * Cancels step n for everybody who waits for it. A step that does not wait, or not any more, is none to cancel: that it is not
   * there is what was asked for.
   *
   * @throws ProblemError `step_in_progress`, `step_applied`, `step_out_of_order`; the step is then left as it is
   */
  cancel(n: number): void {
    if (this.#closed) throw sessionNotFound(this.id);
    if (n > this.#nextStep) throw this.#outOfOrder(n);
    if (n < this.#nextStep) {
      throw new ProblemError('step_applied', {
        param: 'n',
        detail: `Step ${String(n)} has been applied, which cannot be undone.`,
        remedy: `Go on with step ${String(this.#nextStep)}.`,
      });
    }
    if (this.#isComputing) {
      throw new ProblemError('step_in_progress', {
        param: 'n',
        detail: `Step ${String(n)} is being computed; only a step that waits can be cancelled.`,
        remedy: 'GET the session to see whether it was applied; send the same step again to get its reply.',
      });
    }
    for (const [request, step] of this.#stepRequests) if (step === n) request.abort(stepCancelled(n));
  }

  /** The stored reply of step n. */
  storedReply(n: number): Answer {
    const reply = this.#replyTo(n);
    if (reply === null) throw this.#outOfOrder(n);
    return reply.answer;
  }

  /** All parameters of a hosted model, as of the last step. @throws ProblemError `not_hosted`, `queue_full` */
  weights(signal?: AbortSignal): Promise<Answer> {
    const { queue, compute } = this.#resources;
    return queue.run(this.id, () => compute.weights(this.id), signal);
  }

  /** What a hosted model answers on given samples. @throws ProblemError as `HostedModel.predict`; `not_hosted`, `queue_full` */
  predict(body: Uint8Array<ArrayBuffer>, signal?: AbortSignal): Promise<Answer> {
    const { queue, compute } = this.#resources;
    return queue.run(this.id, () => compute.predict(this.id, body), signal);
  }

  /** Frees the session's memory. Steps that still wait are refused. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#lastReply = null;
    this.#resources.compute.close(this.id);
  }

  /** The reply to give without computing, or null if step n is the next one. */
  #answerFor(n: number, digest: string): Answer | null {
    const reply = this.#replyTo(n);
    if (reply === null) return null;
    if (reply.digest !== digest) {
      throw new ProblemError('step_conflict', {
        param: 'n',
        detail: `Step ${String(n)} was applied with another body; a step is never applied twice.`,
        remedy: `Send new work as step ${String(this.#nextStep)}; to repeat a step, send exactly the same bytes.`,
      });
    }
    return reply.answer;
  }

  /** The reply of step n if it was the last one applied, or null if it is the next one. */
  #replyTo(n: number): RetainedReply | null {
    if (this.#closed) throw sessionNotFound(this.id);
    if (n === this.#nextStep) return null;
    if (n > this.#nextStep) throw this.#outOfOrder(n);
    if (this.#lastReply?.step !== n) throw notRetained(n);
    return this.#lastReply;
  }

  async #apply(n: number, { bytes, digest }: StepBody): Promise<Answer> {
    this.#isComputing = true;
    try {
      const { metrics, answer } = await this.#resources.compute.step(this.id, bytes);
      // The device has applied the step; what follows cannot fail, so that its reply is kept as well.
      this.#nextStep = n + 1;
      this.#metrics = metrics;
      if (!this.#closed) this.#lastReply = { step: n, digest, answer };
      this.touch();
      return answer;
    } finally {
      this.#isComputing = false;
    }
  }

  #outOfOrder(n: number): ProblemError {
    const expectedStep = this.#nextStep;
    return new ProblemError('step_out_of_order', {
      param: 'n',
      expectedStep,
      detail: `Step ${String(n)} was sent; the session expects step ${String(expectedStep)}.`,
      remedy: `Send step ${String(expectedStep)} next.`,
    });
  }
}

function stepCancelled(n: number): ProblemError {
  return new ProblemError('step_cancelled', {
    param: 'n',
    detail: `Step ${String(n)} was cancelled before it was computed; the session is as it was.`,
    remedy: `Send step ${String(n)} when it is wanted.`,
  });
}

function notRetained(n: number): ProblemError {
  return new ProblemError('reply_not_retained', {
    param: 'n',
    detail: `Step ${String(n)} was applied, but only the reply of the last step is kept.`,
    remedy: 'Go on with the session’s nextStep; GET the session to learn it.',
  });
}
