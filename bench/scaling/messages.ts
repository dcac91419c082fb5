/** What the benchmark and the process that it measures say to each other. */
import type { EngineName } from '../../gpu-worker/tensor/engine.ts';
import type { ModelInput } from '../../shared/model.ts';
import type { BodySizes, Trained } from './step-body.ts';

export type Request =
  /** Loads the engine, and takes a few steps of a tiny net, so that all else is there that a process takes once. */
  | { readonly kind: 'load'; readonly engine: EngineName }
  /** Makes a problem's model and batches. */
  | { readonly kind: 'prepare'; readonly model: ModelInput; readonly batch: number }
  /** Steps of the prepared problem. */
  | { readonly kind: 'steps'; readonly count: number }
  /** Opens a session and trains it for some steps; it stays. */
  | {
      readonly kind: 'session';
      readonly definition: Trained;
      readonly sizes: BodySizes;
      readonly steps: number;
    };

/** Milliseconds of each step; of other requests none. */
export interface Reply {
  readonly milliseconds: readonly number[];
}
