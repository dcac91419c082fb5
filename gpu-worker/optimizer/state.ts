/** The optimizer's state: plain data. A step is a pure function (state, batch) → (state, reply). */
import type { Tensor } from '../tensor/engine.ts';
import type { InverseMetric } from './curvature/inverse-metric.ts';

interface IdentityState {
  readonly kind: 'identity';
}

/** A diagonal metric: rmsprop, adam, and the diagonal stand-in for blocks without Kronecker structure. */
export interface DiagonalState {
  readonly kind: 'diagonal';
  /** Moving average of the squared gradient, [n, c]; bias-corrected unless the metric says otherwise. */
  readonly secondMoment: Tensor;
  readonly inverse: InverseMetric;
}

/** A refresh between its beginning and the step from which on it is used. */
export interface PendingRefresh {
  /** Sequence number of the step that it began with. */
  readonly begun: number;
  readonly outcome:
    /** The factors as that step left them. */
    | { readonly kind: 'factors'; readonly inputFactor: Tensor; readonly outputFactor: Tensor }
    | { readonly kind: 'inverse'; readonly inverse: InverseMetric }
    /** It has no factorisation in floating point. */
    | { readonly kind: 'failed' };
}

/** Kronecker factors of one parameter block. */
export interface KroneckerState {
  readonly kind: 'kronecker';
  /** A, bias-corrected moving average, [n, n]. */
  readonly inputFactor: Tensor;
  /** Γ, bias-corrected moving average, [c, c]. */
  readonly outputFactor: Tensor;
  /** Of the last successful refresh in use. */
  readonly inverse: InverseMetric;
  /** Null if none is under way. */
  readonly pending: PendingRefresh | null;
  /** Refreshes that have ended, the first included: a version of the inverse. A failed one counts, too, and repeats what it kept. */
  readonly version: number;
}

/** Kronecker factors with second moments in their eigenbasis. */
export interface EkfacState {
  readonly kind: 'ekfac';
  readonly inputFactor: Tensor;
  readonly outputFactor: Tensor;
  /** Eigenvectors of A, [n, n], and Γ, [c, c], at the last successful refresh. */
  readonly inputBasis: Tensor;
  readonly outputBasis: Tensor;
  /** Moving average of the squared gradient in that basis, [n, c]. */
  readonly secondMoment: Tensor;
  readonly inverse: InverseMetric;
}

/** State of one parameter block's control metric. */
export type MetricState = IdentityState | DiagonalState | KroneckerState | EkfacState;

export interface OptimizerState {
  /** Steps taken so far; the sequence number of the next one. */
  readonly step: number;
  /** Per layer in the order of the forward pass, and per parameter block of the layer; null before the first step. */
  readonly metrics: readonly (readonly MetricState[])[] | null;
  /** Momentum per layer and block, [n, c]; null without momentum and before the first step. */
  readonly velocities: readonly (readonly Tensor[])[] | null;
  /** Sum of the changes since lookahead's last synchronisation, like the velocities; null without lookahead and right after it. */
  readonly displacement: readonly (readonly Tensor[])[] | null;
  /** Bias-corrected running average of the batches' leverage, [], 0 while none had any; null without the leverage rule, and before the first step. */
  readonly leverage: Tensor | null;
  /** η of the last step; null without the Levenberg–Marquardt rule and before the first step. */
  readonly learningRate: number | null;
  /** The change of the mean loss that the last step's model predicted, a scalar; null as `learningRate`. */
  readonly predictedChange: Tensor | null;
  /** Refreshes that failed and kept the last good factorisation, over all blocks and steps. */
  readonly failedFactorizations: number;
}

export const INITIAL_STATE: OptimizerState = {
  step: 0,
  metrics: null,
  velocities: null,
  displacement: null,
  leverage: null,
  learningRate: null,
  predictedChange: null,
  failedFactorizations: 0,
};
