/**
 * Symmetric and triangular matrices as the wire carries them: one triangle, n(n + 1)/2 numbers instead of n².
 *
 * A symmetric matrix is its upper triangle row by row, (0,0) … (0,n−1), (1,1) …: `A[numpy.triu_indices(n)]`. A lower triangular one
 * is its lower triangle row by row, (0,0), (1,0), (1,1), …: `L[numpy.tril_indices(n)]`. All matrices are row-major.
 */
import type { TensorValues } from './safetensors.ts';

/** Numbers in a triangle of an n×n matrix, its diagonal included. */
export function triangleSize(n: number): number {
  return (n * (n + 1)) / 2;
}

/** @param matrix symmetric, [n, n]; its upper triangle is read */
export function packSymmetric(matrix: TensorValues, n: number): TensorValues {
  const packed = like(matrix, triangleSize(n));
  let position = 0;
  for (let i = 0; i < n; i++) {
    packed.set(matrix.subarray(i * n + i, (i + 1) * n), position);
    position += n - i;
  }
  return packed;
}

/** The whole matrix, [n, n], of a packed symmetric one. */
export function unpackSymmetric(packed: TensorValues, n: number): TensorValues {
  const matrix = like(packed, n * n);
  let position = 0;
  for (let i = 0; i < n; i++) {
    for (let j = i; j < n; j++) {
      const value = packed[position++] ?? Number.NaN;
      matrix[i * n + j] = value;
      matrix[j * n + i] = value;
    }
  }
  return matrix;
}

/** @param matrices symmetric, any number of [n, n] one after another */
export function packAllSymmetric(matrices: TensorValues, n: number): TensorValues {
  const count = matrices.length / (n * n);
  const packed = like(matrices, count * triangleSize(n));
  for (let i = 0; i < count; i++) {
    packed.set(packSymmetric(matrices.subarray(i * n * n, (i + 1) * n * n), n), i * triangleSize(n));
  }
  return packed;
}

/** The whole matrices, [n, n] each, of packed symmetric ones. */
export function unpackAllSymmetric(packed: TensorValues, n: number): TensorValues[] {
  const size = triangleSize(n);
  return Array.from({ length: packed.length / size }, (_, i) =>
    unpackSymmetric(packed.subarray(i * size, (i + 1) * size), n),
  );
}

/** @param matrix lower triangular, [n, n] */
export function packLower(matrix: TensorValues, n: number): TensorValues {
  const packed = like(matrix, triangleSize(n));
  for (let i = 0; i < n; i++) packed.set(matrix.subarray(i * n, i * n + i + 1), triangleSize(i));
  return packed;
}

/** The whole matrix, [n, n] with zeros above the diagonal, of a packed lower triangular one. */
export function unpackLower(packed: TensorValues, n: number): TensorValues {
  const matrix = like(packed, n * n);
  for (let i = 0; i < n; i++) matrix.set(packed.subarray(triangleSize(i), triangleSize(i + 1)), i * n);
  return matrix;
}

/** The diagonal, [n], of a packed symmetric matrix. */
export function packedDiagonal(packed: TensorValues, n: number): TensorValues {
  const diagonal = like(packed, n);
  let position = 0;
  for (let i = 0; i < n; i++) {
    diagonal[i] = packed[position] ?? Number.NaN;
    position += n - i;
  }
  return diagonal;
}

/** Zeros of the same element type. */
function like(values: TensorValues, length: number): TensorValues {
  return values instanceof Float64Array ? new Float64Array(length) : new Float32Array(length);
}
