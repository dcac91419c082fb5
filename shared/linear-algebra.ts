/**
 * Float64 linear algebra for the small symmetric positive definite systems of a step: the B×B matrix S_t and the Kronecker
 * factors. Matrices are row-major. Runs anywhere: worker, edge, browser.
 */

/**
 * Cholesky factorisation A = L Lᵀ.
 *
 * @param matrix row-major n×n; only its lower triangle is read
 * @param n the order of the matrix
 * @returns L, row-major n×n with zeros above the diagonal, or null if the matrix is not numerically positive definite
 *   (a pivot is ≤ 0, NaN or infinite)
 */
export function cholesky(matrix: ArrayLike<number>, n: number): Float64Array | null {
  const factor = new Float64Array(n * n);
  for (let i = 0; i < n; i++) {
    const row = i * n;
    for (let j = 0; j <= i; j++) {
      const other = j * n;
      let sum = matrix[row + j] ?? Number.NaN;
      for (let k = 0; k < j; k++) sum -= at(factor, row + k) * at(factor, other + k);
      if (i === j) {
        if (!(sum > 0) || sum === Number.POSITIVE_INFINITY) return null;
        factor[row + i] = Math.sqrt(sum);
      } else {
        factor[row + j] = sum / at(factor, other + j);
      }
    }
  }
  return factor;
}

/**
 * Solves L Lᵀ x = b by two triangular substitutions.
 *
 * @param factor L, row-major n×n, lower triangular with a positive diagonal
 * @param rightHandSide b, n numbers
 * @returns x, n numbers in float64
 */
export function choleskySolve(factor: ArrayLike<number>, rightHandSide: ArrayLike<number>): Float64Array {
  const n = rightHandSide.length;
  const x = Float64Array.from(rightHandSide);
  for (let i = 0; i < n; i++) {
    let sum = at(x, i);
    for (let k = 0; k < i; k++) sum -= at(factor, i * n + k) * at(x, k);
    x[i] = sum / at(factor, i * n + i);
  }
  for (let i = n - 1; i >= 0; i--) {
    const xi = at(x, i) / at(factor, i * n + i);
    x[i] = xi;
    for (let k = 0; k < i; k++) x[k] = at(x, k) - at(factor, i * n + k) * xi;
  }
  return x;
}

/**
 * L⁻¹ for the Cholesky factor L of a symmetric positive definite matrix: A⁻¹ = L⁻ᵀ L⁻¹.
 *
 * @param matrix row-major n×n; only its lower triangle is read
 * @returns L⁻¹, row-major n×n with zeros above the diagonal, or null if the matrix is not numerically positive definite
 */
export function inverseCholesky(matrix: ArrayLike<number>, n: number): Float64Array | null {
  const factor = cholesky(matrix, n);
  if (factor === null) return null;
  // Row i of L⁻¹ by forward substitution against the rows above it: L⁻¹_i = (e_i − Σ_{k<i} L_ik L⁻¹_k) / L_ii.
  const inverse = new Float64Array(n * n);
  for (let i = 0; i < n; i++) {
    const row = i * n;
    for (let k = 0; k < i; k++) {
      const weight = at(factor, row + k);
      for (let j = 0; j <= k; j++) inverse[row + j] = at(inverse, row + j) - weight * at(inverse, k * n + j);
    }
    const pivot = at(factor, row + i);
    for (let j = 0; j < i; j++) inverse[row + j] = at(inverse, row + j) / pivot;
    inverse[row + i] = 1 / pivot;
  }
  return inverse;
}

/** Reads an index that the loop bounds prove valid; a wrong length shows as NaN, never as a silent zero. */
function at(values: ArrayLike<number>, index: number): number {
  return values[index] ?? Number.NaN;
}
