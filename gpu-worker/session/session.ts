/** One training session, from its creation or recovery to its end: what it is, where its state is, and how long it lives. */
import { isDeepStrictEqual } from 'node:util';
import { ProblemError } from '../../shared/errors.ts';
import type { DataSet } from '../../shared/data-set.ts';
import type { HostedDefinition } from '../../shared/hosted-definition.ts';
import { changedDefinition, type SessionChanges } from '../../shared/session-changes.ts';
import type { EndReason } from '../../shared/session-events.ts';
import type { SessionSummary } from '../../shared/session-list.ts';
import { notHosted, sessionMoved, type Session, type SessionDefinition, type SessionId } from '../../shared/session.ts';
import type { Tenant } from '../../shared/tenant.ts';
import type { Compute } from '../engine/compute.ts';
import type { Answer } from '../training/trainer.ts';
import type { SavedCheckpoint } from '../training/trainers.ts';
import type { ObjectStore } from '../storage/storage.ts';
import type { SessionData } from './data-set.ts';
import { recover, type RecoveredState, type RecoveryReport } from './recovery.ts';
import type { RetainedReplies } from './retained-replies.ts';
import { SessionRuns, type Pause } from './runs.ts';
import { SessionCompute, type ComputeResources, type SessionUsage } from './session-compute.ts';
import { SessionEvents, type EventListener } from './session-events.ts';
import type { SessionRecord, StartingPoint, StepLog } from './step-log.ts';
import type { PendingParts } from './step-parts.ts';
import { SharedJob } from './shared-job.ts';
import { StepSequence, type StepBody } from './step-sequence.ts';
import { StepsFromParts } from './steps-from-parts.ts';

export interface SessionResources extends ComputeResources {
  /** Milliseconds since the epoch. */
  readonly now: () => number;
  readonly pause: Pause;
  readonly report: (report: RecoveryReport) => void;
}

/** Where a session keeps what outlives a request. */
export interface SessionStores {
  /** Keeps the session in storage; null where it lives in memory alone. */
  readonly log: StepLog | null;
  /** Of the session's objects. */
  readonly storage: ObjectStore;
  /** Of the next step. */
  readonly parts: PendingParts;
  readonly data: SessionData;
  /** Keeps its last reply. */
  readonly replies: RetainedReplies;
  readonly reportFailure: (error: unknown) => void;
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
  /** The making of the state, which requests wait for. */
  #opening: SharedJob<void> | null = null;
  readonly #device: SessionCompute;
  readonly #log: StepLog | null;
  readonly #pendingParts: PendingParts;
  readonly #data: SessionData;
  readonly #events = new SessionEvents();
  readonly steps: StepSequence;
  readonly parts: StepsFromParts;
  readonly runs: SessionRuns;

  /** @param record what is stored, or is to be stored, of it */
  constructor(
    id: SessionId,
    { definition, initial, optimizerFromStep, createdAt, tenant }: SessionRecord,
    resources: SessionResources,
    { log, storage, parts, data, replies, reportFailure }: SessionStores,
  ) {
    this.id = id;
    this.tenant = tenant;
    this.#definition = definition;
    this.#initial = initial ?? definition;
    this.#optimizerFromStep = optimizerFromStep;
    this.#resources = resources;
    this.#log = log;
    this.#pendingParts = parts;
    this.#data = data;
    this.#createdAt = Date.parse(createdAt);
    this.#lastUsed = resources.now();
    const device = new SessionCompute(id, resources);
    this.#device = device;
    this.steps = new StepSequence({
      id,
      device,
      resources,
      log,
      parts,
      replies,
      events: this.#events,
      save: (compute) => this.#save(compute),
      refusal: () => this.runs.refusal,
      touch: () => {
        this.touch();
      },
      closeIfMoved: (error) => {
        this.#closeIfMoved(error);
      },
    });
    this.parts = new StepsFromParts({
      device,
      sequence: this.steps,
      parts,
      definition: () => this.#definition,
      owning: (work) => this.#owning(work),
    });
    this.runs = new SessionRuns({
      id,
      device,
      sequence: this.steps,
      data,
      events: this.#events,
      log,
      storage: log === null ? null : storage,
      definition: () => this.#asHosted(),
      now: resources.now,
      pause: resources.pause,
      reopen: () => this.open(),
      owning: (work) => this.#owning(work),
      reportFailure,
    });
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
    return this.steps.nextStep;
  }

  get isClosed(): boolean {
    return this.#device.isClosed;
  }

