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
  readonly #waiting = new Map<string, Promise<Answer>>();

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

  /** Refuses a step by its number alone, before its body is read. @throws ProblemError as {@link step} */
  admit(n: number): void {
    this.#replyTo(n);
  }

  /**
   * Applies step n, or answers it again if it was the last one applied.
   *
   * @throws ProblemError `step_out_of_order`, `reply_not_retained`, `step_conflict`, `queue_full`, the codes of `Trainer.step`; the
   *   session is then as it was before
   */
  async step(n: number, body: StepBody): Promise<Answer> {
    // Checked twice: here, to refuse before the body waits in the queue, and in its turn, when earlier steps have been applied.
    const retained = this.#answerFor(n, body.digest);
    if (retained !== null) return retained;
    const key = `${String(n)} ${body.digest}`;
    const same = this.#waiting.get(key);
    if (same !== undefined) return same;
    const reply = this.#resources.queue.run(this.id, () => this.#answerFor(n, body.digest) ?? this.#apply(n, body));
    this.#waiting.set(key, reply);
    return reply.finally(() => this.#waiting.delete(key));
  }

  /** The stored reply of step n. */
  storedReply(n: number): Answer {
    const reply = this.#replyTo(n);
    if (reply === null) throw this.#outOfOrder(n);
    return reply.answer;
  }

  /** All parameters of a hosted model, as of the last step. @throws ProblemError `not_hosted`, `queue_full` */
  weights(): Promise<Answer> {
    const { queue, compute } = this.#resources;
    return queue.run(this.id, () => compute.weights(this.id));
  }

  /** What a hosted model answers on given samples. @throws ProblemError as `HostedModel.predict`; `not_hosted`, `queue_full` */
  predict(body: Uint8Array<ArrayBuffer>): Promise<Answer> {
    const { queue, compute } = this.#resources;
    return queue.run(this.id, () => compute.predict(this.id, body));
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
    const { metrics, answer } = await this.#resources.compute.step(this.id, bytes);
    // The device has applied the step; what follows cannot fail, so that its reply is kept as well.
    this.#nextStep = n + 1;
    this.#metrics = metrics;
    if (!this.#closed) this.#lastReply = { step: n, digest, answer };
    this.touch();
    return answer;
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

function notRetained(n: number): ProblemError {
  return new ProblemError('reply_not_retained', {
    param: 'n',
    detail: `Step ${String(n)} was applied, but only the reply of the last step is kept.`,
    remedy: 'Go on with the session’s nextStep; GET the session to learn it.',
  });
}
