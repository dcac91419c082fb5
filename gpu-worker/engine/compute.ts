/** The device's work as the rest of the worker sees it: asynchronous, since it happens on another thread. */
import type { KernelSolveOptions } from '../../shared/kernel-solve.ts';
import type { SessionDefinition, SessionId } from '../../shared/session.ts';
import type { Answer, StepOutcome } from '../training/trainer.ts';
import type { CheckpointOrigin, CheckpointSummary, SavedCheckpoint } from '../training/trainers.ts';

/** What a step resulted in, and its body for whoever keeps it. */
export interface AppliedStep extends StepOutcome {
  readonly body: Uint8Array<ArrayBuffer>;
}

export interface InspectedCheckpoint {
  readonly summary: CheckpointSummary;
  readonly bytes: Uint8Array<ArrayBuffer>;
}

/** Requests of one session are worked on in the order in which they are made. */
export interface Compute {
  /** The tensor engine's name. */
  readonly engine: string;
  /** Makes the session's initial state. */
  readonly open: (id: SessionId, definition: SessionDefinition) => Promise<void>;
  /** Makes the state that a checkpoint holds; the file is no longer the caller's. @throws ProblemError as `Trainers.restore` */
  readonly restore: (id: SessionId, file: Uint8Array<ArrayBuffer>) => Promise<CheckpointSummary>;
  /** Has the session go on with other options from its next step on. */
  readonly redefine: (id: SessionId, definition: SessionDefinition) => Promise<void>;
  /** The session's state as a checkpoint. */
  readonly save: (id: SessionId, origin: CheckpointOrigin) => Promise<SavedCheckpoint>;
  /** Checks a checkpoint as a whole, and gives the file back. @throws ProblemError as `Trainers.inspect` */
  readonly inspect: (file: Uint8Array<ArrayBuffer>) => Promise<InspectedCheckpoint>;
  /** Applies the session's next step; the body is no longer the caller's until it comes back. @throws ProblemError as `Trainer.step` */
  readonly step: (id: SessionId, body: Uint8Array<ArrayBuffer>) => Promise<AppliedStep>;
  /** @throws ProblemError `not_hosted` */
  readonly weights: (id: SessionId) => Promise<Answer>;
  /** The body is no longer the caller's. @throws ProblemError as `HostedModel.predict`; `not_hosted` */
  readonly predict: (id: SessionId, body: Uint8Array<ArrayBuffer>) => Promise<Answer>;
  /** Checks a chunk of a data set, and gives it back. @throws ProblemError as `HostedModel.checkChunk`; `not_hosted` */
  readonly checkChunk: (id: SessionId, body: Uint8Array<ArrayBuffer>) => Promise<Uint8Array<ArrayBuffer>>;
  /** Solves the systems of one batch; needs no session. The body is no longer the caller's. @throws ProblemError as `solveKernels` */
  readonly solve: (options: KernelSolveOptions, body: Uint8Array<ArrayBuffer>) => Promise<Answer>;
  /** Frees the session's state when what was asked before is done. */
  readonly close: (id: SessionId) => void;
}
