/** Factorisations on the host in float64, for engines whose library has none. */
import { cholesky, choleskySolve, inverseSpd } from '../../shared/linear-algebra.ts';
import type { Engine, Tensor } from './engine.ts';

type Transfer = Pick<Engine, 'tensor' | 'read'>;

function orderOf(matrix: Tensor): number {
  const [rows, columns] = matrix.shape;
  if (rows === undefined || rows !== columns || matrix.shape.length !== 2) {
    throw new RangeError(`expected a square matrix, got [${matrix.shape.join(', ')}]`);
  }
  return rows;
}

export function hostLinearAlgebra(transfer: Transfer): Pick<Engine, 'cholesky' | 'choleskySolve' | 'inverseSpd'> {
  const orNaN = (result: Float64Array | null, n: number): Tensor =>
    transfer.tensor(result ?? new Float64Array(n * n).fill(Number.NaN), [n, n]);
  return {
    cholesky(matrix) {
      const n = orderOf(matrix);
      return orNaN(cholesky(transfer.read(matrix), n), n);
    },
    inverseSpd(matrix) {
      const n = orderOf(matrix);
      return orNaN(inverseSpd(transfer.read(matrix), n), n);
    },
    choleskySolve(factor, rightHandSide) {
      const n = orderOf(factor);
      return transfer.tensor(choleskySolve(transfer.read(factor), transfer.read(rightHandSide)), [n]);
    },
  };
}
