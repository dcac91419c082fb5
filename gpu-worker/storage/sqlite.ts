/** The embedded store: one SQLite file, behind a thread that writes to it. */
import { Worker } from 'node:worker_threads';
import { asError, ProblemError } from '../../shared/errors.ts';
import type {
  Fence,
  StorageRequest,
  StorageResponse,
  StorageResults,
  StorageWork,
  StorageWorkKind,
} from './messages.ts';
import type { SqliteOptions } from './sqlite-database.ts';
import { assertWithin, claimedOnce } from './ownership.ts';
import type { Changes, OwnedStore, Ownership, Storage, StoredObject } from './storage.ts';

export const IN_MEMORY = ':memory:';

interface Call {
  readonly resolve: (result: StorageResults[StorageWorkKind]) => void;
  readonly reject: (error: Error) => void;
}

/** @throws Error with the reason if the file cannot be opened, or another process has it */
export async function openSqliteStorage(options: SqliteOptions): Promise<Storage> {
  const thread = new Worker(new URL('./sqlite-thread.ts', import.meta.url), {
    workerData: options,
    // Of node:sqlite, which Node 22 calls experimental.
    execArgv: ['--disable-warning=ExperimentalWarning'],
  });
  const calls = new Map<number, Call>();
  let lastCall = 0;
  let closing = false;
  let end: ProblemError | null = null;
  let fail: (reason: unknown) => void = () => undefined;
  const failed = new Promise<never>((_, reject) => {
    fail = reject;
  });

  const ended = new Promise<Error>((resolve) => {
    thread.once('error', (error) => {
      resolve(asError(error));
    });
    thread.once('exit', (code) => {
      resolve(new Error(`the storage thread ended with code ${String(code)}`));
    });
  });
  void ended.then((reason) => {
    end = new ProblemError(
      'storage_unavailable',
      {
        detail: 'The worker’s storage has ended.',
        remedy: 'Send the same request again when the worker has restarted.',
      },
      { cause: reason },
    );
    for (const { reject } of calls.values()) reject(end);
    calls.clear();
    if (!closing) fail(reason);
  });

  await new Promise<void>((resolve, reject) => {
    failed.catch((cause: unknown) => {
      const reason = cause instanceof Error ? cause.message : String(cause);
      reject(new Error(`${options.file}: ${reason}`, { cause }));
    });
    thread.on('message', (response: StorageResponse) => {
      if (response.kind === 'ready') {
        resolve();
        return;
      }
      const call = calls.get(response.call);
      calls.delete(response.call);
      if (response.kind === 'result') call?.resolve(response.result);
      else call?.reject(new ProblemError(response.code, response.details));
    });
  });

  function ask<Kind extends StorageWorkKind>(
    work: Extract<StorageWork, { kind: Kind }>,
    moved: ArrayBuffer[] = [],
  ): Promise<StorageResults[Kind]> {
    const call = ++lastCall;
    return new Promise<StorageResults[Kind]>((resolve, reject) => {
      if (end !== null) {
        reject(end);
        return;
      }
      thread.postMessage({ call, work } satisfies StorageRequest, moved);
      // The thread answers each kind of work with its own kind of result.
      calls.set(call, { resolve: resolve as Call['resolve'], reject });
    });
  }

  const isDurable = options.file !== IN_MEMORY;
  const write = async (changes: Changes, fence: Fence | null): Promise<void> => {
    await ask<'write'>({ kind: 'write', changes, fence }, changes.puts.map(({ bytes }) => bytes.buffer)); // prettier-ignore
  };
  const read = (key: string): Promise<Uint8Array<ArrayBuffer> | null> => ask<'read'>({ kind: 'read', key });
  const list = (prefix: string): Promise<StoredObject[]> => ask<'list'>({ kind: 'list', prefix });

  function own({ session, epoch, prefixes }: Ownership): OwnedStore {
    const fence = { session, epoch };
    const claimed = claimedOnce(() => ask<'claim'>({ kind: 'claim', fence }));
    return {
      write: async (changes) => {
        assertWithin(prefixes, changes);
        await claimed();
        await write(changes, fence);
      },
      read: async (key) => {
        await claimed();
        return read(key);
      },
      list: async (prefix) => {
        await claimed();
        await ask<'check'>({ kind: 'check', fence });
        return list(prefix);
      },
      assertOwned: async () => {
        await claimed();
        await ask<'check'>({ kind: 'check', fence });
      },
      end: async () => {
        await claimed();
        await ask<'end'>({ kind: 'end', fence, prefixes });
      },
    };
  }

  return {
    place: options.file === IN_MEMORY ? 'memory' : options.file,
    identity: isDurable ? await ask<'identity'>({ kind: 'identity' }) : null,
    isDurable,
    write: (changes) => write(changes, null),
    read,
    list,
    own,
    failed,
    close: async () => {
      closing = true;
      if (end === null) thread.postMessage({ call: 0, work: { kind: 'close' } } satisfies StorageRequest);
      await ended;
    },
  };
}
