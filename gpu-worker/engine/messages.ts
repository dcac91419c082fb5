/** What the worker's main thread and its compute thread say to each other. */
import { ProblemError, type ProblemCode, type ProblemDetails } from '../../shared/errors.ts';
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

type Work =
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

export interface Request {
  /** Told apart by this number, since answers may be waited for in any order. */
  readonly call: number;
  readonly work: Work;
}

export type Response =
  /** The first message: the thread is there. */
  | { readonly kind: 'ready'; readonly engine: EngineName }
  | { readonly kind: 'result'; readonly call: number; readonly result: Results[WorkKind] }
  | { readonly kind: 'failure'; readonly call: number; readonly failure: Failure };

/** An error on its way between threads, which keep no classes. */
type Failure =
  | { readonly kind: 'problem'; readonly code: ProblemCode; readonly details: ProblemDetails }
  | { readonly kind: 'defect'; readonly name: string; readonly message: string; readonly stack: string | undefined };

export function toFailure(error: unknown): Failure {
  if (error instanceof ProblemError) return { kind: 'problem', code: error.code, details: error.details };
  if (error instanceof Error) return { kind: 'defect', name: error.name, message: error.message, stack: error.stack };
  return { kind: 'defect', name: 'Error', message: String(error), stack: undefined };
}

export function toError(failure: Failure): Error {
  if (failure.kind === 'problem') return new ProblemError(failure.code, failure.details);
  const { name, message, stack } = failure;
  const error = new Error(message);
  error.name = name;
  if (stack !== undefined) error.stack = stack;
  return error;
}
