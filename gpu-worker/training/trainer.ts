/** The training of one session on the device: its state, advanced step by step. */
import type { SavedState } from '../../shared/checkpoint.ts';
import type { NamedTensor } from '../../shared/safetensors.ts';
import type { SessionDefinition, StepMetrics } from '../../shared/session.ts';

/** An answer to the client. */
export interface Answer {
  readonly contentType: string;
  readonly body: Uint8Array<ArrayBuffer>;
}

export interface StepOutcome {
  readonly metrics: StepMetrics;
  readonly answer: Answer;
}

/** A trainer's state as plain values, from which another goes on bit for bit. */
export interface SavedTraining {
  readonly step: number;
  readonly state: SavedState;
  readonly tensors: readonly NamedTensor[];
}

export interface Trainer {
  /**
   * Applies the next step.
   *
   * @param body the step's safetensors body
   * @throws ProblemError the codes of `checkStepHeader`, `non_finite_value`, `invalid_index`, `invalid_parameter` and
   *   `numerical_failure`; the state is then as it was before
   */
  readonly step: (body: Uint8Array) => StepOutcome;
  /** The complete state, as of the last step. */
  readonly save: () => SavedTraining;
  /** Does what can wait until a step has been answered. The steps that follow are the same without it, and take longer. */
  readonly settle: () => void;
  /**
   * A trainer that goes on from this one's state with other options, as `changedDefinition` allows them; this one is not to be used
   * any more, nor closed. What the last step left for later is done with the old options.
   */
  readonly redefined: (definition: SessionDefinition) => Trainer;
  /** Present in hosted mode. */
  readonly model: HostedModel | null;
  /** Frees the device's memory. */
  readonly close: () => void;
}

/** A state cannot go on in another mode. */
export function otherMode(from: string, to: string): TypeError {
  return new TypeError(`a session in mode "${from}" cannot go on in mode "${to}"`);
}

/** What can be asked of a model that the worker holds. */
export interface HostedModel {
  /** All parameters, as a safetensors file. */
  readonly weights: () => Answer;
  /**
   * What the model answers on given samples, in evaluation mode.
   *
   * @throws ProblemError as {@link Trainer.step}
   */
  readonly predict: (body: Uint8Array) => Answer;
  /** Checks a chunk of a data set that steps are to be taken on. @throws ProblemError as {@link Trainer.step} */
  readonly checkChunk: (body: Uint8Array) => void;
}
