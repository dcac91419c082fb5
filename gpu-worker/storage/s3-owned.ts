/**
 * The objects of one session in a bucket, for one owner after another.
 *
 * A bucket cannot make the write of one object depend on another, and a request that was sent may arrive late. So an owner's objects
 * carry its epoch in their names, and nothing is overwritten by somebody else:
 *
 *     fences/<session>/<epoch>       that the epoch has begun, and then the names of the objects that it found
 *     <key>.e<epoch>                 an object that the owner of that epoch wrote
 *
 * To claim a session: write the fence; list the fences, and give up if there is a later one; read the names in the last epoch's
 * fence, and list what there is: of it counts what those names say, and what that epoch itself has written. Write all their names
 * into one's own fence; list the fences again.
 *
 * To write: write the object; then list the fences, and refuse if there is a later one. If there was none, whoever claims the session
 * afterwards lists the objects afterwards, and finds this one. If there was one, the write is not acknowledged; whether it is found
 * or comes too late makes no difference to anybody, and what comes too late bears an epoch that counts no longer. This takes nothing
 * but a bucket that lists what has been written, as S3, R2 and MinIO do.
 */
import * as z from 'zod';
import { sessionMoved } from '../../shared/session.ts';
import { assertWithin, claimedOnce } from './ownership.ts';
import type { NewObject, OwnedStore, Ownership, StoredObject } from './storage.ts';

/** A bucket’s objects by name. */
export interface Bucket {
  readonly put: (object: NewObject) => Promise<void>;
  readonly remove: (names: readonly string[]) => Promise<void>;
  readonly list: (prefix: string) => Promise<StoredObject[]>;
  readonly read: (name: string) => Promise<Uint8Array<ArrayBuffer> | null>;
}

const fenceSchema = z.discriminatedUnion('state', [
  /** The objects are being listed: nothing was written in this epoch. */
  z.strictObject({ state: z.literal('claiming') }),
  z.strictObject({ state: z.literal('claimed'), names: z.array(z.string()) }),
  /** The session is no more: what is left of it is to be deleted. */
  z.strictObject({ state: z.literal('ended') }),
]);
type FenceState = z.output<typeof fenceSchema>;
type SettledFence = Exclude<FenceState, { state: 'claiming' }>;

/** A key’s object as its last writer left it. */
interface Version {
  readonly name: string;
  readonly bytes: number;
  readonly epoch: number;
}

/** What no owner wrote: by a worker that has the store alone. */
const NO_EPOCH = 0;

export function ownedInBucket(bucket: Bucket, { session, epoch, prefixes }: Ownership): OwnedStore {
  const fences = `fences/${session}/`;
  const fenceName = (of: number): string => `${fences}${String(of).padStart(16, '0')}`;

  async function writeFence(state: FenceState): Promise<void> {
    const bytes = new TextEncoder().encode(JSON.stringify(state));
    await bucket.put({ key: fenceName(epoch), bytes, digest: null });
  }

  async function readFence(of: number): Promise<FenceState | null> {
    const bytes = await bucket.read(fenceName(of));
    return bytes === null ? null : fenceSchema.parse(JSON.parse(new TextDecoder().decode(bytes)));
  }

  /** The epochs that have begun, latest first. @throws ProblemError `session_moved` unless this one is the last */
  async function assertLast(): Promise<number[]> {
    const listed = await bucket.list(fences);
    const epochs = listed.map(({ key }) => Number(key.slice(fences.length))).toSorted((a, b) => b - a);
    if (epochs[0] !== epoch) throw sessionMoved(session, epochs[0] ?? epoch);
    return epochs;
  }

  async function listAll(): Promise<StoredObject[]> {
    const lists = await Promise.all(prefixes.map((prefix) => bucket.list(prefix)));
    return lists.flat();
  }

  /** The last epoch before this one that was claimed to the end: in others nothing was written. */
  async function lastClaimed(epochs: readonly number[]): Promise<{ of: number; state: SettledFence }> {
    for (const of of epochs) {
      // What this process has claimed before, it claims again.
      const state = await readFence(of);
      if (state !== null && state.state !== 'claiming') return { of, state };
    }
    return { of: NO_EPOCH, state: { state: 'claimed', names: [] } };
  }

  async function claim(): Promise<Map<string, Version>> {
    const before = await bucket.list(fences);
    const known = before.map(({ key }) => Number(key.slice(fences.length)));
    const latest = Math.max(NO_EPOCH, ...known);
    if (latest > epoch) throw sessionMoved(session, latest);
    if (!known.includes(epoch)) await writeFence({ state: 'claiming' });
    const epochs = await assertLast();
    const { of, state } = await lastClaimed(epochs);
    const versions = new Map<string, Version>();
    const stale: string[] = [];
    const listed = await listAll();
    if (state.state === 'ended') stale.push(...listed.map(({ key }) => key));
    else {
      const counted = new Set(state.names);
      for (const { key: name, bytes } of listed) {
        const { key, epoch: writer } = parseName(name);
        if (!counted.has(name) && writer !== of) stale.push(name);
        else if ((versions.get(key)?.epoch ?? -1) < writer) versions.set(key, { name, bytes, epoch: writer });
      }
    }
    await writeFence({ state: 'claimed', names: [...versions.values()].map(({ name }) => name) });
    await assertLast();
    await bucket.remove([...stale, ...epochs.filter((other) => other < epoch).map(fenceName)]);
    return versions;
  }

  const claimed = claimedOnce(claim);

  return {
    write: async ({ puts, deletes }) => {
      assertWithin(prefixes, { puts, deletes });
      const versions = await claimed();
      const overwritten: string[] = [];
      for (const { key, bytes, digest } of puts) {
        const name = `${key}.e${String(epoch)}`;
        const size = bytes.length;
        await bucket.put({ key: name, bytes, digest });
        const old = versions.get(key);
        if (old !== undefined && old.name !== name) overwritten.push(old.name);
        versions.set(key, { name, bytes: size, epoch });
      }
      await assertLast();
      const deleted = deletes.flatMap((key) => versions.get(key)?.name ?? []);
      for (const key of deletes) versions.delete(key);
      await bucket.remove([...overwritten, ...deleted]);
    },
    read: async (key) => {
      const version = (await claimed()).get(key);
      return version === undefined ? null : bucket.read(version.name);
    },
    list: async (prefix) => {
      const versions = await claimed();
      await assertLast();
      return [...versions]
        .filter(([key]) => key.startsWith(prefix))
        .map(([key, { bytes }]) => ({ key, bytes }))
        .toSorted((a, b) => (a.key < b.key ? -1 : 1));
    },
    assertOwned: async () => {
      await claimed();
      await assertLast();
    },
    end: async () => {
      await claimed();
      await writeFence({ state: 'ended' });
      await assertLast();
      await bucket.remove((await listAll()).map(({ key }) => key));
      await bucket.remove([fenceName(epoch)]);
    },
  };
}

const OWNED_NAME = /^(.*)\.e([0-9]+)$/;

function parseName(name: string): { key: string; epoch: number } {
  const [, key, epoch] = OWNED_NAME.exec(name) ?? [];
  return key === undefined ? { key: name, epoch: NO_EPOCH } : { key, epoch: Number(epoch) };
}
