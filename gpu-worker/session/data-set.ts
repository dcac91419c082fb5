/**
 * The data set of a hosted session, in storage as it came: a chunk is there before it is acknowledged.
 *
 *     data/<id>/<k>-<samples>-<digest>    the body of chunk k
 */
import { checkChunkHeader, checkDataSetSize, describeDataSet, type DataSet } from '../../shared/data-set.ts';
import { ProblemError } from '../../shared/errors.ts';
import type { HostedDefinition } from '../../shared/hosted-definition.ts';
import { readHeader } from '../../shared/safetensors.ts';
import type { SessionId } from '../../shared/session.ts';
import type { ObjectStore } from '../storage/storage.ts';
import type { ByteBudget } from './byte-budget.ts';
import { DataBatches } from './data-batch.ts';
import type { DataMemory, LoadedData } from './data-memory.ts';

interface Chunk {
  /** k. */
  readonly chunk: number;
  readonly samples: number;
  readonly bytes: number;
  /** SHA-256 of its body, in hexadecimal. */
  readonly digest: string;
}

export interface DataSetResources {
  /** Of the session's objects. */
  readonly storage: ObjectStore;
  /** Of the data sets of all sessions. */
  readonly budget: ByteBudget;
  /** Of those that are in memory. */
  readonly memory: DataMemory;
}

interface ArrivingChunk extends Chunk {
  /** Settles when it is in storage. */
  readonly stored: Promise<void>;
}

/** Batches of the first so many chunks. */
interface LoadedBatches {
  readonly chunks: number;
  readonly batches: DataBatches;
}

export class SessionData implements LoadedData {
  readonly #id: SessionId;
  readonly #resources: DataSetResources;
  /** In storage, by number. */
  readonly #chunks = new Map<number, Chunk>();
  /** On their way into storage, by number. */
  readonly #arriving = new Map<number, ArrivingChunk>();
  #loaded: LoadedBatches | null = null;
  /** Whether what is stored is known. */
  #isRead = false;
  /** Whether storage may hold something. */
  #isStored = false;

  constructor(id: SessionId, resources: DataSetResources) {
    this.#id = id;
    this.#resources = resources;
  }

