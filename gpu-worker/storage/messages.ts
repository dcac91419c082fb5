/** What the worker's main thread and its storage thread say to each other. */
import type { Changes, StoredObject } from './storage.ts';

/** A session and the epoch in which somebody believes to own it. */
export interface Fence {
  readonly session: string;
  readonly epoch: number;
}

export type StorageWork =
  | { readonly kind: 'write'; readonly changes: Changes; readonly fence: Fence | null }
  /** Makes a session's epoch known; refused if a later one is. */
  | { readonly kind: 'claim'; readonly fence: Fence }
  | { readonly kind: 'check'; readonly fence: Fence }
  /** Deletes what is under some prefixes, and the session's epoch. */
  | { readonly kind: 'end'; readonly fence: Fence; readonly prefixes: readonly string[] }
  | { readonly kind: 'identity' }
  | { readonly kind: 'read'; readonly key: string }
  | { readonly kind: 'list'; readonly prefix: string }
  | { readonly kind: 'close' };

export interface StorageResults {
  readonly write: null;
  readonly claim: null;
  readonly check: null;
  readonly end: null;
  readonly identity: string;
  readonly read: Uint8Array<ArrayBuffer> | null;
  readonly list: StoredObject[];
  readonly close: null;
}

export type StorageWorkKind = StorageWork['kind'];
