/**
 * What storage holds of one session: its record, a snapshot of its state, and the bodies of the steps applied since, from which the
 * state is computed anew. A step is in the log before it is acknowledged.
 *
 *     sessions/<id>                  the record
 *     snapshots/<id>/<n>             the state before step n, as a checkpoint's file
 *     options/<id>/<n>               the optimizer's options from step n on, where they have changed
 *     steps/<id>/<n>-<digest>        the body of step n
 *     steps/<id>/<n>-run<first>      nothing: step n is that of the run which began with step <first>
 */
import * as z from 'zod';
import { ProblemError } from '../../shared/errors.ts';
import { sessionDefinitionSchema, type SessionDefinition, type SessionId } from '../../shared/session.ts';
import { LOCAL_TENANT, tenantSchema } from '../../shared/tenant.ts';
import type { Changes, NewObject, ObjectStore, OwnedStore, Storage } from '../storage/storage.ts';

const RECORDS = 'sessions/';
/** Bytes of steps that may be acknowledged before they are written, where that is allowed. */
const BACKLOG_BYTES = 256_000_000;

const sessionRecordSchema = z.strictObject({
  /** As it is, with all changes. */
  definition: sessionDefinitionSchema,
  /** As it was at first; null where it does not say, for what has never changed. */
  initial: sessionDefinitionSchema.nullable().default(null),
  /** The first step that the definition's options hold for. */
  optimizerFromStep: z.int().min(0).default(0),
  createdAt: z.iso.datetime(),
  tenant: tenantSchema.default(LOCAL_TENANT),
});

export type SessionRecord = z.output<typeof sessionRecordSchema>;

export interface LogPolicy {
  /** Steps, and bytes of their bodies, in the log after which a snapshot takes their place. */
  readonly snapshotSteps: number;
  readonly snapshotBytes: number;
  /** When a step is acknowledged: once it is durable, or once it is applied, which a crash may undo. */
  readonly acknowledge: 'durable' | 'applied';
}

/** A state that a session begins with. */
export interface StartingPoint {
  /** Steps taken. */
  readonly step: number;
  /** A checkpoint's. */
  readonly file: Uint8Array<ArrayBuffer>;
}

/** A step in storage. */
export interface LoggedStep {
  readonly n: number;
  /** SHA-256 of its body, in hexadecimal; or {@link runDigest}. */
  readonly digest: string;
  readonly bytes: number;
}

/** What stands for the digest of a run's steps, which have no bodies: run and number say which samples they take. */
export function runDigest(firstStep: number): string {
  return `run${String(firstStep)}`;
}

/** The first step of the run that a step is of; null for one that was sent. */
export function runOf({ digest }: Pick<LoggedStep, 'digest'>): number | null {
  const [, firstStep] = /^run(\d+)$/.exec(digest) ?? [];
  return firstStep === undefined ? null : Number(firstStep);
}

/** What was found of a session. */
export interface SessionHistory {
  /** Steps taken at each snapshot, newest first. */
  readonly snapshots: readonly number[];
  /** Steps from which on other options hold, in order. */
  readonly options: readonly number[];
  /** By number; of a number with two bodies none. */
  readonly steps: ReadonlyMap<number, LoggedStep>;
  /** Steps that the session had taken at least. */
  readonly end: number;
  /** Keys of all of it. */
  readonly keys: readonly string[];
}

export class StepLog {
  readonly #storage: OwnedStore;
  readonly #id: SessionId;
  readonly #policy: LogPolicy;
  readonly #reportFailure: (error: unknown) => void;
  /** Written, or being written, since the last snapshot. */
  #steps: LoggedStep[] = [];
  /** Steps from which on other options hold, since the last snapshot. */
  #options: number[] = [];
  /** Steps taken at the last snapshot; null before the first. */
  #snapshot: number | null = null;
  #writingSnapshot: Promise<void> | null = null;
  /** A step that was acknowledged could not be written: only a snapshot makes the session whole again. */
  #hasHole = false;
  #durableStep = 0;
  /** Durable steps behind one that is not yet. */
  readonly #early = new Set<number>();
  #backlog = 0;
  /** Steps that were acknowledged before they were written. */
  readonly #writing = new Set<Promise<void>>();

