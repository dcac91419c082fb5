/**
 * The inverse control metric of one parameter block in the form all metrics share:
 *
 *     P⁻¹ = (T_a ⊗ T_g) diag(w) (T_a ⊗ T_g)ᵀ
 *
 * identity: T = I, w = 1. Diagonal metrics: T = I. Kronecker: T_a T_aᵀ = A⁻¹, T_g T_gᵀ = Γ⁻¹, w = 1. EKFAC: T the factors'
 * eigenvectors. A preconditioned tangent kernel is then a Gram matrix of transformed gradients, and positive semidefinite as
 * computed.
 */
import type { Engine, Tensor } from '../../tensor/engine.ts';
import { transformedWeightedSum, weightedSum, type PerSampleGradients } from '../layers/per-sample-gradients.ts';

export interface InverseMetric {
  /** T_a, [n, n'] with n' ≤ n; null for I. */
  readonly input: Tensor | null;
  /** T_g, [c, c'] with c' ≤ c; null for I. */
  readonly output: Tensor | null;
  /** w, [n', c']; null for ones. */
  readonly weights: Tensor | null;
}

export const IDENTITY_METRIC: InverseMetric = { input: null, output: null, weights: null };

/** P⁻¹ M for a matrix M [n, c] of the block's shape. */
export function applyInverse(engine: Engine, { input, output, weights }: InverseMetric, matrix: Tensor): Tensor {
  const { matMul, multiply } = engine;
  let result = matrix;
  if (input !== null) result = matMul(input, result, { transposeLeft: true });
  if (output !== null) result = matMul(result, output);
  if (weights !== null) result = multiply(result, weights);
  if (input !== null) result = matMul(input, result);
  if (output !== null) result = matMul(result, output, { transposeRight: true });
  return result;
}

/**
 * P⁻¹ Jᵀκ, [n, c], from J (T_a ⊗ T_g): what is left is (T_a ⊗ T_g) diag(w).
 *
 * @param transformed J in the coordinates of the metric
 * @param coefficients κ, [R]
 */
export function preconditionedSum(
  engine: Engine,
  { input, output, weights }: InverseMetric,
  transformed: PerSampleGradients,
  coefficients: Tensor,
): Tensor {
  if ((transformed.kind === 'outer' || transformed.kind === 'positions') && weights === null) {
    return transformedWeightedSum(engine, transformed, coefficients, input, output);
  }
  const { matMul, multiply } = engine;
  let result = weightedSum(engine, transformed, coefficients);
  if (weights !== null) result = multiply(result, weights);
  if (input !== null) result = matMul(input, result);
  if (output !== null) result = matMul(result, output, { transposeRight: true });
  return result;
}
