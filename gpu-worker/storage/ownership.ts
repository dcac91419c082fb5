/** What all stores share about owning a session. */
import type { Changes, ObjectStore, OwnedStore } from './storage.ts';

/** Makes a claim when it is first needed, and again only if it failed. */
export function claimedOnce<Result>(claim: () => Promise<Result>): () => Promise<Result> {
  let claimed: Promise<Result> | null = null;
  return () => {
    claimed ??= claim().catch((error: unknown) => {
      claimed = null;
      throw error;
    });
    return claimed;
  };
}

/** The same objects where nobody else can own the session: this worker has the store alone. */
export function soleOwner(store: ObjectStore, prefixes: readonly string[]): OwnedStore {
  return {
    write: store.write,
    read: store.read,
    list: store.list,
    assertOwned: () => Promise.resolve(),
    end: async () => {
      const lists = await Promise.all(prefixes.map((prefix) => store.list(prefix)));
      await store.write({ puts: [], deletes: lists.flat().map(({ key }) => key) });
    },
  };
}

/** What lies elsewhere the next owner would not find. @throws TypeError */
export function assertWithin(prefixes: readonly string[], { puts }: Changes): void {
  for (const { key } of puts) {
    if (!prefixes.some((prefix) => key.startsWith(prefix))) throw new TypeError(`${key} is no object of this session`);
  }
}
