/**
 * The control metric R_t = P_t / η as an explicit m × m matrix, in the row-major order of u = vec(W), W ∈ R^{(n+1) × c}.
 * In that order the gradient of one sample is vec(a gᵀ) = a ⊗ g, with a = [x, 1] the bias-augmented input of the layer
 * and g the gradient with respect to its pre-activation, so a Kronecker-factored P has the input factor on the left.
 */
import { sampleGradients } from './bellman.ts';
import {
  add,
  at,
  build,
  columnVector,
  diagonal,
  eigenSymmetric,
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
  /**
   * g, [B·r, c]: the r columns of the terminal curvature, back-propagated to the pre-activation and not divided by B; row
   * i·r + ρ is column ρ of sample i. With r = 1, "gradient", the gradient of each sample's loss.
   */
  readonly outputGradients: Matrix;
  /** h, [B·r]: the weights of the terminal curvature. */
  readonly terminalWeights: ArrayLike<number>;
}

export interface KroneckerFactors {
  /** A = E[a aᵀ], (n+1) × (n+1). */
  readonly A: Matrix;
  /** Γ = E[Σ_ρ h g gᵀ], c × c. */
  readonly Gamma: Matrix;
}

export interface KroneckerOptions {
  /** Decay of the exponential moving averages, in [0, 1). */
  readonly decay: number;
  /** γ > 0. */
  readonly damping: number;
  /** η > 0. */
  readonly eta: number;
  /** The batches 0, refreshEvery, 2·refreshEvery, … refresh the factorisation; every batch unless given. */
  readonly refreshEvery?: number;
}

export interface AdaptiveOptions {
  /** Whether the square of the batch's mean gradient is averaged, or the mean of its samples' squares. */
  readonly secondMoment: 'mean-gradient' | 'per-sample';
  /** Decay of the exponential moving average, in [0, 1). */
  readonly decay: number;
  /** ε > 0. */
  readonly epsilon: number;
  /** η > 0. */
  readonly eta: number;
}

/** R = I/η, m × m. */
export function identityMetric(m: number, eta: number): Matrix {
  return scale(identity(m), 1 / eta);
}

/**
 * R = diag(√v + ε)/η, with v ← decay v + (1 − decay) ḡ² from v = 0 over the batches' gradients (B × m), oldest first: ḡ² is the square
 * of their mean or the mean of their squares.
 */
export function rmspropMetric(gradients: readonly Matrix[], options: AdaptiveOptions): Matrix {
  const { epsilon, eta } = options;
  const v = squaredAverage(gradients, options);
  return scale(diagonal(v.data.map((value) => Math.sqrt(value) + epsilon)), 1 / eta);
}

/** As rmsprop, with v/(1 − decay^K) after K batches in place of v. */
export function adamMetric(gradients: readonly Matrix[], options: AdaptiveOptions): Matrix {
  const { decay, epsilon, eta } = options;
  const v = scale(squaredAverage(gradients, options), 1 / (1 - decay ** gradients.length));
  return scale(diagonal(v.data.map((value) => Math.sqrt(value) + epsilon)), 1 / eta);
}

function squaredAverage(gradients: readonly Matrix[], { decay, secondMoment }: AdaptiveOptions): Matrix {
  const [first] = gradients;
  if (first === undefined) throw new RangeError('an average needs at least one batch');
  const mean = (rows: Matrix): Matrix => scale(multiply(build(1, rows.rows, () => 1), rows), 1 / rows.rows); // prettier-ignore
  const squared = (rows: Matrix): Matrix =>
    secondMoment === 'per-sample' ? mean(hadamard(rows, rows)) : hadamard(mean(rows), mean(rows));
  return gradients.reduce((v, rows) => add(scale(v, decay), scale(squared(rows), 1 - decay)), zeros(1, first.cols));
}

/** How many of the batches the last refresh had seen. */
function seenByRefresh(batches: number, refreshEvery = 1): number {
  return batches - ((batches - 1) % refreshEvery);
}

/** R = P/η, m × m, with the factors averaged over the batches, oldest first. */
export function kroneckerMetric(batches: readonly LayerStatistics[], options: KroneckerOptions): Matrix {
  const seen = batches.slice(0, seenByRefresh(batches.length, options.refreshEvery));
  const { A, Gamma } = dampedFactors(averagedFactors(seen, options.decay), options.damping);
  return scale(kron(A, Gamma), 1 / options.eta);
}

/**
 * R = (U_A ⊗ U_Γ) diag(s + γ) (U_A ⊗ U_Γ)ᵀ / η, m × m: the eigenvectors are those of the averaged factors at the last refresh,
 * which restarts s from the products of their eigenvalues, λ_A ⊗ λ_Γ (negative ones are 0); every batch, the refreshing one
 * included, then averages s ← decay s + (1 − decay) E[Σ_ρ h ((U_A ⊗ U_Γ)ᵀ (a ⊗ g))²].
 */
export function ekfacMetric(batches: readonly LayerStatistics[], options: KroneckerOptions): Matrix {
  const { decay, damping, eta, refreshEvery } = options;
  const seen = seenByRefresh(batches.length, refreshEvery);
  const { A, Gamma } = averagedFactors(batches.slice(0, seen), decay);
  const input = eigenSymmetric(A);
  const output = eigenSymmetric(Gamma);
  const U = kron(input.vectors, output.vectors);
  const notNegative = (values: Float64Array): Matrix => columnVector(values.map((value) => Math.max(value, 0)));
  const restart = kron(notNegative(input.values), notNegative(output.values));
  const s = batches
    .slice(seen - 1)
    .reduce((average, batch) => add(scale(average, decay), scale(secondMoments(batch, U), 1 - decay)), restart);
  return scale(multiply(U, diagonal(s.data.map((value) => value + damping)), transpose(U)), 1 / eta);
}

/** E_i[Σ_ρ h (Uᵀ J_iρ)²], m × 1. */
function secondMoments({ inputs, outputGradients, terminalWeights }: LayerStatistics, U: Matrix): Matrix {
  const rotated = multiply(sampleGradients(inputs, outputGradients), U);
  const H = diagonal(terminalWeights);
  const squares = hadamard(rotated, rotated);
  const ones = build(1, rotated.rows, () => 1);
  return transpose(scale(multiply(ones, H, squares), 1 / inputs.rows));
}

/** A = E_i[a aᵀ] and Γ = E_i[Σ_ρ h g gᵀ], means over the samples of one batch. */
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
    Gamma: scale(multiply(transpose(weighted), g), 1 / a.rows),
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

/** Σ over the largest eigenvalues of u uᵀ/(λ + d), d in mean diagonals. */
export function truncatedInverse(A: Matrix, rank: number, damping: number): Matrix {
  const { values, vectors } = eigenSymmetric(A);
  const order = [...values.keys()].sort((i, j) => values[j]! - values[i]!).slice(0, rank);
  const d = (damping * trace(A)) / A.rows;
  const U = build(A.rows, rank, (i, j) => at(vectors, i, order[j]!));
  return multiply(U, diagonal(order.map((index) => 1 / (values[index]! + d))), transpose(U));
}
