/**
 * Kronecker-factored control metric (K-FAC): P = (A + πγ^½ I) ⊗ (Γ + γ^½/π I) with A = E[a aᵀ], Γ = E[h g gᵀ].
 *
 * Martens & Grosse, "Optimizing Neural Networks with Kronecker-factored Approximate Curvature", 2015: factors, moving averages,
 * and the π split of the damping γ (section 6.3). Grosse & Martens, 2016, for the factors of convolutions.
 */
import type { KroneckerMetric } from '../../../shared/optimizer.ts';
import type { Engine, Tensor } from '../../tensor/engine.ts';
import { kroneckerFactors, outputFactorOf, type PerSampleGradients } from '../layers/per-sample-gradients.ts';
import type { InverseMetric } from './inverse-metric.ts';
import { biasCorrectedAverage } from './moving-average.ts';

/** Gradients whose block has Kronecker structure. */
export type FactoredGradients = Exclude<PerSampleGradients, { kind: 'explicit' }>;

export interface Factors {
  /** A, [n, n]. */
  readonly inputFactor: Tensor;
  /** Γ, [c, c]. */
  readonly outputFactor: Tensor;
}

/**
 * The factors' averages after one more step; a batch enters them every `statisticsEvery` steps.
 *
 * @param step sequence number of this step
 */
export function averageFactors(
  engine: Engine,
  { decay, statisticsEvery }: Pick<KroneckerMetric, 'decay' | 'statisticsEvery'>,
  state: Factors | null,
  columns: FactoredGradients,
  rowWeights: Tensor,
  step: number,
): Factors {
  if (state !== null && step % statisticsEvery !== 0) {
    return { inputFactor: state.inputFactor, outputFactor: state.outputFactor };
  }
  const count = step / statisticsEvery;
  const batch = kroneckerFactors(engine, columns, rowWeights);
  return {
    inputFactor: biasCorrectedAverage(engine, state?.inputFactor, batch.inputFactor, decay, count),
    outputFactor: biasCorrectedAverage(engine, state?.outputFactor, batch.outputFactor, decay, count),
  };
}

/** π^½-split damping: πγ^½ for A and γ^½/π for Γ, π² = (tr A / dim A) / (tr Γ / dim Γ), both scalars. */
function splitDamping(engine: Engine, { inputFactor, outputFactor }: Factors, damping: number): [Tensor, Tensor] {
  const { divide, maximum, multiply, sqrt } = engine;
  const root = Math.sqrt(damping);
  // A factor that is zero, as Γ is when no sample has a gradient, would send π to 0 or infinity: keep both traces positive.
  const smallest = 1e-30;
  const inputMean = maximum(meanDiagonal(engine, inputFactor), smallest);
  const outputMean = maximum(meanDiagonal(engine, outputFactor), smallest);
  const pi = divide(sqrt(inputMean), sqrt(outputMean));
  return [multiply(pi, root), divide(root, pi)];
}

/** T = L⁻ᵀ of F + εI, so that T Tᵀ is its inverse; NaN where it has none. */
function inverseRoot(engine: Engine, factor: Tensor, damping: Tensor): Tensor {
  return engine.transpose(engine.inverseCholesky(addDiagonal(engine, factor, damping)), [1, 0]);
}

/** T_a and T_g of the damped factors. */
function invertFactors(engine: Engine, factors: Factors, damping: number): InverseMetric {
  const [inputDamping, outputDamping] = splitDamping(engine, factors, damping);
  return {
    input: inverseRoot(engine, factors.inputFactor, inputDamping),
    output: inverseRoot(engine, factors.outputFactor, outputDamping),
    weights: null,
  };
}

/** T_g alone. */
export function outputRoot(engine: Engine, factors: Factors, damping: number): Tensor {
  const [, outputDamping] = splitDamping(engine, factors, damping);
  return inverseRoot(engine, factors.outputFactor, outputDamping);
}

/** Options of a frozen input factor. */
export type FrozenInputFactor = Extract<KroneckerMetric['firstInputFactor'], { kind: 'frozen' }>;

