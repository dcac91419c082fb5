/**
 * Objects in an S3-compatible bucket (AWS S3, Cloudflare R2, MinIO), below a prefix. A bucket writes one object whole or not at all,
 * and a group of changes one after the other; what is written is found by everybody from then on.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { S3mini, S3ServiceError } from 's3mini';
import { ProblemError } from '../../shared/errors.ts';
import { ownedInBucket, type Bucket } from './s3-owned.ts';
import type { Changes, NewObject, Storage } from './storage.ts';

export interface S3Options {
  /** With the bucket as its path: https://s3.eu-central-1.amazonaws.com/my-bucket. */
  readonly endpoint: string;
  /** Before every key; empty, or ending with "/". */
  readonly prefix: string;
  readonly region: string;
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
}

/** Milliseconds for one request: a snapshot may be large. */
const REQUEST_MILLISECONDS = 120_000;
/** Milliseconds before a request that failed is sent again; all requests may be. */
const RETRY_MILLISECONDS = [100, 500];
/** Keys that one request can delete. */
const DELETED_AT_ONCE = 1000;
const DIGEST_HEADER = 'x-amz-meta-sha256';

/** @throws Error if the bucket cannot be read */
export async function openS3Storage({ prefix, ...connection }: S3Options): Promise<Storage> {
  const bucket = new S3mini({ ...connection, requestAbortTimeout: REQUEST_MILLISECONDS });
  const place = `${connection.endpoint}/${prefix}`;
  const writing = new Set<Promise<void>>();

  async function put({ key, bytes, digest }: NewObject): Promise<void> {
    const headers = { [DIGEST_HEADER]: digest ?? (await sha256(bytes)) };
    await retried(() => bucket.putObject(prefix + key, bytes, 'application/octet-stream', undefined, headers));
  }

  async function remove(keys: readonly string[]): Promise<void> {
    for (let begin = 0; begin < keys.length; begin += DELETED_AT_ONCE) {
      const some = keys.slice(begin, begin + DELETED_AT_ONCE).map((key) => prefix + key);
      const deleted = await retried(() => bucket.deleteObjects(some));
      if (!deleted.every(Boolean))
        throw new Error(`${String(deleted.filter((is) => !is).length)} objects were not deleted`);
    }
  }

  async function list(from: string): Promise<{ key: string; bytes: number }[]> {
    const objects = await retried(() => bucket.listObjects('/', prefix + from));
    if (objects === null) throw new Error('there is no such bucket');
    return objects
      .map(({ Key, Size }) => ({ key: Key.slice(prefix.length), bytes: Size }))
      .toSorted((a, b) => (a.key < b.key ? -1 : 1));
  }

  async function read(key: string): Promise<Uint8Array<ArrayBuffer> | null> {
    const found = await retried(async () => {
      const response = await bucket.getObjectResponse(prefix + key);
      if (response === null) return null;
      return { bytes: new Uint8Array(await response.arrayBuffer()), digest: response.headers.get(DIGEST_HEADER) };
    });
    if (found === null) return null;
    if ((await sha256(found.bytes)) === found.digest) return found.bytes;
    throw new ProblemError('storage_damaged', {
      detail: `What is stored as ${key} is not what was written: its digest differs.`,
      remedy: 'Start a session from an older checkpoint, or restore the storage from a backup.',
    });
  }

  try {
    await list('sessions/');
  } catch (error) {
    throw new Error(`${place}: ${reasonOf(error)}`, { cause: error });
  }

  const objects: Bucket = { put, remove, list, read };

  /** For who closes: the failure is the caller's. */
  function awaited(written: Promise<void>): Promise<void> {
    const settled = written.catch(() => undefined).then(() => void writing.delete(settled));
    writing.add(settled);
    return written;
  }

  return {
    place,
    identity: place,
    isDurable: true,
    write: (changes) =>
      awaited(
        asProblem('written', async () => {
          for (const object of changes.puts) await put(object);
          await remove(changes.deletes);
        }),
      ),
    read: (key) => asProblem('read', () => read(key)),
    list: (from) => asProblem('read', () => list(from)),
    own: (ownership) => {
      const owned = ownedInBucket(objects, ownership);
      return {
        write: (changes: Changes) => awaited(asProblem('written', () => owned.write(changes))),
        read: (key) => asProblem('read', () => owned.read(key)),
        list: (from) => asProblem('read', () => owned.list(from)),
        assertOwned: () => asProblem('read', () => owned.assertOwned()),
        end: () => awaited(asProblem('written', () => owned.end())),
      };
    },
    failed: new Promise(() => undefined),
    close: async () => {
      await Promise.all(writing);
    },
  };
}

async function retried<Result>(request: () => Promise<Result>): Promise<Result> {
  for (const milliseconds of RETRY_MILLISECONDS) {
    try {
      return await request();
    } catch (error) {
      // The service's refusals stay; its failures, and the network's, may pass.
      if (error instanceof S3ServiceError && error.status < 500) throw error;
      await delay(milliseconds);
    }
  }
  return request();
}

async function sha256(bytes: Uint8Array<ArrayBuffer>): Promise<string> {
  return Buffer.from(await crypto.subtle.digest('SHA-256', bytes)).toString('hex');
}

async function asProblem<Result>(done: string, work: () => Promise<Result>): Promise<Result> {
  try {
    return await work();
  } catch (error) {
    if (error instanceof ProblemError) throw error;
    throw new ProblemError(
      'storage_unavailable',
      {
        detail: `The worker’s storage cannot be ${done} (${reasonOf(error)}).`,
        remedy: 'Send the same request again; if it stays, look at the worker’s bucket and its credentials.',
      },
      { cause: error },
    );
  }
}

function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const { cause, message } = error;
  return cause instanceof Error ? `${message}: ${cause.message}` : message;
}
