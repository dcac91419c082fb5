/** The sessions of a worker: bounded in number, kept in storage where that is durable, removed when idle. */
import { isDeepStrictEqual } from 'node:util';
import { sessionQuotaExceeded } from '../../shared/access.ts';
import {
  checkpointNotFound,
  newCheckpointId,
  parseCheckpointId,
  type Checkpoint,
  type CheckpointId,
} from '../../shared/checkpoint.ts';
import { ProblemError } from '../../shared/errors.ts';
import { LIMITS } from '../../shared/limits.ts';
import type { SessionChanges } from '../../shared/session-changes.ts';
import type { SessionSummary } from '../../shared/session-list.ts';
import type { SessionOrder } from '../../shared/session-order.ts';
import {
  otherTenant,
  parseSessionId,
  sessionMoved,
  sessionNotFound,
  stateBytes,
  type Session,
  type SessionDefinition,
  type SessionId,
} from '../../shared/session.ts';
import { LOCAL_TENANT, type Tenant } from '../../shared/tenant.ts';
import type { SessionChange } from '../../shared/worker-report.ts';
import { soleOwner } from '../storage/ownership.ts';
import type { OwnedStore, Storage } from '../storage/storage.ts';
import type { SavedCheckpoint } from '../training/trainers.ts';
import { ByteBudget } from './byte-budget.ts';
import { Checkpoints } from './checkpoints.ts';
import { DataMemory } from './data-memory.ts';
import { SessionData } from './data-set.ts';
import { RetainedReplies } from './retained-replies.ts';
import { addUsage, NO_USAGE, type SessionUsage } from './session-compute.ts';
import { TrainingSession, type SessionResources } from './session.ts';
import { PendingParts } from './step-parts.ts';
import {
  isStored,
  readRecord,
  sessionPrefixes,
  StepLog,
  storedSessions,
  type LogPolicy,
  type SessionRecord,
  type StartingPoint,
} from './step-log.ts';

const MAKE_ROOM = 'Delete sessions that are done, or retry when idle ones have expired.';

export interface RegistryOptions {
  /** Sessions held at once. */
  readonly limit: number;
  readonly storage: Storage;
  /** Whether other workers use the same storage, each for the sessions that it owns. */
  readonly isStorageShared: boolean;
  readonly log: LogPolicy;
  /** Bytes that the last replies of all sessions may take. */
  readonly retainedReplyBytes: number;
  /** Bytes of data sets that may be in memory. */
  readonly dataBytesInMemory: number;
  /** Milliseconds that the state of an expired session is kept. */
  readonly retention: number;
  readonly reportFailure: (error: unknown) => void;
}

/** Whose a new session is. */
export interface Ownership {
  readonly tenant: Tenant;
  /** Sessions that the tenant may hold on this worker, the new one included; without a limit where there is none. */
  readonly quota?: number;
}

export class SessionRegistry {
  readonly #sessions = new Map<SessionId, TrainingSession>();
  /** Sessions that are done with and not gone yet: expired ones on their way into storage, those of an earlier epoch. */
  readonly #leaving = new Map<SessionId, Promise<void>>();
  /** In which epoch this worker owns, or owned, a session, and what it reads and writes of it as such. */
  readonly #owned = new Map<SessionId, { readonly epoch: number; readonly store: OwnedStore }>();
  /** What the placement directory is to be told of where there is one: whose sessions have begun here; null for those that are over. */
  readonly #changes = new Map<SessionId, Tenant | null>();
  #isDraining = false;
  readonly #checkpoints: Checkpoints;
  readonly #replies: RetainedReplies;
  readonly #partsBudget = new ByteBudget(LIMITS.partsBytes, 'Parts of steps');
  readonly #dataBudget = new ByteBudget(LIMITS.dataBytes, 'Data sets');
  readonly #dataMemory: DataMemory;
  /** Of sessions that have ended, by tenant; not reported yet. */
  readonly #endedUsage = new Map<Tenant, SessionUsage>();
  readonly #resources: SessionResources;
  readonly #options: RegistryOptions;

