/**
 * The singular vectors of a dense layer's feedback K, from the policy in sample factors that a client receives: K is never formed.
 *
 * With ã [B, n + 1] and g̃ [B, c], η in it, the policy changes the layer's parameters by δu = −Σ_i κ_i ã_i ⊗ g̃_i, where S κ = 1/h + s and
 * s_i = ⟨G_i, δx_i⟩, G_i = ∂φ_i/∂x. The part that depends on δx is the feedback. For one perturbation δx [n] that all samples of a
 * group share,
 *
 *     K δx = −J̃ᵀ S⁻¹ E G δx,   J̃ [B, m] with rows ã_i ⊗ g̃_i,  E = diag(1 for the samples of the group),
 *
 * a matrix [m, n] of rank B at most. Its singular values follow from B × B matrices: with C = E G Gᵀ E = Q Λ Qᵀ and
 * A = J̃ J̃ᵀ = (ã ãᵀ) ∘ (g̃ g̃ᵀ), every right singular vector lies in the rows of E G, v = (E G)ᵀ Q Λ^−½ z, ‖z‖ = 1, and
 *
 *     ‖K v‖² = zᵀ W z,   W = Λ^½ Qᵀ S⁻¹ A S⁻¹ Q Λ^½,
 *
 * so that the z are W's eigenvectors, the singular values σ the roots of its eigenvalues, and u = K v/σ is the policy's own answer to v.
 */
import { EigenvalueDecomposition, Matrix } from 'ml-matrix';
import type { LayerPolicy } from '../../clients/js/index.ts';

export interface SingularVector {
  readonly value: number;
  /** v, [n], a direction in which the layer's input moves; its largest entry is positive. */
  readonly input: Float64Array;
  /** u, [(n + 1)·c] with the bias last, or [n·c]: the direction in which the parameters answer. */
  readonly parameters: Float64Array;
}

export interface Feedback {
  /** All σ that are not rounding, from the largest. */
  readonly values: readonly number[];
  readonly leading: readonly SingularVector[];
}

/** Of the largest eigenvalue: what is less is rounding. */
const ROUNDING = 1e-10;

/**
 * @param policy of a dense layer, in sample factors, with a Cholesky factor
 * @param inputGradients G, [B, n]: each sample's own loss gradient in the layer's input
 * @param isInGroup by sample; the others' inputs do not move
 * @param count of singular vectors; values are all given
 * @throws RangeError for a policy in inverse factors
 */
export function feedbackSingularVectors(
  policy: LayerPolicy,
  inputGradients: Float64Array,
  isInGroup: (sample: number) => boolean,
  count: number,
): Feedback {
  const { tensors } = policy;
  if (tensors.kind !== 'sample-factors') throw new RangeError('the singular vectors are made of sample factors');
  const resting = policy.coefficients(null);
  const B = resting.length;
  const [a, g] = [tensors.input, tensors.outputGradient].map((values) => new Matrix(rowsOf(values, B)));
  if (a === undefined || g === undefined) throw new RangeError('sample factors without samples');
  const moved = new Matrix(
    rowsOf(inputGradients, B).map((row, sample) => (isInGroup(sample) ? row : row.map(() => 0))),
  );
  // κ is affine in s: its slope is S⁻¹.
  const inverse = new Matrix(
    Array.from({ length: B }, (_, sample) => {
      const answered = policy.coefficients(Float64Array.from({ length: B }, (__, other) => Number(other === sample)));
      return Array.from(answered, (value, row) => value - (resting[row] ?? Number.NaN));
    }),
  ).transpose();
  const answers = a.mmul(a.transpose()).mul(g.mmul(g.transpose()));
  const { values: squares, vectors } = eigen(moved.mmul(moved.transpose()));
  const largest = squares[0] ?? 0;
  const rank = squares.filter((value) => value > ROUNDING * largest).length;
  // Q Λ^½ and Q Λ^−½ of what is not rounding.
  const scaled = (power: number): Matrix =>
    Matrix.mul(
      vectors.subMatrix(0, B - 1, 0, rank - 1),
      new Matrix(Array.from({ length: B }, () => squares.slice(0, rank).map((value) => value ** power))),
    );
  const root = inverse.mmul(scaled(0.5));
  const decomposed = eigen(root.transpose().mmul(answers).mmul(root));
  const singular = decomposed.values.filter((value) => value > ROUNDING * (decomposed.values[0] ?? 0)).map(Math.sqrt);
  const back = moved.transpose().mmul(scaled(-0.5));
  const leading = singular.slice(0, count).map((value, index): SingularVector => {
    const direction = back.mmul(decomposed.vectors.subMatrix(0, rank - 1, index, index)).getColumn(0);
    const largestEntry = direction.reduce((best, each) => (Math.abs(each) > Math.abs(best) ? each : best), 0);
    const input = Float64Array.from(direction, (each) => Math.sign(largestEntry) * each);
    const kappa = inverse.mmul(moved.mmul(Matrix.columnVector([...input])));
    const answer = Matrix.mul(a, kappa.mmul(Matrix.ones(1, a.columns)))
      .transpose()
      .mmul(g);
    return { value, input, parameters: Float64Array.from(answer.to1DArray(), (each) => -each / value) };
  });
  return { values: singular, leading };
}

function rowsOf(values: ArrayLike<number>, rows: number): number[][] {
  const length = values.length / rows;
  return Array.from({ length: rows }, (_, row) =>
    Array.from({ length }, (__, column) => values[row * length + column] ?? Number.NaN),
  );
}

/** Eigenvalues from the largest, and eigenvectors, one a column, of a symmetric matrix. */
function eigen(symmetric: Matrix): { readonly values: number[]; readonly vectors: Matrix } {
  const { realEigenvalues, eigenvectorMatrix } = new EigenvalueDecomposition(symmetric, { assumeSymmetric: true });
  // In ascending order.
  const vectors = new Matrix(eigenvectorMatrix.to2DArray().map((row) => row.toReversed()));
  return { values: realEigenvalues.toReversed(), vectors };
}
