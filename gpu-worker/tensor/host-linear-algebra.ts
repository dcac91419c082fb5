/** Factorisations on the host in float64, for engines whose library has none. */
import { EigenvalueDecomposition, Matrix } from 'ml-matrix';
import { cholesky, choleskySolve, inverseCholesky } from '../../shared/linear-algebra.ts';
import type { Engine, Tensor } from './engine.ts';

type Transfer = Pick<Engine, 'tensor' | 'read'>;
type LinearAlgebra = Pick<Engine, 'cholesky' | 'choleskySolve' | 'inverseCholesky' | 'eigenSymmetric'>;

function orderOf(matrix: Tensor): number {
  const [rows, columns] = matrix.shape;
  if (rows === undefined || rows !== columns || matrix.shape.length !== 2) {
    throw new RangeError(`expected a square matrix, got [${matrix.shape.join(', ')}]`);
  }
  return rows;
}

export function hostLinearAlgebra({ tensor, read }: Transfer): LinearAlgebra {
  const filledWithNaN = (length: number): Float64Array => new Float64Array(length).fill(Number.NaN);
  return {
    cholesky(matrix) {
      const n = orderOf(matrix);
      return tensor(cholesky(read(matrix), n) ?? filledWithNaN(n * n), [n, n]);
    },
    inverseCholesky(matrix) {
      const n = orderOf(matrix);
      return tensor(inverseCholesky(read(matrix), n) ?? filledWithNaN(n * n), [n, n]);
    },
    choleskySolve(factor, rightHandSide) {
      const n = orderOf(factor);
      return tensor(choleskySolve(read(factor), read(rightHandSide)), [n]);
    },
    eigenSymmetric(matrix) {
      const n = orderOf(matrix);
      const values = read(matrix);
      // The decomposition does not end on NaN.
      if (!values.every(Number.isFinite)) {
        return { values: tensor(filledWithNaN(n), [n]), vectors: tensor(filledWithNaN(n * n), [n, n]) };
      }
      // Entries of moderate size, since the decomposition squares them.
      let scale = Number.MIN_VALUE;
      for (const value of values) scale = Math.max(scale, Math.abs(value));
      const scaled = Matrix.from1DArray(n, n, values).div(scale);
      const decomposition = new EigenvalueDecomposition(scaled, { assumeSymmetric: true });
      return {
        values: tensor(
          decomposition.realEigenvalues.map((value) => value * scale),
          [n],
        ),
        vectors: tensor(decomposition.eigenvectorMatrix.to1DArray(), [n, n]),
      };
    },
  };
}
