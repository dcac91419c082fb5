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
import { timesTransform, transformTimes, type Transform } from '../layers/transform.ts';

/** As the optimizer's state holds it. */
export interface InverseMetric {
  /** T_a, [n, n'] with n' ≤ n; null for I. */
  readonly input: Tensor | null;
  /** T_g, [c, c'] with c' ≤ c; null for I. */
  readonly output: Tensor | null;
  /** w, [n', c']; null for ones. */
  readonly weights: Tensor | null;
}

export const IDENTITY_METRIC: InverseMetric = { input: null, output: null, weights: null };

/** P⁻¹ with what is known of the shape of its factors. */
export interface Preconditioner {
  readonly input: Transform | null;
  readonly output: Transform | null;
  readonly weights: Tensor | null;
}

/** A⁻¹ or Γ⁻¹ = T Tᵀ of its root. @throws TypeError for a metric without factors */
export function inverseFactor(engine: Engine, root: Tensor | null): Tensor {
  if (root === null) throw new TypeError('a Kronecker metric without factors');
  return engine.matMul(root, root, { transposeRight: true });
}

/** P⁻¹ M for a matrix M [n, c] of the block's shape. */
export function applyInverse(engine: Engine, { input, output, weights }: Preconditioner, matrix: Tensor): Tensor {
  const { matMul, multiply } = engine;
  let result = matrix;
  if (input !== null) result = matMul(input.matrix, result, { transposeLeft: true });
  if (output !== null) result = timesTransform(engine, result, output);
  if (weights !== null) result = multiply(result, weights);
  return applyTransforms(engine, result, input, output);
}

/**
 * P⁻¹ Jᵀκ, [n, c], from J (T_a ⊗ T_g): what is left is (T_a ⊗ T_g) diag(w).
 *
 * @param transformed J in the coordinates of the metric
 * @param coefficients κ, [R]
 */
export function preconditionedSum(
  engine: Engine,
  { input, output, weights }: Preconditioner,
  transformed: PerSampleGradients,
  coefficients: Tensor,
): Tensor {
  if ((transformed.kind === 'outer' || transformed.kind === 'positions') && weights === null) {
    return transformedWeightedSum(engine, transformed, coefficients, input, output);
  }
  const sum = weightedSum(engine, transformed, coefficients);
  return applyTransforms(engine, weights === null ? sum : engine.multiply(sum, weights), input, output);
}

/** T_a M T_gᵀ. */
function applyTransforms(engine: Engine, matrix: Tensor, input: Transform | null, output: Transform | null): Tensor {
  const left = input === null ? matrix : transformTimes(engine, input, matrix);
  return output === null ? left : timesTransform(engine, left, output, { transposeRight: true });
}
