/**
 * The parts of a session's next step, in storage until they are committed: as a step they are there before they are acknowledged.
 *
 *     parts/<id>/<n>-<k>-<digest>    the body of part k of step n
 *     parts/<id>/committed           of which parts the last committed step was made
 */
import * as z from 'zod';
import { ProblemError } from '../../shared/errors.ts';
import { LIMITS } from '../../shared/limits.ts';
import { readHeader } from '../../shared/safetensors.ts';
import type { SessionDefinition, SessionId } from '../../shared/session.ts';
import {
  checkPartHeader,
  planUnion,
  sharedTensors,
  UnionBody,
  type PartHeader,
  type StepParts,
} from '../../shared/step-parts.ts';
import type { Changes, ObjectStore } from '../storage/storage.ts';
import type { ByteBudget } from './byte-budget.ts';

interface StoredPart extends PartHeader {
  /** SHA-256 of its body, in hexadecimal. */
  readonly digest: string;
  readonly bytes: number;
  /** By name, digests of the tensors that must be the same in all parts. */
  readonly shared: ReadonlyMap<string, string>;
  /** Settles when it is in storage. */
  readonly written: Promise<void>;
}

const committedSchema = z.strictObject({
  step: z.int().min(0),
  parts: z.array(z.strictObject({ part: z.int(), digest: z.string(), samples: z.int(), bytes: z.int() })),
});

/** A step that was put together from parts. */
export type CommittedParts = z.output<typeof committedSchema>;

/** The whole batch. */
export interface PartsUnion {
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** Of the parts' digests in their order: what tells this batch from others. */
  readonly digest: string;
  readonly committed: CommittedParts;
}

export interface PartsResources {
  /** Of the session's objects. */
  readonly storage: ObjectStore;
  /** Of the parts of all sessions. */
  readonly budget: ByteBudget;
  /** Milliseconds since the epoch. */
  readonly now: () => number;
  readonly reportFailure: (error: unknown) => void;
}

export class PendingParts {
  readonly #id: SessionId;
  readonly #resources: PartsResources;
  /** Of the next step, by number. */
  readonly #parts = new Map<number, StoredPart>();
  #step = 0;
  #lastArrival = 0;
  #committed: CommittedParts | null = null;
  /** Whether storage may hold something. */
  #isStored = false;
  /** While they are being committed none comes, and none goes. */
  #isCommitting = false;
  /** Settles when parts that are being taken away are gone, or are to stay. Until then nothing else begins. */
  #removal: Promise<void> | null = null;

  constructor(id: SessionId, resources: PartsResources) {
    this.#id = id;
    this.#resources = resources;
  }

  /** Of which parts the last step was made; null if it was sent as a whole, or is not known any more. */
  committedAs(step: number): CommittedParts | null {
    return this.#committed?.step === step ? this.#committed : null;
  }

