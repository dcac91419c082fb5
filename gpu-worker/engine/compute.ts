/** The device's work as the rest of the worker sees it: asynchronous, since it happens on another thread. */
import type { KernelSolveOptions } from '../../shared/kernel-solve.ts';
import type { SessionDefinition, SessionId } from '../../shared/session.ts';
import type { Answer, StepOutcome } from '../training/trainer.ts';

/** Requests of one session are worked on in the order in which they are made. */
export interface Compute {
  /** The tensor engine's name. */
  readonly engine: string;
  /** Makes the session's initial state. */
  readonly open: (id: SessionId, definition: SessionDefinition) => Promise<void>;
  /** Applies the session's next step; the body is no longer the caller's. @throws ProblemError as `Trainer.step` */
  readonly step: (id: SessionId, body: Uint8Array<ArrayBuffer>) => Promise<StepOutcome>;
  /** @throws ProblemError `not_hosted` */
  readonly weights: (id: SessionId) => Promise<Answer>;
  /** The body is no longer the caller's. @throws ProblemError as `HostedModel.predict`; `not_hosted` */
  readonly predict: (id: SessionId, body: Uint8Array<ArrayBuffer>) => Promise<Answer>;
  /** Solves the systems of one batch; needs no session. The body is no longer the caller's. @throws ProblemError as `solveKernels` */
  readonly solve: (options: KernelSolveOptions, body: Uint8Array<ArrayBuffer>) => Promise<Answer>;
  /** Frees the session's state when what was asked before is done. */
  readonly close: (id: SessionId) => void;
}