/**
 * T_a = U_r (Λ_r + dI)^−½ of the r largest eigenvalues, [n, r], d in mean diagonals of the factor: what is outside their span does
 * not change. It equals whitening the layer's inputs once.
 */
function truncatedRoot(engine: Engine, factor: Tensor, { rank, damping }: FrozenInputFactor): Tensor {
  const { add, divide, eigenSymmetric, maximum, multiply, reshape, slice, sqrt } = engine;
  const n = factor.shape[0] ?? 0;
  const kept = Math.min(rank ?? n, n);
  const { values, vectors } = eigenSymmetric(factor); // ascending
  const largest = maximum(slice(values, 0, n - kept, kept), 0);
  const damped = add(largest, maximum(multiply(meanDiagonal(engine, factor), damping), 1e-30));
  return divide(slice(vectors, 1, n - kept, kept), sqrt(reshape(damped, [1, kept])));
}

/**
 * The factors' averages after one more step.
 *
 * @param isFrozen whether the input factor is frozen by now: then only Γ is averaged
 */
export function averagedFactors(
  engine: Engine,
  metric: KroneckerMetric,
  state: Factors | null,
  columns: FactoredGradients,
  rowWeights: Tensor,
  step: number,
  isFrozen: boolean,
): Factors {
  if (!isFrozen || state === null) return averageFactors(engine, metric, state, columns, rowWeights, step);
  const { inputFactor, outputFactor } = state;
  const { decay, statisticsEvery } = metric;
  if (step % statisticsEvery !== 0) return { inputFactor, outputFactor };
  const batch = outputFactorOf(engine, columns, rowWeights);
  const count = step / statisticsEvery;
  return { inputFactor, outputFactor: biasCorrectedAverage(engine, outputFactor, batch, decay, count) };
}

/** Whether the input factor is frozen before the step with this sequence number. */
export function isFrozenBy(frozen: FrozenInputFactor | null, step: number): boolean {
  return frozen !== null && step >= frozen.batches;
}

/** Whether the step with this sequence number brings the last batch of the input factor that is frozen. */
export function freezesAt(frozen: FrozenInputFactor | null, step: number): boolean {
  return frozen !== null && step === frozen.batches - 1;
}

/**
 * T_a and T_g made anew; NaN where a factor has no factorisation.
 *
 * @param step with which the refresh began
 * @param frozen how the input factor is frozen; null if it is averaged throughout
 * @param current inverse, whose input part stays once it is frozen; null before the first refresh
 */
export function refreshedInverse(
  engine: Engine,
  { damping }: Pick<KroneckerMetric, 'damping'>,
  factors: Factors,
  step: number,
  frozen: FrozenInputFactor | null,
  current: InverseMetric | null,
): InverseMetric {
  const input = frozenRoot(engine, factors, step, frozen, current);
  if (input === null) return invertFactors(engine, factors, damping);
  return { input, output: outputRoot(engine, factors, damping), weights: null };
}

/** T_a where the refresh that began with this step freezes it, or finds it frozen; else null. */
function frozenRoot(
  engine: Engine,
  { inputFactor }: Factors,
  step: number,
  frozen: FrozenInputFactor | null,
  current: InverseMetric | null,
): Tensor | null {
  if (frozen === null || step < frozen.batches - 1) return null;
  return step === frozen.batches - 1 ? truncatedRoot(engine, inputFactor, frozen) : (current?.input ?? null);
}

/** tr F / dim F, a scalar. */
function meanDiagonal(engine: Engine, factor: Tensor): Tensor {
  return engine.divide(engine.sum(engine.diagonalOf(factor), 0), factor.shape[0] ?? 1);
}

/** F + εI for a scalar ε. */
function addDiagonal(engine: Engine, factor: Tensor, scale: Tensor): Tensor {
  const n = factor.shape[0] ?? 0;
  const ones = engine.tensor(new Float32Array(n).fill(1), [n]);
  return engine.add(factor, engine.diagonal(engine.multiply(ones, scale)));
}
