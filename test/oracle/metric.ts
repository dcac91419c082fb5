/**
 * The control metric R_t = P_t / η as an explicit m × m matrix, in the row-major order of u = vec(W), W ∈ R^{(n+1) × c}.
 * In that order the gradient of one sample is vec(a gᵀ) = a ⊗ g, with a = [x, 1] the bias-augmented input of the layer
 * and g the gradient with respect to its pre-activation, so a Kronecker-factored P has the input factor on the left.
 */
import {
  add,
  at,
  build,
  columnVector,
  hadamard,
  identity,
  kron,
  multiply,
  scale,
  trace,
  transpose,
  zeros,
} from './matrix.ts';
import type { Matrix } from './matrix.ts';
import { augment } from './network.ts';

/** What one batch shows of one layer. */
export interface LayerStatistics {
  /** x, [B, n]: the layer's input activations, without the appended 1. */
  readonly inputs: Matrix;
  /** g, [B, c]: per-sample gradients with respect to the pre-activation, not divided by B. */
  readonly outputGradients: Matrix;
  /** h, [B]: the weights of the terminal curvature. */
  readonly terminalWeights: ArrayLike<number>;
}

export interface KroneckerFactors {
  /** A = E[a aᵀ], (n+1) × (n+1). */
  readonly A: Matrix;
  /** Γ = E[h g gᵀ], c × c. */
  readonly Gamma: Matrix;
}

export interface KroneckerOptions {
  /** Decay of the exponential moving averages, in [0, 1). */
  readonly decay: number;
  /** γ > 0. */
  readonly damping: number;
  /** η > 0. */
  readonly eta: number;
}

/** R = I/η, m × m. */
export function identityMetric(m: number, eta: number): Matrix {
  return scale(identity(m), 1 / eta);
}

/** R = P/η, m × m, with the factors averaged over the batches, oldest first. */
export function kroneckerMetric(batches: readonly LayerStatistics[], options: KroneckerOptions): Matrix {
  const { A, Gamma } = dampedFactors(averagedFactors(batches, options.decay), options.damping);
  return scale(kron(A, Gamma), 1 / options.eta);
}

/** A = E_i[a aᵀ] and Γ = E_i[h_i g gᵀ], means over one batch. */
export function batchFactors(batch: LayerStatistics): KroneckerFactors {
  const a = augment(batch.inputs);
  const g = batch.outputGradients;
  const h = columnVector(batch.terminalWeights);
  const weighted = hadamard(
    g,
    build(g.rows, g.cols, (i) => at(h, i, 0)),
  );
  return {
    A: scale(multiply(transpose(a), a), 1 / a.rows),
    Gamma: scale(multiply(transpose(weighted), g), 1 / g.rows),
  };
}

/** Bias-corrected exponential moving averages, e.g. Σ_k decay^{K−k} (1 − decay) A_k / (1 − decay^K) after K batches. */
export function averagedFactors(batches: readonly LayerStatistics[], decay: number): KroneckerFactors {
  const K = batches.length;
  const factors = batches.map(batchFactors);
  const average = (matrices: readonly Matrix[]): Matrix => {
    const weight = (k: number): number => (decay ** (K - k) * (1 - decay)) / (1 - decay ** K);
    const [first] = matrices;
    if (first === undefined) throw new RangeError('an average needs at least one batch');
    return matrices.reduce((sum, matrix, i) => add(sum, scale(matrix, weight(i + 1))), zeros(first.rows, first.cols));
  };
  return { A: average(factors.map(({ A }) => A)), Gamma: average(factors.map(({ Gamma }) => Gamma)) };
}

/**
 * A + π √γ I and Γ + (√γ / π) I, with π² = (tr A / dim A) / (tr Γ / dim Γ). π has no value where Γ = 0, i.e. where no
 * sample's gradient reaches the layer; that throws.
 */
export function dampedFactors({ A, Gamma }: KroneckerFactors, damping: number): KroneckerFactors {
  if (!(trace(Gamma) > 0)) throw new RangeError(`π needs a positive trace of Γ, not ${trace(Gamma)}`);
  const pi = Math.sqrt(trace(A) / A.rows / (trace(Gamma) / Gamma.rows));
  const root = Math.sqrt(damping);
  return {
    A: add(A, scale(identity(A.rows), pi * root)),
    Gamma: add(Gamma, scale(identity(Gamma.rows), root / pi)),
  };
}
