/** An engine's linear algebra, held against the float64 reference. */
import { seededRandom } from '../../shared/random.ts';
import type { Engine, Tensor } from '../tensor/engine.ts';
import { relativeError, type Comparison } from './comparison.ts';

/** Of the matrices: beyond what an engine might treat as small, and no multiple of anything. */
const ORDER = 263;

/** Products in float32 come within this; with TensorFloat-32 they would be a hundred times as far. */
const PRODUCT_TOLERANCE = 1e-5;
/** Of a well-conditioned matrix's factorisation, in float64, and rounded to float32. */
const FACTORIZATION_TOLERANCE = 1e-5;

interface Inputs {
  readonly general: Tensor;
  /** Symmetric positive definite, of condition about 10. */
  readonly definite: Tensor;
  readonly vector: Tensor;
}

const CHECKS: Readonly<Record<string, (engine: Engine, inputs: Inputs) => Tensor>> = {
  product: (engine, { general, definite }) => engine.matMul(general, definite),
  'product of transposes': (engine, { general }) => engine.matMul(general, general, { transposeLeft: true, transposeRight: true }), // prettier-ignore
  'products of stacks': (engine, { general }) => {
    const stack = engine.reshape(general, [1, ORDER, ORDER]);
    return engine.matMul(engine.concat([stack, stack], 0), engine.concat([stack, stack], 0), { transposeRight: true });
  },
  'Cholesky factor': (engine, { definite }) => engine.cholesky(definite),
  'Cholesky solve': (engine, { definite, vector }) => engine.choleskySolve(engine.cholesky(definite), vector),
  'inverse of the Cholesky factor': (engine, { definite }) => engine.inverseCholesky(definite),
  'Cholesky factor of what has none': (engine, { definite }) => engine.cholesky(engine.multiply(definite, -1)),
  'inverse of what has none': (engine, { definite }) => engine.inverseCholesky(engine.multiply(definite, -1)),
  eigenvalues: (engine, { definite }) => engine.eigenSymmetric(definite).values,
  // Eigenvectors are unique up to their sign: held against the matrix that they make.
  'matrix from its eigenvectors': (engine, { definite }) => {
    const { values, vectors } = engine.eigenSymmetric(definite);
    return engine.matMul(engine.multiply(vectors, values), vectors, { transposeRight: true });
  },
  'finiteness of a matrix with NaN': (engine, { general }) => engine.isFinite([engine.log(general)]),
};

export function compareLinearAlgebra(engine: Engine, reference: Engine): Comparison[] {
  const random = seededRandom(7);
  const draw = (length: number): Float32Array => Float32Array.from({ length }, () => 2 * random() - 1);
  const [general, root, vector] = [draw(ORDER ** 2), draw(ORDER ** 2), draw(ORDER)];
  const values = (on: Engine, check: (engine: Engine, inputs: Inputs) => Tensor): ArrayLike<number> =>
    on.scope(() => {
      const upload = (matrix: Float32Array): Tensor => on.tensor(matrix, [ORDER, ORDER]);
      const square = on.matMul(upload(root), upload(root), { transposeRight: true });
      const definite = on.add(on.multiply(square, 1 / ORDER), on.multiply(on.identity(ORDER), 0.1));
      return on.read(check(on, { general: upload(general), definite, vector: on.tensor(vector, [ORDER]) }));
    });
  return Object.entries(CHECKS).map(([name, check]) => ({
    name,
    error: relativeError(values(engine, check), values(reference, check)),
    tolerance: name.startsWith('product') ? PRODUCT_TOLERANCE : FACTORIZATION_TOLERANCE,
  }));
}
