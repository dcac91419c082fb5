/**
 * Where a worker keeps what must survive it: objects under keys, like files in folders. Everything above this interface works with
 * any store that writes one object whole or not at all.
 */

/** An object to be written. */
export interface NewObject {
  /** Parts separated by "/". */
  readonly key: string;
  /** Not the caller's any more. */
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** SHA-256 of the bytes in hexadecimal, if the caller knows it. */
  readonly digest: string | null;
}

/** Changes that belong together: first the objects are written, in their order, then the keys deleted. */
export interface Changes {
  readonly puts: readonly NewObject[];
  readonly deletes: readonly string[];
}

export interface StoredObject {
  readonly key: string;
  /** Size. */
  readonly bytes: number;
}

/** Reads and writes objects. All errors are ProblemErrors: `storage_full`, `storage_unavailable`, `storage_damaged`. */
export interface ObjectStore {
  /**
   * Resolves when the changes will be found again. If they were not all made, some of the first may have been; a store that can
   * makes all or none.
   */
  readonly write: (changes: Changes) => Promise<void>;
  /** The object's bytes, as they were written; null if there is none. */
  readonly read: (key: string) => Promise<Uint8Array<ArrayBuffer> | null>;
  /** The objects whose keys begin with a prefix, in the order of their keys. */
  readonly list: (prefix: string) => Promise<StoredObject[]>;
}

/**
 * The objects of one session, for the worker that owns it in some epoch, and for no earlier owner: as soon as a later one has begun
 * to use its own, writes and lists are refused with `session_moved`, also those on their way.
 */
export interface OwnedStore extends ObjectStore {
  /** @throws ProblemError `session_moved` if somebody has claimed the session in a later epoch */
  readonly assertOwned: () => Promise<void>;
  /** Removes all that is stored of the session, for later owners, too. */
  readonly end: () => Promise<void>;
}

/** Whose objects are to be owned, and since when. */
export interface Ownership {
  readonly session: string;
  /** From 1; of two owners the one with the higher epoch is the later one. */
  readonly epoch: number;
  /** What the keys of the session's objects begin with, or are. */
  readonly prefixes: readonly string[];
}

export interface Storage extends ObjectStore {
  /** Where it is, in words. */
  readonly place: string;
  /** Names the store to other processes that use the same one; null if none can. */
  readonly identity: string | null;
  /** Whether it outlives the process. */
  readonly isDurable: boolean;
  /** What a session's owner uses. It is claimed when it is first used. */
  readonly own: (ownership: Ownership) => OwnedStore;
  /** Rejects with the reason if the store ends by itself. */
  readonly failed: Promise<never>;
  /** Waits for what is being written. */
  readonly close: () => Promise<void>;
}
