/** What the worker's main thread and its storage thread say to each other. */
import type { ProblemCode, ProblemDetails } from '../../shared/errors.ts';
import type { Changes, StoredObject } from './storage.ts';

export type StorageWork =
  | { readonly kind: 'write'; readonly changes: Changes }
  | { readonly kind: 'read'; readonly key: string }
  | { readonly kind: 'list'; readonly prefix: string }
  | { readonly kind: 'close' };

export interface StorageResults {
  readonly write: null;
  readonly read: Uint8Array<ArrayBuffer> | null;
  readonly list: StoredObject[];
  readonly close: null;
}

export type StorageWorkKind = StorageWork['kind'];

export interface StorageRequest {
  readonly call: number;
  readonly work: StorageWork;
}

export type StorageResponse =
  | { readonly kind: 'ready' }
  | { readonly kind: 'result'; readonly call: number; readonly result: StorageResults[StorageWorkKind] }
  | { readonly kind: 'problem'; readonly call: number; readonly code: ProblemCode; readonly details: ProblemDetails };
