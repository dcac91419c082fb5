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

/** All errors are ProblemErrors: `storage_full`, `storage_unavailable`, `storage_damaged`. */
export interface Storage {
  /** Where it is, in words. */
  readonly place: string;
  /** Whether it outlives the process. */
  readonly isDurable: boolean;
  /**
   * Resolves when the changes will be found again. If they were not all made, some of the first may have been; a store that can
   * makes all or none.
   */
  readonly write: (changes: Changes) => Promise<void>;
  /** The object's bytes, as they were written; null if there is none. */
  readonly read: (key: string) => Promise<Uint8Array<ArrayBuffer> | null>;
  /** The objects whose keys begin with a prefix, in the order of their keys. */
  readonly list: (prefix: string) => Promise<StoredObject[]>;
  /** Rejects with the reason if the store ends by itself. */
  readonly failed: Promise<never>;
  /** Waits for what is being written. */
  readonly close: () => Promise<void>;
}
