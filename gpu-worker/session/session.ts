/**
 * One training session: its state, its sequence numbers and its last reply.
 *
 * A step is applied once: the sequence number says which step it is, the digest of its body whether it is the same one again.
 */
import { ProblemError } from '../../shared/errors.ts';
import {
  replyForm,
  sessionNotFound,
  type Session,
  type SessionDefinition,
  type SessionId,
  type StepMetrics,
} from '../../shared/session.ts';
import type { ComputeQueue } from '../engine/queue.ts';
import { INITIAL_STATE, type OptimizerState } from '../optimizer/state.ts';
import { ddpStep, type StepConfiguration } from '../optimizer/step.ts';
import { tensorsIn, type Engine } from '../tensor/engine.ts';
import { decodeStep, encodeReply, mean } from './codec.ts';

/** The body of a step with its SHA-256, in hexadecimal. */
export interface StepBody {
  readonly bytes: Uint8Array;
  readonly digest: string;
}

interface RetainedReply {
  readonly step: number;
  readonly digest: string;
  readonly body: Uint8Array<ArrayBuffer>;
}

export interface SessionResources {
  readonly engine: Engine;
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
  #state: OptimizerState = INITIAL_STATE;
  #metrics: StepMetrics | null = null;
  #lastReply: RetainedReply | null = null;
  #closed = false;
  /** Steps in the queue, by number and digest: a copy waits with the first one and takes no place of its own. */
  readonly #waiting = new Map<string, Promise<Uint8Array<ArrayBuffer>>>();

  constructor(id: SessionId, definition: SessionDefinition, resources: SessionResources) {
    this.id = id;
    this.definition = definition;
    this.#resources = resources;
    this.#createdAt = resources.now();
    this.#lastUsed = this.#createdAt;
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
      nextStep: this.#state.step,
      metrics: this.#metrics,
      engine: this.#resources.engine.name,
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
   * @returns the reply's safetensors body
   * @throws ProblemError `step_out_of_order`, `reply_not_retained`, `step_conflict`, the codes of `decodeStep`,
   *   `numerical_failure`, `queue_full`; the session is then as it was before
   */
  async step(n: number, body: StepBody): Promise<Uint8Array<ArrayBuffer>> {
    // Checked twice: here, to refuse before the body waits in the queue, and in its turn, when earlier steps have been applied.
    const retained = this.#answerFor(n, body.digest);
    if (retained !== null) return retained;
    const key = `${String(n)} ${body.digest}`;
    const same = this.#waiting.get(key);
    if (same !== undefined) return same;
    const decoded = decodeStep(body.bytes, this.definition, this.#resources.engine.precision);
    const reply = this.#resources.queue.run(
      this.id,
      () => this.#answerFor(n, body.digest) ?? this.#apply(n, body.digest, decoded),
    );
    this.#waiting.set(key, reply);
    return reply.finally(() => this.#waiting.delete(key));
  }

  /** The stored reply of step n. */
  storedReply(n: number): Uint8Array<ArrayBuffer> {
    const reply = this.#replyTo(n);
    if (reply === null) throw this.#outOfOrder(n);
    return reply.body;
  }

  /** Frees the session's memory. Steps that still wait are refused. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#lastReply = null;
    const { engine } = this.#resources;
    engine.dispose(tensorsIn(this.#state, engine.isTensor));
    this.#state = { ...INITIAL_STATE, step: this.#state.step };
  }

  /** The reply to give without computing, or null if step n is the next one. */
  #answerFor(n: number, digest: string): Uint8Array<ArrayBuffer> | null {
    const reply = this.#replyTo(n);
    if (reply === null) return null;
    if (reply.digest !== digest) {
      throw new ProblemError('step_conflict', {
        param: 'n',
        detail: `Step ${String(n)} was applied with another body; a step is never applied twice.`,
        remedy: `Send new work as step ${String(this.#state.step)}; to repeat a step, send exactly the same bytes.`,
      });
    }
    return reply.body;
  }

  /** The reply of step n if it was the last one applied, or null if it is the next one. */
  #replyTo(n: number): RetainedReply | null {
    if (this.#closed) throw sessionNotFound(this.id);
    if (n === this.#state.step) return null;
    if (n > this.#state.step) throw this.#outOfOrder(n);
    if (this.#lastReply?.step !== n) throw notRetained(n);
    return this.#lastReply;
  }

  #apply(n: number, digest: string, decoded: ReturnType<typeof decodeStep>): Uint8Array<ArrayBuffer> {
    const { engine } = this.#resources;
    const configuration = stepConfiguration(this.definition);
    const { state, metrics, body } = engine.scope(() => {
      const result = ddpStep(engine, configuration, this.#state, decoded.upload(engine));
      const stepMetrics: StepMetrics = {
        step: n,
        batch: decoded.batch,
        loss: decoded.loss,
        learningRate: result.learningRate,
        terminalWeight: mean(engine.read(result.terminalWeights)),
        refreshed: result.refreshed,
        failedFactorizations: result.state.failedFactorizations,
      };
      return {
        state: result.state,
        metrics: stepMetrics,
        body: encodeReply(engine, this.definition, result.reply, stepMetrics),
      };
    });
    // Nothing below can fail: the step is applied and its reply kept, or neither.
    const kept = tensorsIn(state, engine.isTensor);
    engine.dispose([...tensorsIn(this.#state, engine.isTensor)].filter((tensor) => !kept.has(tensor)));
    this.#state = state;
    this.#metrics = metrics;
    this.#lastReply = { step: n, digest, body };
    this.touch();
    return body;
  }

  #outOfOrder(n: number): ProblemError {
    const expectedStep = this.#state.step;
    return new ProblemError('step_out_of_order', {
      param: 'n',
      expectedStep,
      detail: `Step ${String(n)} was sent; the session expects step ${String(expectedStep)}.`,
      remedy: `Send step ${String(expectedStep)} next.`,
    });
  }
}

/** A policy that is handed out always carries its Cholesky factor, whatever the rows. */
function stepConfiguration(definition: SessionDefinition): StepConfiguration {
  const { layers, optimizer } = definition;
  const reply = replyForm(definition);
  if (reply === 'update') return { layers, optimizer, reply };
  return { layers, optimizer: { ...optimizer, solver: { ...optimizer.solver, choleskyRows: Infinity } }, reply };
}

function notRetained(n: number): ProblemError {
  return new ProblemError('reply_not_retained', {
    param: 'n',
    detail: `Step ${String(n)} was applied, but only the reply of the last step is kept.`,
    remedy: 'Go on with the session’s nextStep; GET the session to learn it.',
  });
}
