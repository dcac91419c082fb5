/** A change of the coordinates in which a parameter block's gradients are written. */
import type { Engine, Tensor } from '../../tensor/engine.ts';

export interface Transform {
  /** T, [n, n']. */
  readonly matrix: Tensor;
  /** Whether T is upper triangular, as the inverse of a transposed Cholesky factor is: a product with it is half the work. */
  readonly isUpperTriangular: boolean;
}

/** M T, or M Tᵀ. */
export function timesTransform(
  engine: Engine,
  matrix: Tensor,
  transform: Transform,
  { transposeRight = false }: { readonly transposeRight?: boolean } = {},
): Tensor {
  return engine.matMul(matrix, transform.matrix, { transposeRight, ...shapeHint(transform, 'right') });
}

/** T M. */
export function transformTimes(engine: Engine, transform: Transform, matrix: Tensor): Tensor {
  return engine.matMul(transform.matrix, matrix, shapeHint(transform, 'left'));
}

function shapeHint(
  { isUpperTriangular }: Transform,
  side: 'left' | 'right',
): { readonly upperTriangular?: 'left' | 'right' } {
  return isUpperTriangular ? { upperTriangular: side } : {};
}
