/** What the worker's main thread and its compute thread say to each other. */
import type { KernelSolveOptions } from '../../shared/kernel-solve.ts';
import type { SessionDefinition, SessionId } from '../../shared/session.ts';
import type { EngineName } from '../tensor/engine.ts';
import type { Answer } from '../training/trainer.ts';
import type { CheckpointOrigin, CheckpointSummary, SavedCheckpoint } from '../training/trainers.ts';
import type { AppliedStep, InspectedCheckpoint } from './compute.ts';

export interface ThreadOptions {
  /** null for the best there is. */
  readonly engine: EngineName | null;
}

export type Work =
  | { readonly kind: 'open'; readonly id: SessionId; readonly definition: SessionDefinition }
  | { readonly kind: 'restore'; readonly id: SessionId; readonly file: Uint8Array<ArrayBuffer> }
  | { readonly kind: 'redefine'; readonly id: SessionId; readonly definition: SessionDefinition }
  | { readonly kind: 'save'; readonly id: SessionId; readonly origin: CheckpointOrigin }
  | { readonly kind: 'inspect'; readonly file: Uint8Array<ArrayBuffer> }
  | { readonly kind: 'step'; readonly id: SessionId; readonly body: Uint8Array<ArrayBuffer> }
  | { readonly kind: 'weights'; readonly id: SessionId }
  | { readonly kind: 'predict'; readonly id: SessionId; readonly body: Uint8Array<ArrayBuffer> }
  | { readonly kind: 'checkChunk'; readonly id: SessionId; readonly body: Uint8Array<ArrayBuffer> }
  | { readonly kind: 'solve'; readonly options: KernelSolveOptions; readonly body: Uint8Array<ArrayBuffer> }
  | { readonly kind: 'close'; readonly id: SessionId };

/** What each kind of work results in. */
export interface Results {
  readonly open: null;
  readonly restore: CheckpointSummary;
  readonly redefine: null;
  readonly save: SavedCheckpoint;
  readonly inspect: InspectedCheckpoint;
  readonly step: AppliedStep;
  readonly weights: Answer;
  readonly predict: Answer;
  readonly checkChunk: Uint8Array<ArrayBuffer>;
  readonly solve: Answer;
  readonly close: null;
}

export type WorkKind = Work['kind'];
export type WorkOf<Kind extends WorkKind> = Extract<Work, { kind: Kind }>;

/** What the thread says first: it is there. */
export interface ThreadReady {
  readonly engine: EngineName;
}
