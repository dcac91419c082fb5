/**
 * Checkpoints that clients can ask for, and those that are kept of expired sessions for a while.
 *
 *     checkpoints/<id>               the record; it makes the checkpoint exist
 *     checkpoint-files/<id>          the safetensors file
 */
import * as z from 'zod';
import { checkpointNotFound, checkpointSchema, type Checkpoint, type CheckpointId } from '../../shared/checkpoint.ts';
import { ProblemError } from '../../shared/errors.ts';
import { sessionDefinitionSchema, type SessionId } from '../../shared/session.ts';
import { LOCAL_TENANT, tenantSchema, type Tenant } from '../../shared/tenant.ts';
import type { Storage } from '../storage/storage.ts';

const RECORDS = 'checkpoints/';
const recordKey = (id: CheckpointId): string => `${RECORDS}${id}`;
const fileKey = (id: CheckpointId): string => `checkpoint-files/${id}`;

const recordSchema = z.strictObject({
  checkpoint: checkpointSchema,
  definition: sessionDefinitionSchema,
  tenant: tenantSchema.default(LOCAL_TENANT),
});

/** A checkpoint, the definition of the session it was made of, and whose it is. */
export type CheckpointRecord = z.output<typeof recordSchema>;

export class Checkpoints {
  readonly #storage: Storage;
  /** Whether other workers add and remove checkpoints, too. */
  readonly #isShared: boolean;
  readonly #now: () => number;
  readonly #records = new Map<CheckpointId, CheckpointRecord>();

  constructor(storage: Storage, isShared: boolean, now: () => number) {
    this.#storage = storage;
    this.#isShared = isShared;
    this.#now = now;
  }

  /** Finds what is stored. A record never changes: what is known is not read again. @throws ProblemError the storage's */
  async load(): Promise<void> {
    const keys = new Set((await this.#storage.list(RECORDS)).map(({ key }) => key));
    for (const id of this.#records.keys()) if (!keys.delete(recordKey(id))) this.#records.delete(id);
    for (const key of keys) await this.#read(key);
  }

  async #read(key: string): Promise<CheckpointRecord | null> {
    const bytes = await this.#storage.read(key);
    if (bytes === null) return null;
    const parsed = recordSchema.safeParse(JSON.parse(new TextDecoder().decode(bytes)));
    if (!parsed.success) {
      throw new ProblemError('storage_damaged', {
        detail: `${key} is not of this version’s form: ${parsed.error.message}.`,
        remedy: 'Run the worker’s version that wrote it.',
      });
    }
    this.#records.set(parsed.data.checkpoint.id, parsed.data);
    return parsed.data;
  }

  /** @param file not the caller's any more */
  async add(record: CheckpointRecord, file: Uint8Array<ArrayBuffer>): Promise<void> {
    const { id } = record.checkpoint;
    const bytes = new TextEncoder().encode(JSON.stringify(record));
    const puts = [
      { key: fileKey(id), bytes: file, digest: null },
      { key: recordKey(id), bytes, digest: null },
    ];
    await this.#storage.write({ puts, deletes: [] });
    this.#records.set(id, record);
  }

  /** @throws ProblemError `checkpoint_not_found`, those of `Storage` */
  async get(id: CheckpointId): Promise<CheckpointRecord> {
    const record = this.#records.get(id) ?? (this.#isShared ? await this.#read(recordKey(id)) : null);
    if (record === null || isOver(record, this.#now())) throw checkpointNotFound(id);
    return record;
  }

  /** The file. @throws ProblemError `checkpoint_not_found`, those of `Storage` */
  async read(id: CheckpointId): Promise<Uint8Array<ArrayBuffer>> {
    await this.get(id);
    const file = await this.#storage.read(fileKey(id));
    if (file === null) throw checkpointNotFound(id);
    return file;
  }

  /** Whose the checkpoints of a session are; null if it has none. @throws ProblemError those of `Storage` */
  async ownerOf(session: SessionId): Promise<Tenant | null> {
    const [first] = await this.of(session);
    return first === undefined ? null : (await this.get(first.id)).tenant;
  }

  /** Those of a session, oldest first. @throws ProblemError those of `Storage` */
  async of(session: SessionId): Promise<Checkpoint[]> {
    if (this.#isShared) await this.load();
    const now = this.#now();
    return [...this.#records.values()]
      .filter((record) => record.checkpoint.session === session && !isOver(record, now))
      .map(({ checkpoint }) => checkpoint)
      .toSorted((a, b) => a.createdAt.localeCompare(b.createdAt) || a.id.localeCompare(b.id));
  }

  /** @throws ProblemError `checkpoint_not_found`, those of `Storage` */
  async delete(id: CheckpointId): Promise<void> {
    await this.get(id);
    await this.#remove(id);
  }

  /** Deletes those whose time is over. @throws ProblemError those of `Storage` */
  async removeExpired(): Promise<void> {
    if (this.#isShared) await this.load();
    const now = this.#now();
    for (const [id, record] of this.#records) if (isOver(record, now)) await this.#remove(id);
  }

  async #remove(id: CheckpointId): Promise<void> {
    await this.#storage.write({ puts: [], deletes: [recordKey(id), fileKey(id)] });
    this.#records.delete(id);
  }
}

function isOver({ checkpoint: { expiresAt } }: CheckpointRecord, now: number): boolean {
  return expiresAt !== null && Date.parse(expiresAt) <= now;
}
