/**
 * One training session: its state, its sequence numbers and its last reply.
 *
 * A step is applied once: the sequence number says which step it is, the digest of its body whether it is the same one again.
 */
import { isDeepStrictEqual } from 'node:util';
import { ProblemError } from '../../shared/errors.ts';
import { changedDefinition, type SessionChanges } from '../../shared/session-changes.ts';
import {
  sessionMoved,
  sessionNotFound,
  type Session,
  type SessionDefinition,
  type SessionId,
  type StepMetrics,
} from '../../shared/session.ts';
import type { StepParts } from '../../shared/step-parts.ts';
import type { SessionSummary } from '../../shared/session-list.ts';
import type { Tenant } from '../../shared/tenant.ts';
import type { AppliedStep, Compute } from '../engine/compute.ts';
import type { ComputeQueue } from '../engine/queue.ts';
import type { Answer } from '../training/trainer.ts';
import type { SavedCheckpoint } from '../training/trainers.ts';
import { recover, type RecoveredState, type RecoveryReport } from './recovery.ts';
import type { RetainedReplies, RetainedReply } from './retained-replies.ts';
import type { EndReason } from '../../shared/session-events.ts';
import { SessionEvents, type EventListener } from './session-events.ts';
import { SharedJob } from './shared-job.ts';
import type { CommittedParts, PendingParts } from './step-parts.ts';
import type { SessionRecord, StartingPoint, StepLog } from './step-log.ts';

/** The body of a step with its SHA-256, in hexadecimal; or a union with what its parts' digests make. */
export interface StepBody {
  /** Not the caller's any more once the step is computed. */
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly digest: string;
  /** Of which parts it is the union, if of any. */
  readonly committed?: CommittedParts;
}

export interface SessionResources {
  readonly compute: Compute;
  readonly queue: ComputeQueue;
  /** Milliseconds since the epoch. */
  readonly now: () => number;
  readonly report: (report: RecoveryReport) => void;
  readonly meter: Meter;
}

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

export class TrainingSession {
  readonly id: SessionId;
  readonly tenant: Tenant;
  #definition: SessionDefinition;
  /** As it was at first: what the log goes back to. */
  readonly #initial: SessionDefinition;
  #optimizerFromStep: number;
  readonly #resources: SessionResources;
  readonly #createdAt: number;
  #lastUsed: number;
  #openRequests = 0;
  #nextStep = 0;
  #metrics: StepMetrics | null = null;
  /** Whether the device holds the state. */
  #isOpen = false;
  #opening: Promise<void> | null = null;
  #closed = false;
  /** What requests for a closed session are told. */
  #gone: ProblemError;
  /** Where the state came from, until a step follows: steps that a client has seen since may be lost. */
  #isRewindable = false;
  /** Settles when the last applied step is acknowledged, or is undone. */
  #acknowledging: Promise<void> = Promise.resolve();
  readonly #log: StepLog | null;
  readonly #parts: PendingParts;
  /** Of all sessions of the worker. */
  readonly #replies: RetainedReplies;
  readonly #events = new SessionEvents();
  /** Steps in the queue, by number and digest: a copy waits with the first one and takes no place of its own. */
  readonly #waiting = new Map<string, SharedJob<Answer>>();
  /** Requests for steps, from their arrival to their answer, by what cancels them. */
  readonly #stepRequests = new Map<AbortController, number>();
  /** From the start of a step's computation until it is acknowledged. */
  #isComputing = false;
  /** Not reported yet. */
  #usage: SessionUsage = { steps: 0, computeSeconds: 0 };

  /**
   * @param record what is stored, or is to be stored, of it
   * @param log keeps the session in storage; null where it lives in memory alone
   * @param parts of the next step
   * @param replies keeps its last reply
   */
  constructor(
    id: SessionId,
    { definition, initial, optimizerFromStep, createdAt, tenant }: SessionRecord,
    resources: SessionResources,
    log: StepLog | null,
    parts: PendingParts,
    replies: RetainedReplies,
  ) {
    this.id = id;
    this.tenant = tenant;
    this.#definition = definition;
    this.#initial = initial ?? definition;
    this.#optimizerFromStep = optimizerFromStep;
    this.#resources = resources;
    this.#log = log;
    this.#parts = parts;
    this.#replies = replies;
    this.#createdAt = Date.parse(createdAt);
    this.#lastUsed = resources.now();
    this.#gone = sessionNotFound(id);
  }