  /** The parts of the next step, or of the last one. */
  describe(step: number): StepParts {
    const committed = this.committedAs(step);
    const found = committed?.parts ?? this.#inOrder();
    let firstSample = 0;
    const parts = found.map(({ part, samples, bytes }) => {
      const begin = firstSample;
      firstSample += samples;
      return { part, samples, firstSample: begin, bytes };
    });
    const isWaiting = committed === null && parts.length > 0;
    return {
      step,
      parts,
      samples: firstSample,
      committed: committed !== null,
      expiresAt: isWaiting ? new Date(this.#expiresAt).toISOString() : null,
    };
  }

  /** Bytes of the parts that are there. */
  get bytes(): number {
    return [...this.#parts.values()].reduce((sum, { bytes }) => sum + bytes, 0);
  }

  /**
   * Takes in part k of the next step, unless it is there. Resolves when it is in storage.
   *
   * @param assertNext throws if the step has been applied meanwhile
   * @throws ProblemError as `checkPartHeader` and `planUnion`; `part_conflict`, `step_in_progress`, `memory_full`, those of `Storage`
   */
  async put(
    step: number,
    k: number,
    { bytes, digest }: { readonly bytes: Uint8Array<ArrayBuffer>; readonly digest: string },
    definition: SessionDefinition,
    assertNext: () => void,
  ): Promise<void> {
    const { storage, budget, now } = this.#resources;
    const header = readHeader(bytes);
    const samples = checkPartHeader(header, definition);
    const shared = await digestsOf(sharedTensors(definition), header, bytes);
    while (this.#removal !== null) await this.#removal;
    assertNext();
    const existing = this.#parts.get(k);
    if (existing !== undefined) {
      if (existing.digest !== digest) throw conflict(step, k);
      await existing.written;
      return;
    }
    this.#assertNotCommitting(step);
    this.#assertSame(k, shared);
    planUnion(inOrder([...this.#parts.values(), { part: k, samples, header }]), definition);
    const size = bytes.length;
    budget.take(size);
    this.#isStored = true;
    const key = this.#key(step, k, digest);
    const written = storage.write({ puts: [{ key, bytes, digest }], deletes: [] });
    this.#parts.set(k, { part: k, samples, header, digest, bytes: size, shared, written });
    this.#step = step;
    this.#lastArrival = now();
    try {
      await written;
    } catch (error) {
      this.#forget(k);
      throw error;
    }
  }

  /** @param count parts 0 to count − 1 are what the step is to consist of @throws ProblemError `parts_missing`, `part_conflict` */
  assertComplete(step: number, count: number): void {
    const missing = Array.from({ length: count }, (_, k) => k).filter((k) => !this.#parts.has(k));
    if (missing.length > 0) {
      const shown = missing.slice(0, 100);
      throw new ProblemError('parts_missing', {
        param: 'parts',
        missingParts: shown,
        detail: `Step ${String(step)} is to have ${String(count)} parts; ${String(missing.length)} of them are missing: ${shown.slice(0, 10).join(', ')}${missing.length > 10 ? ', …' : ''}.`,
        remedy: 'Send them, then commit again. Parts that are not committed are dropped after a while.',
      });
    }
    const surplus = this.#inOrder().find(({ part }) => part >= count);
    if (surplus !== undefined) {
      throw new ProblemError('part_conflict', {
        param: 'parts',
        detail: `Step ${String(step)} is to have ${String(count)} parts, but part ${String(surplus.part)} was sent, too.`,
        remedy: `Commit ${String(this.#parts.size)} parts, or DELETE those that are too many.`,
      });
    }
  }

  /**
   * Puts the parts together, and does some work with their union; until it is done no other parts are taken in, nor any taken away.
   *
   * @throws ProblemError those of `Storage`; what the work throws
   * @throws TypeError if there is another commit, or a {@link removal}
   */
  async commit<Result>(
    step: number,
    definition: SessionDefinition,
    work: (union: PartsUnion) => Promise<Result>,
  ): Promise<Result> {
    if (this.#isCommitting || this.#removal !== null) throw new TypeError('the parts are being committed or removed');
    this.#isCommitting = true;
    try {
      return await work(await this.#union(step, definition));
    } finally {
      this.#isCommitting = false;
    }
  }

  async #union(step: number, definition: SessionDefinition): Promise<PartsUnion> {
    const { storage } = this.#resources;
    const parts = this.#inOrder();
    const body = new UnionBody(planUnion(parts, definition), definition, parts);
    for (const part of parts) {
      await part.written;
      const bytes = await storage.read(this.#key(step, part.part, part.digest));
      if (bytes === null) throw partLost(step, part.part);
      body.add(part, bytes);
    }
    const digest = await sha256(new TextEncoder().encode(parts.map((part) => part.digest).join()));
    const committed = {
      step,
      parts: parts.map((part) => ({ part: part.part, digest: part.digest, samples: part.samples, bytes: part.bytes })),
    };
    return { bytes: body.bytes, digest, committed };
  }

  /** What storage is to hold of a committed step, beside the step itself. */
  changesOf(committed: CommittedParts): Changes {
    const bytes = new TextEncoder().encode(JSON.stringify(committed));
    const keys = committed.parts.map(({ part, digest }) => this.#key(committed.step, part, digest));
    return { puts: [{ key: this.#commitKey, bytes, digest: null }], deletes: keys };
  }

  /** Counts a step that has been applied: there are no parts for the one after it yet. */
  applied(committed: CommittedParts | null): void {
    if (committed !== null) this.#committed = committed;
    if (this.#parts.size === 0) return;
    const parts = [...this.#parts.values()];
    for (const { part } of parts) this.#forget(part);
    void this.#deleteStored(this.#step, parts).catch(this.#resources.reportFailure);
  }

  /** Takes parts away. @param k null for all @throws ProblemError `step_in_progress`, those of `Storage` */
  async remove(step: number, k: number | null): Promise<void> {
    while (this.#removal !== null) await this.#removal;
    const parts = [...this.#parts.values()].filter(({ part }) => k === null || part === k);
    if (parts.length === 0) return;
    this.#assertNotCommitting(step);
    const removed = this.#deleteStored(step, parts).then(() => {
      for (const { part } of parts) this.#forget(part);
    });
    const settled = (): void => {
      this.#removal = null;
    };
    this.#removal = removed.then(settled, settled);
    await removed;
  }

  /** What a commit has to wait for; null for nothing. */
  get removal(): Promise<void> | null {
    return this.#removal;
  }

  /** Drops the parts of a step that nobody has gone on with for long. */
  removeExpired(now: number): void {
    if (this.#parts.size === 0 || this.#isCommitting || this.#removal !== null || now < this.#expiresAt) return;
    void this.remove(this.#step, null).catch(this.#resources.reportFailure);
  }

  /** Finds what is stored. What belongs to no step to come is deleted. @throws ProblemError those of `Storage` */
  async recover(nextStep: number, definition: SessionDefinition): Promise<void> {
    const { storage, budget, now } = this.#resources;
    this.close();
    this.#isStored = true;
    this.#committed = await this.#readCommitted();
    this.#step = nextStep;
    const stale: string[] = [];
    for (const { key, bytes: size } of await storage.list(this.#prefix)) {
      if (key === this.#commitKey) continue;
      const [n = '', k = '', digest = ''] = key.slice(this.#prefix.length).split('-');
      const bytes = Number(n) === nextStep ? await storage.read(key) : null;
      if (bytes === null) {
        stale.push(key);
        continue;
      }
      try {
        const header = readHeader(bytes);
        const samples = checkPartHeader(header, definition);
        const shared = await digestsOf(sharedTensors(definition), header, bytes);
        budget.take(size);
        const part = Number(k);
        this.#parts.set(part, { part, samples, header, digest, bytes: size, shared, written: Promise.resolve() });
        this.#lastArrival = now();
      } catch (error) {
        if (!(error instanceof ProblemError) || error.retryable) throw error;
        // Options that have changed since do not take such parts: they could not be committed.
        stale.push(key);
      }
    }
    if (stale.length > 0) await storage.write({ puts: [], deletes: stale });
  }

  /** Frees what a closed session holds. */
  close(): void {
    for (const k of [...this.#parts.keys()]) this.#forget(k);
  }

  /** Removes what is stored. @throws ProblemError those of `Storage` */
  async deleteStored(): Promise<void> {
    if (!this.#isStored) return;
    const { storage } = this.#resources;
    const parts = await storage.list(this.#prefix);
    await storage.write({ puts: [], deletes: parts.map(({ key }) => key) });
  }

  async #readCommitted(): Promise<CommittedParts | null> {
    const bytes = await this.#resources.storage.read(this.#commitKey);
    return bytes === null ? null : committedSchema.parse(JSON.parse(new TextDecoder().decode(bytes)));
  }

  /** @throws ProblemError `step_in_progress` */
  #assertNotCommitting(step: number): void {
    if (!this.#isCommitting) return;
    throw new ProblemError('step_in_progress', {
      param: 'n',
      detail: `Step ${String(step)} is being committed with the parts that it has.`,
      remedy: 'Wait for the step’s reply.',
    });
  }

  /** @throws ProblemError `invalid_parameter` */
  #assertSame(k: number, shared: ReadonlyMap<string, string>): void {
    const [other] = this.#parts.values();
    if (other === undefined) return;
    for (const [name, digest] of shared) {
      if (other.shared.get(name) === digest) continue;
      throw new ProblemError('invalid_parameter', {
        param: name,
        detail: `${name} of part ${String(k)} has other values, or another element type, than that of part ${String(other.part)}.`,
        remedy: 'Compute all parts of a step with the same parameters, bit for bit, and send these.',
      });
    }
  }

  async #deleteStored(step: number, parts: readonly StoredPart[]): Promise<void> {
    await Promise.allSettled(parts.map(({ written }) => written));
    const deletes = parts.map(({ part, digest }) => this.#key(step, part, digest));
    await this.#resources.storage.write({ puts: [], deletes });
  }

  #forget(k: number): void {
    const part = this.#parts.get(k);
    if (part === undefined) return;
    this.#parts.delete(k);
    this.#resources.budget.free(part.bytes);
  }

  #inOrder(): StoredPart[] {
    return inOrder([...this.#parts.values()]);
  }

  get #expiresAt(): number {
    return this.#lastArrival + 1000 * LIMITS.partSeconds;
  }

  get #prefix(): string {
    return `parts/${this.#id}/`;
  }

  get #commitKey(): string {
    return `${this.#prefix}committed`;
  }

  #key(step: number, k: number, digest: string): string {
    return `${this.#prefix}${String(step)}-${String(k)}-${digest}`;
  }
}

function inOrder<Part extends PartHeader>(parts: readonly Part[]): Part[] {
  return parts.toSorted((a, b) => a.part - b.part);
}

async function digestsOf(
  names: ReadonlySet<string>,
  { entries, dataStart, metadata }: PartHeader['header'],
  body: Uint8Array<ArrayBuffer>,
): Promise<ReadonlyMap<string, string>> {
  const digests = new Map<string, string>();
  for (const { name, dtype, begin, end } of entries) {
    if (!names.has(name)) continue;
    const digest = await sha256(body.subarray(dataStart + begin, dataStart + end));
    digests.set(name, `${dtype} ${metadata[`${name}.scale`] ?? ''} ${digest}`);
  }
  return digests;
}

/** In hexadecimal. */
async function sha256(bytes: Uint8Array<ArrayBuffer>): Promise<string> {
  const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, '0')).join('');
}

function conflict(step: number, k: number): ProblemError {
  return new ProblemError('part_conflict', {
    param: 'k',
    detail: `Part ${String(k)} of step ${String(step)} was sent with another body.`,
    remedy: 'To replace it, DELETE it first; to repeat it, send exactly the same bytes.',
  });
}

function partLost(step: number, k: number): ProblemError {
  return new ProblemError('storage_damaged', {
    param: 'k',
    detail: `Part ${String(k)} of step ${String(step)} cannot be found in the storage any more.`,
    remedy: 'DELETE the part, and send it again.',
  });
}
