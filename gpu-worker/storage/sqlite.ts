/** The embedded store: one SQLite file, behind a thread that writes to it. */
import { Worker } from 'node:worker_threads';
import { ProblemError } from '../../shared/errors.ts';
import { ThreadCalls } from '../thread/thread-calls.ts';
import type { Fence, StorageResults, StorageWork, StorageWorkKind } from './messages.ts';
import type { SqliteOptions } from './sqlite-database.ts';
import { assertWithin, claimedOnce } from './ownership.ts';
import type { Changes, OwnedStore, Ownership, Storage, StoredObject } from './storage.ts';

export const IN_MEMORY = ':memory:';

/** @throws Error with the reason if the file cannot be opened, or another process has it */
export async function openSqliteStorage(options: SqliteOptions): Promise<Storage> {
  const thread = new Worker(new URL('./sqlite-thread.ts', import.meta.url), {
    workerData: options,
    // Of node:sqlite, which Node 22 calls experimental.
    execArgv: ['--disable-warning=ExperimentalWarning'],
  });
  const calls = new ThreadCalls<StorageWork, null, StorageResults[StorageWorkKind]>(
    thread,
    'storage',
    (cause) =>
      new ProblemError(
        'storage_unavailable',
        {
          detail: 'The worker’s storage has ended.',
          remedy: 'Send the same request again when the worker has restarted.',
        },
        { cause },
      ),
  );
  try {
    await calls.ready;
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new Error(`${options.file}: ${reason}`, { cause });
  }

  async function ask<Kind extends StorageWorkKind>(
    work: Extract<StorageWork, { kind: Kind }>,
    moved: ArrayBuffer[] = [],
  ): Promise<StorageResults[Kind]> {
    // The thread answers each kind of work with its own kind of result.
    return (await calls.ask(work, moved)) as StorageResults[Kind];
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
    failed: calls.failed,
    close: async () => {
      calls.expectEnd();
      if (!calls.hasEnded) await ask<'close'>({ kind: 'close' });
      await calls.ended;
    },
  };
}