  /** As it is now, with all changes. */
  get definition(): SessionDefinition {
    return this.#definition;
  }

  /** As it was when the session was created. */
  get initialDefinition(): SessionDefinition {
    return this.#initial;
  }

  get nextStep(): number {
    return this.#nextStep;
  }

  get isClosed(): boolean {
    return this.#closed;
  }

  /**
   * Begins a new session.
   *
   * @param start null for the initial state
   * @throws ProblemError as {@link open}; nothing of the session is left
   */
  begin(start: StartingPoint | null): Promise<void> {
    this.#opening = this.#begin(start).finally(() => (this.#opening = null));
    return this.#opening;
  }

  async #begin(start: StartingPoint | null): Promise<void> {
    if (this.#log === null) return this.#makeStateInMemory(start);
    try {
      await this.#log.create(this.#record, start);
      await this.#recover(this.#log);
    } catch (error) {
      this.close('deleted');
      await this.deleteStored();
      throw error;
    }
  }

  async #makeStateInMemory(start: StartingPoint | null): Promise<void> {
    const { compute } = this.#resources;
    await this.#inTurn(async () => {
      if (start === null) await compute.open(this.id, this.definition);
      else {
        const { step, metrics } = await compute.restore(this.id, start.file);
        const { definition } = this;
        const history = metrics === null ? [] : [metrics];
        this.#recovered({ definition, optimizerFromStep: null, nextStep: step, metrics, history, lastReply: null });
      }
      this.#isOpen = true;
    });
  }

  /**
   * Makes the session's state on the device, unless it is there.
   *
   * @throws ProblemError `session_not_found` if it was deleted, `storage_damaged`, `storage_unavailable`
   */
  open(): Promise<void> {
    if (this.#closed) return Promise.reject(this.#gone);
    if (this.#isOpen) return Promise.resolve();
    if (this.#opening !== null) return this.#opening;
    if (this.#log === null) throw new TypeError('a session in memory alone has nothing to be recovered from');
    this.#opening = this.#recover(this.#log).finally(() => (this.#opening = null));
    return this.#opening;
  }

  async #recover(log: StepLog): Promise<void> {
    const { queue, compute, report } = this.#resources;
    // Work that the worker gives itself, one piece at a time: never refused.
    const inTurn = <Result>(work: () => Promise<Result>): Promise<Result> =>
      queue.runAlways(this.id, () => {
        if (this.#closed) throw this.#gone;
        return work();
      });
    try {
      this.#recovered(await recover(this.id, this.#initial, log, { compute, inTurn, report }));
      await this.#parts.recover(this.#nextStep, this.#definition);
      this.#isOpen = true;
    } catch (error) {
      compute.close(this.id);
      this.#closeIfMoved(error);
      throw error;
    }
    if (this.#closed) compute.close(this.id);
  }

  #recovered({ definition, optimizerFromStep, nextStep, metrics, history, lastReply }: RecoveredState): void {
    this.#events.recovered(history);
    // The lifetime is no part of the state.
    this.#definition = { ...definition, ttlSeconds: this.#definition.ttlSeconds };
    this.#optimizerFromStep = optimizerFromStep ?? Math.min(this.#optimizerFromStep, nextStep);
    this.#nextStep = nextStep;
    this.#metrics = metrics;
    if (lastReply === null) this.#replies.drop(this);
    else if (!this.#closed) this.#replies.keep(this, lastReply);
    this.#isRewindable = nextStep > 0;
  }

  /** Work in the session's turn on a state that is acknowledged. @throws ProblemError as `ComputeQueue.run`; `session_not_found` */
  #inTurn<Result>(work: () => Result | Promise<Result>, signal?: AbortSignal): Promise<Result> {
    const { meter } = this.#resources;
    const asked = meter.elapsed();
    const job = async (): Promise<Result> => {
      meter.waited((meter.elapsed() - asked) / 1000);
      await this.#acknowledging;
      if (this.#closed) throw this.#gone;
      return work();
    };
    return this.#resources.queue.run(this.id, job, signal);
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
      optimizerFromStep: this.#optimizerFromStep,
      durableStep: this.#log?.durableStep ?? null,
      metrics: this.#metrics,
      engine: this.#resources.compute.engine,
      createdAt: new Date(this.#createdAt).toISOString(),
      expiresAt: new Date(this.#expiresAt).toISOString(),
    };
  }

  /** As {@link describe}, in short. */
  summarise(): SessionSummary {
    return {
      id: this.id,
      mode: this.definition.mode,
      nextStep: this.#isOpen ? this.#nextStep : null,
      createdAt: new Date(this.#createdAt).toISOString(),
      expiresAt: new Date(this.#expiresAt).toISOString(),
    };
  }

  /** What was computed since this was last asked: whoever asks accounts for it, so that nothing is counted twice. */
  takeUsage(): SessionUsage {
    const usage = this.#usage;
    this.#usage = { steps: 0, computeSeconds: 0 };
    return usage;
  }

  /** Does some of the device's work, and counts its time, also of work that comes to nothing. */
  async #metered<Result>(work: () => Promise<Result>): Promise<Result> {
    const { meter } = this.#resources;
    const begun = meter.elapsed();
    try {
      return await work();
    } finally {
      const { steps, computeSeconds } = this.#usage;
      this.#usage = { steps, computeSeconds: computeSeconds + (meter.elapsed() - begun) / 1000 };
    }
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
   * @throws ProblemError `step_out_of_order`, `session_rewound`, `reply_not_retained`, `step_conflict`, `queue_full`, the codes of
   *   `Trainer.step`, those of `Storage`, the signal's reason; the session is then as it was before
   */
  async step(n: number, body: StepBody, signal?: AbortSignal): Promise<Answer> {
    // Checked twice: here, to refuse before the body waits in the queue, and in its turn, when earlier steps have been applied.
    const retained = this.#answerFor(n, body.digest);
    if (retained !== null) return retained;
    signal?.throwIfAborted();
    const key = `${String(n)} ${body.digest}`;
    const same = this.#waiting.get(key);
    if (same?.isAbandoned === false) return same.wait(signal);
    const job = new SharedJob(async (abandoned) => {
      const { answer } = await this.#inTurn(() => this.#apply(n, body), abandoned);
      return answer;
    });
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
   * @throws ProblemError `step_in_progress`, `step_applied`, `step_out_of_order`, `session_rewound`; the step is then left as it is
   */
  cancel(n: number): void {
    if (this.#closed) throw this.#gone;
    if (n > this.#nextStep) throw this.#outOfOrder(n);
    if (n < this.#nextStep) throw this.#applied(n);
    if (this.#isComputing) {
      throw new ProblemError('step_in_progress', {
        param: 'n',
        detail: `Step ${String(n)} is being computed; only a step that waits can be cancelled.`,
        remedy: 'GET the session to see whether it was applied; send the same step again to get its reply.',
      });
    }
    for (const [request, step] of this.#stepRequests) if (step === n) request.abort(stepCancelled(n));
  }

  /**
   * Takes in part k of step n, the next one.
   *
   * @returns the parts that there are
   * @throws ProblemError as `PendingParts.put`; `step_applied`, `step_out_of_order`, `session_rewound`
   */
  async putPart(n: number, k: number, body: Pick<StepBody, 'bytes' | 'digest'>): Promise<StepParts> {
    const committed = this.#committedAs(n);
    const assertNext = (): void => {
      if (this.#committedAs(n) !== null) throw this.#applied(n);
    };
    if (committed === null) await this.#owning(() => this.#parts.put(n, k, body, this.#definition, assertNext));
    else if (!committed.parts.some(({ part, digest }) => part === k && digest === body.digest)) throw this.#applied(n);
    return this.#parts.describe(n);
  }

  /** The parts of step n, the next or the last one. @throws ProblemError as {@link putPart} */
  parts(n: number): StepParts {
    this.#committedAs(n);
    return this.#parts.describe(n);
  }

  /** Bytes that a commit takes in memory. */
  get partBytes(): number {
    return this.#parts.bytes;
  }

  /** Takes away part k of step n, the next one. @param k null for all @throws ProblemError as {@link putPart} */
  async removeParts(n: number, k: number | null): Promise<void> {
    if (this.#committedAs(n) !== null) throw this.#applied(n);
    await this.#owning(() => this.#parts.remove(n, k));
  }

  removeExpiredParts(now: number): void {
    this.#parts.removeExpired(now);
  }

  /**
   * Applies step n on the union of its parts, or answers it again.
   *
   * @param count of the parts
   * @throws ProblemError as {@link step}; `PendingParts.union`
   */
  async commit(n: number, count: number, signal?: AbortSignal): Promise<Answer> {
    const retained = this.#replyTo(n);
    if (retained !== null) {
      const committed = this.#parts.committedAs(n);
      if (committed?.parts.length === count) return retained.answer;
      const how = committed === null ? 'as a whole' : `with ${String(committed.parts.length)} parts`;
      throw new ProblemError('step_conflict', {
        param: 'parts',
        detail: `Step ${String(n)} was applied ${how}; a step is never applied twice.`,
        remedy: `Get its reply with GET, and go on with step ${String(this.#nextStep)}.`,
      });
    }
    return this.#parts.frozen(async () => {
      const union = await this.#owning(() => this.#parts.union(n, count, this.#definition));
      return this.step(n, union, signal);
    });
  }

  /** Of which parts step n was made if it was the last one; null if it is the next one. */
  #committedAs(n: number): CommittedParts | null {
    if (this.#closed) throw this.#gone;
    if (n === this.#nextStep) return null;
    if (n > this.#nextStep) throw this.#outOfOrder(n);
    const committed = n === this.#nextStep - 1 ? this.#parts.committedAs(n) : null;
    if (committed === null) throw this.#applied(n);
    return committed;
  }

  #applied(n: number): ProblemError {
    return new ProblemError('step_applied', {
      param: 'n',
      detail: `Step ${String(n)} has been applied, which cannot be undone.`,
      remedy: `Go on with step ${String(this.#nextStep)}.`,
    });
  }

  /** The stored reply of step n. */
  storedReply(n: number): Answer {
    const reply = this.#replyTo(n);
    if (reply === null) throw this.#outOfOrder(n);
    return reply.answer;
  }

  /**
   * Changes what can be changed, from the next step on: steps that wait already come first. The same changes again change nothing.
   *
   * @param admit refuses a definition that the worker has no room for
   * @throws ProblemError as `changedDefinition`; `queue_full`, those of `Storage`, what `admit` throws; nothing has changed then
   */
  change(
    changes: SessionChanges,
    admit: (definition: SessionDefinition) => void,
    signal?: AbortSignal,
  ): Promise<Session> {
    return this.#onDevice(async (compute) => {
      const before = this.#definition;
      const definition = changedDefinition(before, changes);
      if (isDeepStrictEqual(definition, before)) return this.describe();
      admit(definition);
      const hasOtherOptions = !isDeepStrictEqual(definition.optimizer, before.optimizer);
      const optimizerFromStep = hasOtherOptions ? this.#nextStep : this.#optimizerFromStep;
      const record = { ...this.#record, definition, optimizerFromStep };
      await this.#owning(async () => this.#log?.change(record, hasOtherOptions));
      this.#definition = definition;
      this.#optimizerFromStep = optimizerFromStep;
      if (hasOtherOptions) await this.#redefine(compute);
      return this.describe();
    }, signal);
  }

  async #redefine(compute: Compute): Promise<void> {
    try {
      await compute.redefine(this.id, this.#definition);
    } catch (error) {
      this.#giveUpState();
      throw error;
    }
  }

  get #record(): SessionRecord {
    return {
      definition: this.#definition,
      initial: this.#initial,
      optimizerFromStep: this.#optimizerFromStep,
      createdAt: new Date(this.#createdAt).toISOString(),
      tenant: this.tenant,
    };
  }

  /** All parameters of a hosted model, as of the last step. @throws ProblemError `not_hosted`, `queue_full` */
  weights(signal?: AbortSignal): Promise<Answer> {
    return this.#onDevice((compute) => compute.weights(this.id), signal);
  }

  /** What a hosted model answers on given samples. @throws ProblemError as `HostedModel.predict`; `not_hosted`, `queue_full` */
  predict(body: Uint8Array<ArrayBuffer>, signal?: AbortSignal): Promise<Answer> {
    return this.#onDevice((compute) => compute.predict(this.id, body), signal);
  }

  /** The state as of the last step, as a checkpoint. @throws ProblemError `queue_full` */
  checkpoint(signal?: AbortSignal): Promise<SavedCheckpoint> {
    return this.#onDevice((compute) => this.#save(compute), signal);
  }

  #save(compute: Compute): Promise<SavedCheckpoint> {
    const createdAt = new Date(this.#resources.now()).toISOString();
    return compute.save(this.id, { definition: this.definition, metrics: this.#metrics, createdAt });
  }

  #onDevice<Result>(work: (compute: Compute) => Promise<Result>, signal?: AbortSignal): Promise<Result> {
    return this.#inTurn(() => {
      this.#assertOpen();
      return this.#metered(() => work(this.#resources.compute));
    }, signal);
  }

  /** @throws ProblemError if the state was given up since the request came */
  #assertOpen(): void {
    if (this.#isOpen) return;
    throw new ProblemError('storage_unavailable', {
      detail: `A step of session ${this.id} could not be stored; the session goes back to the step before it.`,
      remedy: 'Send the same request again.',
    });
  }

  get listeners(): number {
    return this.#events.listeners;
  }

  /** Tells a listener what happens, as `SessionEvents.listen`. It does not keep the session from expiring. @returns ends it */
  listen(after: number | null, listener: EventListener): () => void {
    return this.#events.listen(after, this.#nextStep, listener);
  }

  /** Ends the streams of events of a session that goes on elsewhere, or later. */
  endEvents(): void {
    this.#events.end('stopped');
  }

  /** @throws ProblemError `session_moved` if another worker has begun to use what is stored of the session */
  async assertOwned(): Promise<void> {
    await this.#log?.assertOwned();
  }

  /** Uses what is stored; a session that another worker owns by now is closed. */
  async #owning<Result>(work: () => Promise<Result>): Promise<Result> {
    try {
      return await work();
    } catch (error) {
      this.#closeIfMoved(error);
      throw error;
    }
  }

  /** What another worker owns is nothing to go back to. */
  #closeIfMoved(error: unknown): void {
    if (error instanceof ProblemError && error.code === 'session_moved') this.close('stopped', error);
  }

  /** Resolves when a closed session does nothing on the device any more. */
  async settled(): Promise<void> {
    await Promise.allSettled([this.#opening, this.#acknowledging]);
  }

  /** Brings what was acknowledged into storage, and closes the session for its next owner. Steps that still wait are refused. */
  async handOver(): Promise<void> {
    await this.#resources.queue.runAlways(this.id, async () => {
      await this.#acknowledging;
      await this.#log?.flush();
      this.close('stopped', sessionMoved(this.id, 0));
    });
  }

  /**
   * Frees the session's memory. Steps that still wait are refused.
   *
   * @param reason what its listeners are told
   * @param gone what its requests are told; unless given, that there is no such session any more
   */
  close(reason: EndReason, gone?: ProblemError): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#events.end(reason);
    if (gone !== undefined) this.#gone = gone;
    this.#replies.drop(this);
    this.#parts.close();
    this.#resources.compute.close(this.id);
  }

  /** Removes what is stored of a closed session. @throws ProblemError those of `Storage`; it may be called again */
  async deleteStored(): Promise<void> {
    await this.#acknowledging;
    // Of a session in storage the parts go with all the rest.
    if (this.#log === null) await this.#parts.deleteStored();
    else await this.#log.delete();
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
    if (this.#closed) throw this.#gone;
    if (n === this.#nextStep) return null;
    if (n > this.#nextStep) throw this.#outOfOrder(n);
    const reply = this.#replies.of(this);
    if (reply?.step !== n) throw notRetained(n);
    return reply;
  }

  /**
   * Applies step n on the device, unless that has been done meanwhile.
   *
   * @returns its reply to come: the device need not wait until the step is in storage
   */
  async #apply(n: number, { bytes, digest, committed }: StepBody): Promise<{ readonly answer: Promise<Answer> }> {
    const retained = this.#answerFor(n, digest);
    if (retained !== null) return { answer: Promise.resolve(retained) };
    this.#assertOpen();
    this.#isComputing = true;
    try {
      const { compute, meter } = this.#resources;
      // The state before the step: with the step itself in the log, its reply can be computed again.
      const snapshot = this.#log?.isSnapshotDue === true ? (await this.#save(compute)).bytes : null;
      const begun = meter.elapsed();
      const applied = await this.#metered(() => compute.step(this.id, bytes));
      const failures = applied.metrics.failedFactorizations - (this.#metrics?.failedFactorizations ?? 0);
      meter.stepped((meter.elapsed() - begun) / 1000, failures);
      const answer = this.#acknowledge(n, { digest, committed: committed ?? null }, applied, snapshot);
      const settled = (): void => {
        this.#isComputing = false;
      };
      this.#acknowledging = answer.then(settled, settled);
      return { answer };
    } catch (error) {
      this.#isComputing = false;
      throw error;
    }
  }

  /** Counts a step that the device has applied, once it may be. @throws ProblemError the storage's; the state is then given up */
  async #acknowledge(
    n: number,
    { digest, committed }: { readonly digest: string; readonly committed: CommittedParts | null },
    { metrics, answer, body }: AppliedStep,
    snapshot: Uint8Array<ArrayBuffer> | null,
  ): Promise<Answer> {
    if (this.#log !== null) {
      try {
        await this.#log.append(n, digest, body, committed === null ? null : this.#parts.changesOf(committed));
        // Nobody waits for it.
        if (snapshot !== null) void this.#log.writeSnapshot(n, snapshot);
      } catch (error) {
        // The device is a step ahead of what is stored.
        this.#giveUpState();
        this.#closeIfMoved(error);
        throw error;
      }
    }
    // What follows cannot fail, so that the reply is kept as well.
    this.#nextStep = n + 1;
    this.#metrics = metrics;
    this.#usage = { ...this.#usage, steps: this.#usage.steps + 1 };
    this.#isRewindable = false;
    this.#events.record(metrics);
    this.#parts.applied(committed);
    if (!this.#closed) this.#replies.keep(this, { step: n, digest, answer });
    this.touch();
    return answer;
  }

  /** The next request has the state computed anew from what is stored. */
  #giveUpState(): void {
    this.#isOpen = false;
    if (!this.#closed) this.#resources.compute.close(this.id);
  }

  /** A step that is ahead of the session: the client's mistake, or steps that the session has lost. */
  #outOfOrder(n: number): ProblemError {
    const expectedStep = this.#nextStep;
    if (this.#isRewindable) {
      return new ProblemError('session_rewound', {
        param: 'n',
        resumeFrom: expectedStep,
        detail: `Step ${String(n)} was sent; the session’s state was recovered, and has the steps before ${String(expectedStep)}.`,
        remedy: `Send step ${String(expectedStep)} and those after it again, with the same or with new batches.`,
      });
    }
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
    detail: `Step ${String(n)} was applied, but only the reply of the last step is kept, and not when those of later steps of other sessions need the room.`,
    remedy: 'Go on with the session’s nextStep; GET the session to learn it.',
  });
}