  describe(): DataSet {
    return describeDataSet(this.#inOrder());
  }

  /**
   * Takes in chunk k, unless it is there. Resolves when it is in storage.
   *
   * @param check checks the values, and gives the bytes back
   * @throws ProblemError as `checkChunkHeader` and `check`; `chunk_conflict`, `data_too_large`, `memory_full`, those of `Storage`
   */
  async put(
    k: number,
    { bytes, digest }: { readonly bytes: Uint8Array<ArrayBuffer>; readonly digest: string },
    definition: HostedDefinition,
    check: (bytes: Uint8Array<ArrayBuffer>) => Promise<Uint8Array<ArrayBuffer>>,
  ): Promise<void> {
    const existing = this.#chunks.get(k) ?? this.#arriving.get(k);
    if (existing !== undefined) {
      if (existing.digest !== digest) throw conflict(k);
      if ('stored' in existing) await existing.stored;
      return;
    }
    const samples = checkChunkHeader(readHeader(bytes), definition);
    const chunk: Chunk = { chunk: k, samples, bytes: bytes.length, digest };
    const all = [...this.#chunks.values(), ...this.#arriving.values(), chunk];
    checkDataSetSize({ samples: sumOf(all, 'samples'), bytes: sumOf(all, 'bytes') });
    const { storage, budget } = this.#resources;
    budget.take(chunk.bytes);
    const store = async (): Promise<void> => {
      const checked = await check(bytes);
      await storage.write({ puts: [{ key: this.#key(chunk), bytes: checked, digest }], deletes: [] });
    };
    const arriving: ArrivingChunk = { ...chunk, stored: store() };
    this.#arriving.set(k, arriving);
    this.#isStored = true;
    try {
      await arriving.stored;
      this.#chunks.set(k, chunk);
    } catch (error) {
      budget.free(chunk.bytes);
      throw error;
    } finally {
      this.#arriving.delete(k);
    }
  }

  /** Takes all chunks away. @throws ProblemError those of `Storage` */
  async remove(): Promise<void> {
    await Promise.allSettled([...this.#arriving.values()].map(({ stored }) => stored));
    const deletes = this.#inOrder().map((chunk) => this.#key(chunk));
    if (deletes.length > 0) await this.#resources.storage.write({ puts: [], deletes });
    this.close();
  }

  /**
   * Reads the chunks that make up the first so many samples into memory, unless they are there. They stay until {@link release}.
   *
   * @throws ProblemError `memory_full`; `storage_damaged` if there are not so many; those of `Storage`
   */
  async load(samples: number, definition: HostedDefinition): Promise<DataBatches> {
    const { storage, memory } = this.#resources;
    const chunks: Chunk[] = [];
    for (const chunk of this.#inOrder()) {
      if (sumOf(chunks, 'samples') >= samples) break;
      if (chunk.chunk !== chunks.length) break;
      chunks.push(chunk);
    }
    if (sumOf(chunks, 'samples') !== samples) throw this.#lost(chunks.length);
    memory.use(this, sumOf(chunks, 'bytes'));
    if (this.#loaded?.chunks === chunks.length) return this.#loaded.batches;
    try {
      const bodies: Uint8Array[] = [];
      for (const chunk of chunks) {
        const body = await storage.read(this.#key(chunk));
        if (body === null) throw this.#lost(chunk.chunk);
        bodies.push(body);
      }
      const batches = new DataBatches(bodies, definition);
      this.#loaded = { chunks: chunks.length, batches };
      return batches;
    } catch (error) {
      this.unload();
      memory.forget(this);
      throw error;
    }
  }

  /** Nobody draws from it any more. */
  release(): void {
    this.#resources.memory.release(this);
  }

  unload(): void {
    this.#loaded = null;
  }

  /** Finds what is stored, once: nobody else writes it. @throws ProblemError `memory_full`, those of `Storage` */
  async read(): Promise<void> {
    if (this.#isRead) return;
    const { storage, budget } = this.#resources;
    this.close();
    for (const { key, bytes } of await storage.list(this.#prefix)) {
      const [k = '', samples = '', digest = ''] = key.slice(this.#prefix.length).split('-');
      budget.take(bytes);
      this.#chunks.set(Number(k), { chunk: Number(k), samples: Number(samples), bytes, digest });
    }
    this.#isRead = true;
  }

  /** Frees what a closed session holds. */
  close(): void {
    for (const { bytes } of this.#chunks.values()) this.#resources.budget.free(bytes);
    this.#chunks.clear();
    this.unload();
    this.#resources.memory.forget(this);
  }

  /** Removes what was put. @throws ProblemError those of `Storage` */
  async deleteStored(): Promise<void> {
    if (!this.#isStored) return;
    const { storage } = this.#resources;
    const deletes = (await storage.list(this.#prefix)).map(({ key }) => key);
    if (deletes.length > 0) await storage.write({ puts: [], deletes });
  }

  #inOrder(): Chunk[] {
    return [...this.#chunks.values()].toSorted((a, b) => a.chunk - b.chunk);
  }

  #lost(k: number): ProblemError {
    return new ProblemError('storage_damaged', {
      param: 'k',
      detail: `Chunk ${String(k)} of the data set of session ${this.#id} cannot be found in the storage any more.`,
      remedy: 'Go on from a checkpoint, with the data set sent anew.',
    });
  }

  get #prefix(): string {
    return `data/${this.#id}/`;
  }

  #key({ chunk, samples, digest }: Chunk): string {
    return `${this.#prefix}${String(chunk)}-${String(samples)}-${digest}`;
  }
}

function sumOf(chunks: readonly Chunk[], field: 'samples' | 'bytes'): number {
  return chunks.reduce((sum, chunk) => sum + chunk[field], 0);
}

function conflict(k: number): ProblemError {
  return new ProblemError('chunk_conflict', {
    param: 'k',
    detail: `Chunk ${String(k)} was sent with another body.`,
    remedy: 'To repeat it, send exactly the same bytes; to send another data set, DELETE this one first.',
  });
}