  constructor(resources: SessionResources, options: RegistryOptions) {
    this.#resources = resources;
    this.#options = options;
    this.#replies = new RetainedReplies(options.retainedReplyBytes);
    this.#dataMemory = new DataMemory(options.dataBytesInMemory);
    this.#checkpoints = new Checkpoints(options.storage, options.isStorageShared, resources.now);
  }

  get size(): number {
    return this.#sessions.size;
  }

  /** Bytes of the states of all sessions, as they count towards the limit. */
  get bytes(): number {
    return [...this.#sessions.values()].reduce((sum, session) => sum + stateBytes(session.definition), 0);
  }

  /**
   * Learns from a lease that this worker owns a session since some epoch. What it had of the session in an earlier one it forgets:
   * another worker may have owned it since.
   *
   * @throws ProblemError `session_moved` if the lease is older than one that was seen, or the session has been handed over
   */
  own(id: SessionId, epoch: number): void {
    const { storage } = this.#options;
    const known = this.#owned.get(id);
    if (known !== undefined && known.epoch > epoch) throw sessionMoved(id, known.epoch);
    if (this.#isDraining && !this.#sessions.has(id)) throw sessionMoved(id, epoch);
    if (known?.epoch === epoch) return;
    const session = this.#sessions.get(id);
    if (session !== undefined && storage.isDurable) {
      session.close('stopped', sessionMoved(id, epoch));
      this.#sessions.delete(id);
      this.#leave(id, session.settled());
    }
    this.#owned.set(id, { epoch, store: storage.own({ session: id, epoch, prefixes: sessionPrefixes(id) }) });
  }

  /** Takes over a session that nobody may ask for: its time begins anew. Never rejects: a failure is reported. */
  async adopt(id: SessionId, epoch: number): Promise<void> {
    try {
      this.own(id, epoch);
      await this.#leaving.get(id);
      const session = await this.#findStored(id);
      if (session === null) this.#note(id, null);
      else await this.#resumeRun(session);
    } catch (error) {
      if (error instanceof ProblemError && error.code === 'session_moved') return;
      this.#options.reportFailure(error);
    }
  }

  /** Takes no sessions any more, and gives up those that other workers can go on with. Never rejects: failures are reported. */
  async drain(): Promise<void> {
    this.#isDraining = true;
    if (!this.#options.storage.isDurable) return;
    const handOver = async (session: TrainingSession): Promise<void> => {
      try {
        await session.handOver();
      } catch (error) {
        this.#options.reportFailure(error);
      }
      if (this.#sessions.get(session.id) === session) this.#sessions.delete(session.id);
    };
    await Promise.all([...this.#sessions.values()].map(handOver));
  }

  /** Sessions that have begun here or are over for good, the first of those that the placement directory was not told of. */
  unreportedChanges(atMost: number): SessionChange[] {
    return [...this.#changes].slice(0, atMost).map(([session, tenant]) => ({ session, tenant }));
  }

  /** The placement directory knows of them. */
  reported(changes: readonly SessionChange[]): void {
    for (const { session, tenant } of changes) {
      // It may have changed meanwhile.
      if (this.#changes.get(session) === tenant) this.#changes.delete(session);
    }
  }

  /** The sessions of a tenant, in any order. */
  sessionsOf(tenant: Tenant): SessionSummary[] {
    this.removeExpired();
    return [...this.#sessions.values()]
      .filter((session) => session.tenant === tenant)
      .map((session) => session.summarise());
  }

  /**
   * Checks that a session, if there is one, is the tenant's.
   *
   * @throws ProblemError `other_tenant`, those of `Storage`
   */
  async assertOwner(id: SessionId, tenant: Tenant): Promise<void> {
    const owner = this.#sessions.get(id)?.tenant ?? (await this.#ownerInStorage(id));
    if (owner !== null && owner !== tenant) throw otherTenant(id);
  }

  /** As {@link assertOwner}, of a checkpoint. @throws ProblemError `checkpoint_not_found`, those of `Storage` */
  async assertCheckpointOwner(id: CheckpointId, tenant: Tenant): Promise<void> {
    if ((await this.#checkpoints.get(id)).tenant !== tenant) throw checkpointNotFound(id);
  }

  /** What was computed for a session since this was last asked, and for sessions of the tenant that have ended since. */
  takeUsage(id: SessionId, tenant: Tenant): SessionUsage {
    const ended = this.#endedUsage.get(tenant) ?? NO_USAGE;
    this.#endedUsage.delete(tenant);
    return addUsage(ended, this.#sessions.get(id)?.takeUsage() ?? NO_USAGE);
  }

  /** What nobody has asked for before a session's end is the next request's. */
  #keepUsage(session: TrainingSession): void {
    const { tenant } = session;
    this.#endedUsage.set(tenant, addUsage(this.#endedUsage.get(tenant) ?? NO_USAGE, session.takeUsage()));
  }

  /**
   * Finds the sessions and checkpoints in storage. A session's state is recovered when it is first asked for.
   *
   * @returns how many sessions were found; none where the storage is shared, until one is asked for
   * @throws ProblemError those of `Storage`
   */
  async load(): Promise<number> {
    await this.#checkpoints.load();
    // Whoever owns them is asked for them.
    if (this.#options.isStorageShared) return 0;
    const ids = await storedSessions(this.#options.storage);
    for (const id of ids) {
      try {
        const session = await this.#findStored(parseSessionId(id));
        if (session !== null) void this.#resumeRun(session).catch(this.#options.reportFailure);
      } catch (error) {
        if (!(error instanceof ProblemError) || error.retryable) throw error;
        this.#options.reportFailure(error);
      }
    }
    return this.#sessions.size;
  }

  /** A run that its worker's end has interrupted goes on without being asked for. @throws ProblemError as {@link get} */
  async #resumeRun(session: TrainingSession): Promise<void> {
    if (await session.runs.hasUnfinished()) await session.open();
  }

  /**
   * Creates a session, or returns the one with this id and definition.
   *
   * @throws ProblemError `session_exists` if the id is taken by another definition; `session_limit_reached`, `quota_exceeded`,
   *   `queue_full`, `checkpoint_not_found`, those of `Storage`; the signal's reason if it is aborted before the session's turn
   */
  async create(
    id: SessionId,
    order: SessionOrder,
    { tenant, quota = Infinity }: Ownership = { tenant: LOCAL_TENANT },
    signal?: AbortSignal,
  ): Promise<TrainingSession> {
    this.removeExpired();
    if ('fromCheckpoint' in order) await this.assertCheckpointOwner(order.fromCheckpoint, tenant);
    const store = this.#storeOf(id);
    const definition = 'fromCheckpoint' in order ? await this.#definitionOf(order) : order;
    // Where the storage is shared, another worker may have begun what is asked for again.
    if (this.#owned.has(id) && !this.#sessions.has(id) && this.#options.storage.isDurable) {
      await this.#leaving.get(id);
      await this.#findStored(id);
    }
    const existing = this.#sessions.get(id);
    if (existing !== undefined) {
      if (existing.tenant !== tenant) throw otherTenant(id);
      if (isDeepStrictEqual(existing.initialDefinition, definition)) return this.get(id);
      throw new ProblemError('session_exists', {
        param: 'id',
        detail: `Session ${id} exists with another definition.`,
        remedy: 'Create a session under a new id, or delete this one first.',
      });
    }
    this.#assertQuota(tenant, quota);
    this.#assertRoomFor(definition);
    const createdAt = new Date(this.#resources.now()).toISOString();
    const session = this.#add(id, { definition, initial: null, optimizerFromStep: 0, createdAt, tenant }, store);
    try {
      await session.use(async () => session.begin(await this.#startOf(order), signal));
    } catch (error) {
      if (this.#sessions.get(id) === session) {
        this.#sessions.delete(id);
        this.#note(id, null);
      }
      throw error;
    }
    return session;
  }

  /**
   * The session with its state on the device, marked as used.
   *
   * @throws ProblemError `session_not_found`, `session_expired`, `queue_full`, those of `Storage`
   */
  async get(id: SessionId): Promise<TrainingSession> {
    this.removeExpired();
    const session = this.#sessions.get(id) ?? (await this.#find(id));
    await session.use(() => session.open());
    return session;
  }

  /** @throws ProblemError `session_not_found`, `session_expired`, those of `Storage`: the deletion may then be tried again */
  async delete(id: SessionId): Promise<void> {
    this.removeExpired();
    const session = this.#sessions.get(id) ?? (await this.#find(id));
    session.close('deleted');
    this.#keepUsage(session);
    await session.deleteStored();
    if (this.#sessions.get(id) === session) this.#forget(id);
  }

  /** Changes what can be changed of a session. @throws ProblemError as {@link get}; `TrainingSession.change`; `session_limit_reached` */
  async change(id: SessionId, changes: SessionChanges, signal?: AbortSignal): Promise<Session> {
    const session = await this.get(id);
    const admit = (definition: SessionDefinition): void => {
      this.#assertMemoryFor(definition, session.definition);
    };
    return session.use(() => session.change(changes, admit, signal));
  }

  /** Makes a checkpoint of a session as of its last step. @throws ProblemError as {@link get} */
  async makeCheckpoint(id: SessionId, signal?: AbortSignal): Promise<Checkpoint> {
    const session = await this.get(id);
    const saved = await session.use(() => session.checkpoint(signal));
    return this.#keep(newCheckpointId(), session, saved, 'request');
  }

  /** Those of a session, oldest first; an expired session still has them. @throws ProblemError `session_not_found` */
  async checkpointsOf(id: SessionId): Promise<Checkpoint[]> {
    this.removeExpired();
    await this.#leaving.get(id);
    const checkpoints = await this.#checkpoints.of(id);
    if (checkpoints.length === 0 && !this.#sessions.has(id)) throw sessionNotFound(id);
    return checkpoints;
  }

  /** @throws ProblemError `checkpoint_not_found`, those of `Storage` */
  readCheckpoint(id: CheckpointId): Promise<Uint8Array<ArrayBuffer>> {
    return this.#checkpoints.read(id);
  }

  /** @throws ProblemError `checkpoint_not_found`, those of `Storage` */
  deleteCheckpoint(id: CheckpointId): Promise<void> {
    return this.#checkpoints.delete(id);
  }

  /** Takes in a checkpoint's file. @throws ProblemError as `Trainers.inspect`; those of `Storage` */
  async importCheckpoint(
    id: CheckpointId,
    file: Uint8Array<ArrayBuffer>,
    tenant: Tenant = LOCAL_TENANT,
  ): Promise<Checkpoint> {
    const { compute, queue, now } = this.#resources;
    const { summary, bytes } = await queue.run(id, () => compute.inspect(file));
    const { definition, step, digest, engine } = summary;
    const checkpoint: Checkpoint = {
      id,
      session: null,
      origin: 'import',
      mode: definition.mode,
      step,
      bytes: bytes.length,
      digest,
      engine,
      createdAt: new Date(now()).toISOString(),
      expiresAt: null,
    };
    await this.#checkpoints.add({ checkpoint, definition, tenant }, bytes);
    return checkpoint;
  }

  /** Ends what goes on without requests: the worker stops. Resolves when no run has a step under way. */
  async suspend(): Promise<void> {
    await Promise.all([...this.#sessions.values()].map((session) => session.suspend()));
  }

  /** Ends the sessions whose time is over; what they hold is freed, or brought into storage in the background. */
  removeExpired(): void {
    const now = this.#resources.now();
    for (const [id, session] of this.#sessions) {
      session.removeExpiredParts(now);
      if (!session.isExpired(now)) continue;
      this.#sessions.delete(id);
      if (!this.#options.storage.isDurable) {
        session.close('expired');
        this.#note(id, null);
        this.#keepUsage(session);
        session.deleteStored().catch(this.#options.reportFailure);
        continue;
      }
      this.#leave(id, this.#retire(session));
    }
  }

  /** Has whoever asks for a session wait until an earlier one of its name is gone. */
  #leave(id: SessionId, gone: Promise<void>): void {
    const leaving = Promise.all([this.#leaving.get(id), gone]).then(() => {
      if (this.#leaving.get(id) === leaving) this.#leaving.delete(id);
    });
    this.#leaving.set(id, leaving);
  }

  /** Deletes checkpoints whose time is over. A failure is reported; the next call tries again. */
  async removeExpiredCheckpoints(): Promise<void> {
    try {
      await this.#checkpoints.removeExpired();
    } catch (error) {
      this.#options.reportFailure(error);
    }
  }

  /** Keeps an expired session's state as a checkpoint. If that fails, the session lives on. */
  async #retire(session: TrainingSession): Promise<void> {
    try {
      await session.assertOwned();
      await session.open();
      if (session.runs.running !== null) {
        // It was not known to have anything to do.
        session.touch();
        this.#sessions.set(session.id, session);
        return;
      }
      if (session.nextStep > 0) {
        await this.#keep(expiryCheckpoint(session.id), session, await session.checkpoint(), 'expiry');
      }
      session.close('expired');
      this.#keepUsage(session);
      await session.deleteStored();
      this.#owned.delete(session.id);
      this.#note(session.id, null);
    } catch (error) {
      if (error instanceof ProblemError && error.code === 'session_moved') {
        session.close('stopped', error);
        return;
      }
      this.#options.reportFailure(error);
      if (session.isClosed) return;
      session.touch();
      this.#sessions.set(session.id, session);
    }
  }

  async #keep(
    id: CheckpointId,
    { id: session, definition, tenant }: TrainingSession,
    { bytes, digest, step, engine }: SavedCheckpoint,
    origin: 'request' | 'expiry',
  ): Promise<Checkpoint> {
    const now = this.#resources.now();
    const expiresAt = origin === 'expiry' ? new Date(now + this.#options.retention).toISOString() : null;
    const { mode } = definition;
    const createdAt = new Date(now).toISOString();
    const checkpoint: Checkpoint = { id, session, origin, mode, step, bytes: bytes.length, digest, engine, createdAt, expiresAt }; // prettier-ignore
    await this.#checkpoints.add({ checkpoint, definition, tenant }, bytes);
    return checkpoint;
  }

  async #definitionOf(order: Extract<SessionOrder, { fromCheckpoint: unknown }>): Promise<SessionDefinition> {
    const { definition } = await this.#checkpoints.get(order.fromCheckpoint);
    return order.ttlSeconds === undefined ? definition : { ...definition, ttlSeconds: order.ttlSeconds };
  }

  /** The checkpoint that a session starts from; null for the initial state. */
  async #startOf(order: SessionOrder): Promise<StartingPoint | null> {
    if (!('fromCheckpoint' in order)) return null;
    const { step } = (await this.#checkpoints.get(order.fromCheckpoint)).checkpoint;
    return { step, file: await this.#checkpoints.read(order.fromCheckpoint) };
  }

  /** Whose a session is that is not held; null if it is nowhere. */
  async #ownerInStorage(id: SessionId): Promise<Tenant | null> {
    await this.#leaving.get(id);
    const stored = this.#options.storage.isDurable ? await this.#findStored(id) : null;
    return stored?.tenant ?? this.#checkpoints.ownerOf(id);
  }

  #assertQuota(tenant: Tenant, quota: number): void {
    const held = [...this.#sessions.values()].filter((session) => session.tenant === tenant).length;
    if (held >= quota) throw sessionQuotaExceeded(tenant, held);
  }

  #assertRoomFor(definition: SessionDefinition): void {
    const { limit } = this.#options;
    if (this.#sessions.size >= limit) {
      throw new ProblemError('session_limit_reached', {
        detail: `The worker holds ${String(this.#sessions.size)} of ${String(limit)} sessions.`,
        remedy: MAKE_ROOM,
      });
    }
    this.#assertMemoryFor(definition, null);
  }

  /** @param before the definition that it takes the place of, if any */
  #assertMemoryFor(definition: SessionDefinition, before: SessionDefinition | null): void {
    const freed = before === null ? 0 : stateBytes(before);
    const held = this.bytes;
    const wanted = stateBytes(definition);
    if (wanted > freed && held - freed + wanted > LIMITS.stateBytes) {
      throw new ProblemError('session_limit_reached', {
        detail: `The session’s state takes ${String(wanted)} bytes; the worker has ${String(LIMITS.stateBytes - held + freed)} left.`,
        remedy: MAKE_ROOM,
      });
    }
  }

  #add(id: SessionId, record: SessionRecord, store: OwnedStore): TrainingSession {
    const { storage, log: policy, reportFailure } = this.#options;
    const log = storage.isDurable ? new StepLog(store, id, policy, reportFailure) : null;
    const { now } = this.#resources;
    const parts = new PendingParts(id, { storage: store, budget: this.#partsBudget, now, reportFailure });
    const data = new SessionData(id, { storage: store, budget: this.#dataBudget, memory: this.#dataMemory });
    const stores = { log, storage: store, parts, data, replies: this.#replies, reportFailure };
    const session = new TrainingSession(id, record, this.#resources, stores);
    this.#sessions.set(id, session);
    this.#note(id, record.tenant);
    return session;
  }

  #storeOf(id: SessionId): OwnedStore {
    const { storage, isStorageShared } = this.#options;
    const owned = this.#owned.get(id);
    if (owned !== undefined) return owned.store;
    // Nothing is known of a lease any more: the edge brings one.
    if (isStorageShared && storage.isDurable) throw sessionMoved(id, 0);
    return soleOwner(storage, sessionPrefixes(id));
  }

  #forget(id: SessionId): void {
    this.#sessions.delete(id);
    this.#owned.delete(id);
    this.#note(id, null);
  }

  #note(id: SessionId, tenant: Tenant | null): void {
    if (this.#options.isStorageShared) this.#changes.set(id, tenant);
  }

  /** A session that is not held: in storage, kept as a checkpoint, or nowhere. */
  async #find(id: SessionId): Promise<TrainingSession> {
    await this.#leaving.get(id);
    const stored = this.#options.storage.isDurable ? await this.#findStored(id) : null;
    if (stored !== null) return stored;
    const kept = (await this.#checkpoints.of(id)).find(({ origin }) => origin === 'expiry');
    this.#owned.delete(id);
    if (kept === undefined) throw sessionNotFound(id);
    throw new ProblemError('session_expired', {
      param: 'id',
      detail: `Session ${id} expired at ${kept.createdAt}, without a request in its time; its state after ${String(kept.step)} steps is kept until ${String(kept.expiresAt)}.`,
      remedy: `Go on with POST /v1/sessions {"fromCheckpoint": "${kept.id}"}.`,
    });
  }

  async #findStored(id: SessionId): Promise<TrainingSession | null> {
    const store = this.#storeOf(id);
    if (this.#owned.has(id) && !(await isStored(this.#options.storage, id))) return null;
    const record = await readRecord(store, id);
    // Somebody else may have found it meanwhile.
    const held = this.#sessions.get(id);
    if (held !== undefined || record === null) return held ?? null;
    return this.#add(id, record, store);
  }
}

/** Of a session's state at its end: there is one, so that keeping it twice keeps it once. */
function expiryCheckpoint(id: SessionId): CheckpointId {
  return parseCheckpointId(id.replace(/^ses_/, 'ckp_'));
}