  /**
   * Begins a new session.
   *
   * @param start null for the initial state
   * @param signal of the request: if it is aborted before the session's turn, and nobody else waits, there is no session
   * @throws ProblemError as {@link open}, the signal's reason; nothing of the session is left
   */
  begin(start: StartingPoint | null, signal?: AbortSignal): Promise<void> {
    signal?.throwIfAborted();
    return this.#open((abandoned) => this.#begin(start, abandoned)).wait(signal);
  }

  #open(make: (abandoned: AbortSignal) => Promise<void>): SharedJob<void> {
    this.#opening = new SharedJob((abandoned) => make(abandoned).finally(() => (this.#opening = null)));
    return this.#opening;
  }

  async #begin(start: StartingPoint | null, abandoned: AbortSignal): Promise<void> {
    if (this.#log === null) return this.#makeStateInMemory(start, abandoned);
    try {
      await this.#log.create(this.#record, start);
      await this.#recover(this.#log, abandoned);
    } catch (error) {
      this.close('deleted');
      await this.deleteStored();
      throw error;
    }
  }

  async #makeStateInMemory(start: StartingPoint | null, abandoned: AbortSignal): Promise<void> {
    const { compute } = this.#resources;
    await this.#device.inTurn(async () => {
      if (start === null) await compute.open(this.id, this.definition);
      else {
        const { step, metrics } = await compute.restore(this.id, start.file);
        const { definition } = this;
        const history = metrics === null ? [] : [metrics];
        this.#recovered({ definition, optimizerFromStep: null, nextStep: step, metrics, history, lastReply: null });
      }
      this.#device.opened();
    }, abandoned);
  }

  /**
   * Makes the session's state on the device, unless it is there.
   *
   * @throws ProblemError `session_not_found` if it was deleted, `storage_damaged`, `storage_unavailable`
   */
  async open(): Promise<void> {
    this.#device.assertNotClosed();
    if (this.#device.isOpen) return;
    if (this.#opening === null) {
      const log = this.#log;
      if (log === null) throw new TypeError('a session in memory alone has nothing to be recovered from');
      this.#open(() => this.#recover(log));
    }
    await this.#opening?.wait();
  }

  /** @param abandoned when nobody waits for a state any more that nobody has used */
  async #recover(log: StepLog, abandoned?: AbortSignal): Promise<void> {
    const { queue, compute, report } = this.#resources;
    // Work that the worker gives itself, one piece at a time: never refused.
    const inTurn = <Result>(work: () => Promise<Result>): Promise<Result> =>
      queue.runAlways(
        this.id,
        () => {
          this.#device.assertNotClosed();
          return work();
        },
        abandoned,
      );
    try {
      await Promise.all([this.#data.read(), this.runs.read()]);
      const stepOfRun = (run: number, n: number): Promise<Uint8Array<ArrayBuffer>> => this.runs.stepOfRun(run, n);
      this.#recovered(await recover(this.id, this.#initial, log, { compute, inTurn, report, stepOfRun }));
      await this.#pendingParts.recover(this.nextStep, this.#definition);
      await this.runs.resume();
      this.#device.opened();
    } catch (error) {
      compute.close(this.id);
      this.#closeIfMoved(error);
      throw error;
    }
    if (this.#device.isClosed) compute.close(this.id);
  }

  #recovered(state: RecoveredState): void {
    const { definition, optimizerFromStep, nextStep, history } = state;
    this.#events.recovered(history);
    // The lifetime is no part of the state.
    this.#definition = { ...definition, ttlSeconds: this.#definition.ttlSeconds };
    this.#optimizerFromStep = optimizerFromStep ?? Math.min(this.#optimizerFromStep, nextStep);
    this.steps.recovered(state);
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
    return this.#openRequests === 0 && this.runs.running === null && now >= this.#expiresAt;
  }

  get #expiresAt(): number {
    return this.#lastUsed + this.definition.ttlSeconds * 1000;
  }

  describe(): Session {
    const { definition } = this;
    return {
      id: this.id,
      ...(definition.mode === 'hosted' ? { ...definition, run: this.runs.running } : definition),
      nextStep: this.nextStep,
      optimizerFromStep: this.#optimizerFromStep,
      durableStep: this.#log?.durableStep ?? null,
      metrics: this.steps.metrics,
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
      nextStep: this.#device.isOpen ? this.nextStep : null,
      createdAt: new Date(this.#createdAt).toISOString(),
      expiresAt: new Date(this.#expiresAt).toISOString(),
    };
  }

  /** What was computed since this was last asked: whoever asks accounts for it, so that nothing is counted twice. */
  takeUsage(): SessionUsage {
    return this.#device.takeUsage();
  }

  /** Does the work of a request for step n, as `StepSequence.useFor`; until it is done the session does not expire. */
  useForStep<Result>(n: number, request: AbortController, work: () => Promise<Result>): Promise<Result> {
    return this.steps.useFor(n, request, () => this.use(work));
  }

  /** What a run would draw from. @throws ProblemError `not_hosted` */
  describeData(): DataSet {
    this.#device.assertNotClosed();
    this.#asHosted();
    return this.#data.describe();
  }

  /**
   * Takes in chunk k of the data set.
   *
   * @returns the chunks that there are
   * @throws ProblemError as `SessionData.put`, `HostedModel.checkChunk`; `not_hosted`, `queue_full`
   */
  async putChunk(k: number, body: Pick<StepBody, 'bytes' | 'digest'>): Promise<DataSet> {
    const check = (bytes: Uint8Array<ArrayBuffer>): Promise<Uint8Array<ArrayBuffer>> =>
      this.#device.onDevice((compute) => compute.checkChunk(this.id, bytes));
    await this.#owning(() => this.#data.put(k, body, this.#asHosted(), check));
    return this.describeData();
  }

  /** Takes the data set away. @throws ProblemError `not_hosted`, `run_in_progress`, `queue_full`, those of `Storage` */
  async removeData(): Promise<void> {
    this.describeData();
    await this.#device.onDevice(async (compute) => {
      const { refusal } = this.runs;
      if (refusal !== null) throw refusal;
      const log = this.#log;
      await this.#owning(async () => {
        // What a recovery would take again needs the data.
        if (log?.hasRunSteps === true) await log.forgetSteps(this.nextStep, (await this.#save(compute)).bytes);
        await this.#data.remove();
      });
    });
  }

  #asHosted(): HostedDefinition {
    if (this.#definition.mode === 'hosted') return this.#definition;
    throw notHosted(this.id);
  }

  /** Bytes that a commit takes in memory. */
  get partBytes(): number {
    return this.#pendingParts.bytes;
  }

  removeExpiredParts(now: number): void {
    this.#pendingParts.removeExpired(now);
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
    return this.#device.onDevice(async (compute) => {
      const before = this.#definition;
      const definition = changedDefinition(before, changes);
      if (isDeepStrictEqual(definition, before)) return this.describe();
      admit(definition);
      const hasOtherOptions = !isDeepStrictEqual(definition.optimizer, before.optimizer);
      const optimizerFromStep = hasOtherOptions ? this.nextStep : this.#optimizerFromStep;
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
      this.#device.giveUpState();
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
    return this.#device.onDevice((compute) => compute.weights(this.id), signal);
  }

  /** What a hosted model answers on given samples. @throws ProblemError as `HostedModel.predict`; `not_hosted`, `queue_full` */
  predict(body: Uint8Array<ArrayBuffer>, signal?: AbortSignal): Promise<Answer> {
    return this.#device.onDevice((compute) => compute.predict(this.id, body), signal);
  }

  /** The state as of the last step, as a checkpoint. @throws ProblemError `queue_full` */
  checkpoint(signal?: AbortSignal): Promise<SavedCheckpoint> {
    return this.#device.onDevice((compute) => this.#save(compute), signal);
  }

  #save(compute: Compute): Promise<SavedCheckpoint> {
    const createdAt = new Date(this.#resources.now()).toISOString();
    return compute.save(this.id, { definition: this.definition, metrics: this.steps.metrics, createdAt });
  }

  get listeners(): number {
    return this.#events.listeners;
  }

  /** Tells a listener what happens, as `SessionEvents.listen`. It does not keep the session from expiring. @returns ends it */
  listen(after: number | null, listener: EventListener): () => void {
    return this.#events.listen(after, this.nextStep, listener);
  }

  /** Ends what goes on without requests, runs and streams of events, of a session that goes on elsewhere, or later. */
  async suspend(): Promise<void> {
    this.#events.end('stopped');
    await this.runs.suspend();
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
    await Promise.allSettled([this.#opening?.wait(), this.#device.acknowledged]);
  }

  /** Brings what was acknowledged into storage, and closes the session for its next owner. Steps that still wait are refused. */
  async handOver(): Promise<void> {
    await this.#resources.queue.runAlways(this.id, async () => {
      await this.#device.acknowledged;
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
    if (this.isClosed) return;
    this.#events.end(reason);
    this.#device.close(gone);
    this.steps.close();
    this.runs.close();
    this.#pendingParts.close();
    this.#data.close();
  }

  /** Removes what is stored of a closed session. @throws ProblemError those of `Storage`; it may be called again */
  async deleteStored(): Promise<void> {
    await this.#device.acknowledged;
    // Of a session in storage parts and data go with all the rest.
    if (this.#log !== null) await this.#log.delete();
    else await Promise.all([this.#pendingParts.deleteStored(), this.#data.deleteStored()]);
  }
}