  constructor(storage: OwnedStore, id: SessionId, policy: LogPolicy, reportFailure: (error: unknown) => void) {
    this.#storage = storage;
    this.#id = id;
    this.#policy = policy;
    this.#reportFailure = reportFailure;
  }

  /** Steps before this one are in storage. */
  get durableStep(): number {
    return this.#durableStep;
  }

  /** Steps before this one are not applied again by a recovery. */
  get replayedFrom(): number {
    return this.#snapshot ?? 0;
  }

  /** Whether a recovery takes steps of runs again, for which it needs the data set. */
  get hasRunSteps(): boolean {
    return this.#steps.some((step) => runOf(step) !== null);
  }

  get isSnapshotDue(): boolean {
    if (this.#writingSnapshot !== null) return false;
    const { snapshotSteps, snapshotBytes } = this.#policy;
    const bytes = this.#steps.reduce((sum, step) => sum + step.bytes, 0);
    return this.#hasHole || this.#steps.length >= snapshotSteps || bytes >= snapshotBytes;
  }

  /** @param start null for the initial state */
  async create(record: SessionRecord, start: StartingPoint | null): Promise<void> {
    const puts: NewObject[] = [document(recordKey(this.#id), record)];
    // The record last: it makes the session exist.
    if (start !== null) puts.unshift({ key: this.#snapshotKey(start.step), bytes: start.file, digest: null });
    await this.#storage.write({ puts, deletes: [] });
  }

  async history(): Promise<SessionHistory> {
    await this.#writingSnapshot;
    const [snapshotObjects, optionObjects, stepObjects] = await Promise.all([
      this.#storage.list(this.#snapshotKey('')),
      this.#storage.list(this.#optionsKey('')),
      this.#storage.list(this.#stepsPrefix),
    ]);
    const snapshots = snapshotObjects.map(({ key }) => Number(lastPart(key))).toSorted((a, b) => b - a);
    const all = stepObjects.map(({ key, bytes }): LoggedStep => {
      const [n = '', digest = ''] = lastPart(key).split('-');
      return { n: Number(n), digest, bytes };
    });
    const steps = new Map<number, LoggedStep>();
    for (const [n, same] of Map.groupBy(all, (step) => step.n)) {
      const [step] = same;
      if (step !== undefined && same.length === 1) steps.set(n, step);
    }
    const end = all.reduce((last, { n }) => Math.max(last, n + 1), snapshots[0] ?? 0);
    const options = optionObjects.map(({ key }) => Number(lastPart(key)));
    const keys = [...snapshotObjects, ...optionObjects, ...stepObjects].map(({ key }) => key);
    return { snapshots, options, steps, end, keys };
  }

  /** @throws ProblemError `storage_damaged` */
  async readSnapshot(step: number): Promise<Uint8Array<ArrayBuffer>> {
    return (await this.#storage.read(this.#snapshotKey(step))) ?? missing(this.#snapshotKey(step));
  }

  /** @throws ProblemError `storage_damaged` */
  async readStep(step: LoggedStep): Promise<Uint8Array<ArrayBuffer>> {
    return (await this.#storage.read(this.#stepKey(step))) ?? missing(this.#stepKey(step));
  }

  /** The definition with the options that hold from a step on. @throws ProblemError `storage_damaged` */
  async readOptions(step: number, definition: SessionDefinition): Promise<SessionDefinition> {
    const key = this.#optionsKey(step);
    const bytes = (await this.#storage.read(key)) ?? missing(key);
    const optimizer: unknown = JSON.parse(new TextDecoder().decode(bytes));
    const parsed = sessionDefinitionSchema.safeParse({ ...definition, optimizer });
    if (parsed.success) return parsed.data;
    throw otherVersion(key, parsed.error);
  }

  /**
   * Goes on after a recovery.
   *
   * @param snapshot the one that was recovered from; null for the initial state
   * @param end steps recovered: what else is stored is deleted, since it no longer belongs to the session
   * @param optimizer the options with which the session goes on. Those that were to hold from a step on that is lost hold at once
   */
  async resume(
    history: SessionHistory,
    snapshot: number | null,
    end: number,
    optimizer: SessionDefinition['optimizer'],
  ): Promise<void> {
    this.#steps = [...history.steps.values()].filter(({ n }) => n >= (snapshot ?? 0) && n < end).toSorted((a, b) => a.n - b.n); // prettier-ignore
    this.#snapshot = snapshot;
    this.#hasHole = false;
    this.#early.clear();
    this.#durableStep = end;
    const kept = new Set(this.#steps.map((step) => this.#stepKey(step)));
    if (snapshot !== null) kept.add(this.#snapshotKey(snapshot));
    this.#options = history.options.filter((n) => n >= (snapshot ?? 0) && n <= end);
    for (const n of this.#options) kept.add(this.#optionsKey(n));
    const puts: NewObject[] = [];
    if (history.options.some((n) => n > end)) {
      puts.push(document(this.#optionsKey(end), optimizer));
      if (!this.#options.includes(end)) this.#options.push(end);
      kept.add(this.#optionsKey(end));
    }
    const deletes = history.keys.filter((key) => !kept.has(key));
    if (deletes.length + puts.length > 0) await this.#storage.write({ puts, deletes });
  }

  /**
   * Writes a changed record.
   *
   * @param hasOtherOptions whether its optimizer's options are others than before, from `optimizerFromStep` on
   * @throws ProblemError the storage's; nothing has changed then
   */
  async change(record: SessionRecord, hasOtherOptions: boolean): Promise<void> {
    const { definition, optimizerFromStep: n } = record;
    const puts = [document(recordKey(this.#id), record)];
    if (hasOtherOptions) puts.unshift(document(this.#optionsKey(n), definition.optimizer));
    await this.#storage.write({ puts, deletes: [] });
    if (hasOtherOptions && !this.#options.includes(n)) this.#options.push(n);
  }

  /**
   * Writes a step that has been applied; resolves when it may be acknowledged.
   *
   * @param digest of the body; or where the body is a union, what the parts' digests make
   * @param body null for a run's step
   * @param beside what is to be written with it, before it and after
   * @throws ProblemError if it must not be: the storage's
   */
  async append(n: number, digest: string, body: Uint8Array<ArrayBuffer> | null, beside: Changes | null): Promise<void> {
    const bytes = body ?? new Uint8Array(0);
    const step: LoggedStep = { n, digest, bytes: bytes.length };
    this.#steps.push(step);
    const object = { key: this.#stepKey(step), bytes, digest: beside === null && body !== null ? digest : null };
    const writing = this.#storage.write({
      puts: [...(beside?.puts ?? []), object],
      deletes: beside?.deletes ?? [],
    });
    if (this.#policy.acknowledge === 'durable') {
      await writing;
      this.#becameDurable(n);
      return;
    }
    this.#backlog += step.bytes;
    const written = writing
      .then(
        () => {
          this.#becameDurable(n);
        },
        (error: unknown) => {
          this.#hasHole = true;
          this.#reportFailure(error);
        },
      )
      .finally(() => {
        this.#backlog -= step.bytes;
        this.#writing.delete(written);
      });
    this.#writing.add(written);
    if (this.#backlog > BACKLOG_BYTES) await written;
  }

  /**
   * Writes the state before step n, a step in the log, in place of what led to it. Never rejects: a failure is reported, and the
   * next snapshot is due at once.
   */
  writeSnapshot(n: number, file: Uint8Array<ArrayBuffer>): Promise<void> {
    this.#writingSnapshot = this.#replaceBySnapshot(n, file)
      .catch(this.#reportFailure)
      .finally(() => (this.#writingSnapshot = null));
    return this.#writingSnapshot;
  }

  /** As {@link writeSnapshot}, for who needs to know that it is written. @throws ProblemError the storage's */
  async forgetSteps(n: number, file: Uint8Array<ArrayBuffer>): Promise<void> {
    await this.flush();
    await this.#replaceBySnapshot(n, file);
  }

  async #replaceBySnapshot(n: number, file: Uint8Array<ArrayBuffer>): Promise<void> {
    const deletes = this.#steps.filter((step) => step.n < n).map((step) => this.#stepKey(step));
    deletes.push(...this.#options.filter((from) => from <= n).map((from) => this.#optionsKey(from)));
    if (this.#snapshot !== null && this.#snapshot !== n) deletes.push(this.#snapshotKey(this.#snapshot));
    await this.#storage.write({ puts: [{ key: this.#snapshotKey(n), bytes: file, digest: null }], deletes });
    this.#snapshot = n;
    this.#steps = this.#steps.filter((step) => step.n >= n);
    this.#options = this.#options.filter((from) => from > n);
    this.#hasHole = false;
    this.#durableStep = Math.max(this.#durableStep, n);
    this.#advance();
  }

  /** @throws ProblemError `session_moved` if a later owner has begun to use what is stored */
  assertOwned(): Promise<void> {
    return this.#storage.assertOwned();
  }

  /** Waits for what is being written. */
  async flush(): Promise<void> {
    await Promise.all([...this.#writing, this.#writingSnapshot]);
  }

  async delete(): Promise<void> {
    await this.#writingSnapshot;
    await this.#storage.end();
  }

  #becameDurable(n: number): void {
    this.#early.add(n);
    this.#advance();
  }

  #advance(): void {
    for (const n of this.#early) if (n < this.#durableStep) this.#early.delete(n);
    while (this.#early.delete(this.#durableStep)) this.#durableStep++;
  }

  get #stepsPrefix(): string {
    return `steps/${this.#id}/`;
  }

  #stepKey({ n, digest }: LoggedStep): string {
    return `${this.#stepsPrefix}${padded(n)}-${digest}`;
  }

  #snapshotKey(step: number | ''): string {
    return `snapshots/${this.#id}/${step === '' ? '' : padded(step)}`;
  }

  #optionsKey(step: number | ''): string {
    return `options/${this.#id}/${step === '' ? '' : padded(step)}`;
  }
}

/** Where the objects of sessions lie, beside their records. */
const SESSION_FOLDERS = ['steps', 'snapshots', 'options', 'parts', 'data', 'runs'] as const;

/** What the keys of a session's objects begin with: its owner writes no others. */
export function sessionPrefixes(id: SessionId): string[] {
  return [recordKey(id), ...SESSION_FOLDERS.map((folder) => `${folder}/${id}/`)];
}

/** The sessions in storage. */
export async function storedSessions(storage: Storage): Promise<string[]> {
  return (await storage.list(RECORDS)).map(({ key }) => lastPart(key));
}

/** Whether there is anything of the session, whoever owns it: what there is not need not be claimed. */
export async function isStored(storage: Storage, id: SessionId): Promise<boolean> {
  return (await storage.list(recordKey(id))).length > 0;
}

/** The session's record, null if there is none. @throws ProblemError `storage_damaged` */
export async function readRecord(storage: ObjectStore, id: SessionId): Promise<SessionRecord | null> {
  const bytes = await storage.read(recordKey(id));
  if (bytes === null) return null;
  const parsed = sessionRecordSchema.safeParse(JSON.parse(new TextDecoder().decode(bytes)));
  if (parsed.success) return parsed.data;
  throw otherVersion(`The record of session ${id}`, parsed.error);
}

function otherVersion(what: string, { message }: z.ZodError): ProblemError {
  return new ProblemError('storage_damaged', {
    detail: `${what} is not of this version’s form: ${message}.`,
    remedy: 'Run the worker’s version that wrote it.',
  });
}

function document(key: string, content: unknown): NewObject {
  return { key, bytes: new TextEncoder().encode(JSON.stringify(content)), digest: null };
}

function recordKey(id: SessionId): string {
  return `${RECORDS}${id}`;
}

/** So that the order of keys is that of numbers. */
function padded(n: number): string {
  return String(n).padStart(16, '0');
}

function lastPart(key: string): string {
  return key.slice(key.lastIndexOf('/') + 1);
}

function missing(key: string): never {
  throw new ProblemError('storage_damaged', {
    detail: `${key} was listed in the storage, but cannot be found.`,
    remedy: 'Start a session from an older checkpoint, or restore the storage from a backup.',
  });
}
