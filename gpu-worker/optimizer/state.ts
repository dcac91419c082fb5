/** The optimizer's state: plain data. A step is a pure function (state, batch) → (state, reply). */
import type { Tensor } from '../tensor/engine.ts';

/** Kronecker factors of one layer; n counts the bias as an input. */
export interface KroneckerState {
  readonly kind: 'kronecker';
  /** A, bias-corrected moving average of E[a aᵀ], [n, n]. */
  readonly inputFactor: Tensor;
  /** Γ, bias-corrected moving average of E[h g gᵀ], [c, c]. */
  readonly outputFactor: Tensor;
  /** (A + πγ^½ I)⁻¹ of the last successful refresh, [n, n]. */
  readonly inputInverse: Tensor;
  /** (Γ + γ^½/π I)⁻¹ of the last successful refresh, [c, c]. */
  readonly outputInverse: Tensor;
}

interface IdentityState {
  readonly kind: 'identity';
}

/** State of one layer's control metric. */
export type MetricState = IdentityState | KroneckerState;

export interface OptimizerState {
  /** Steps taken so far; the sequence number of the next one. */
  readonly step: number;
  /** Per layer, in the order of the forward pass; null before the first step. */
  readonly metrics: readonly MetricState[] | null;
  /** Refreshes that failed and kept the last good inverse, over all layers and steps. */
  readonly failedFactorizations: number;
}

export const INITIAL_STATE: OptimizerState = { step: 0, metrics: null, failedFactorizations: 0 };
