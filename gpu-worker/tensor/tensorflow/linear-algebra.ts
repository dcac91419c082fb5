/**
 * Linear algebra out of TensorFlow's own operations, on whatever device it runs.
 *
 * Factorisations are computed in float64 between two casts: in float32 a hosted Gauss–Newton step leaves the oracle by 1.6e-4.
 */
import type { Engine, Product, Tensor } from '../engine.ts';
import { boolean, FLOAT32, integer, LOGICAL_REDUCTION, RESHAPE, SLICE, type } from './attributes.ts';
import { DATA_TYPES } from './binding.ts';
import { made, orderOf, own, type TensorFlowTensor } from './tensor.ts';
import type { TensorFlowTensors } from './tensors.ts';

export interface LinearAlgebra extends Pick<
  Engine,
  'cholesky' | 'choleskySolve' | 'inverseCholesky' | 'eigenSymmetric'
> {
  /** X → X Xᵀ, or XᵀX with its left factor transposed. */
  readonly gram: (matrix: Tensor, transposeLeft: boolean) => Tensor;
  /** Any product of two matrices. */
  readonly product: (left: Tensor, right: Tensor, product: Product) => Tensor;
}

const { float32, float64, int32 } = DATA_TYPES;

const FLOAT64 = [type('T', float64)];
const PAD = [type('T', float64), type('Tpaddings', int32)];
const TO_FLOAT64 = [type('SrcT', float32), type('DstT', float64), boolean('Truncate', false)];
const TO_FLOAT32 = [type('SrcT', float64), type('DstT', float32), boolean('Truncate', false)];
const LOWER = [...FLOAT64, boolean('lower', true), boolean('adjoint', false)];
const LOWER_TRANSPOSED = [...FLOAT64, boolean('lower', true), boolean('adjoint', true)];
/** Of two matrices. */
const PAIR = [...FLOAT64, type('Tidx', int32), integer('N', 2)];
const PRODUCT = [...FLOAT64, boolean('transpose_a', false), boolean('transpose_b', false)];
const EIGEN = [...FLOAT64, boolean('compute_v', true)];

/** Order up to which a triangular matrix is inverted by one solve. */
const LARGEST_SOLVED = 256;

/** Whether all elements are finite, a scalar of type bool. */
export function allFinite(tensors: TensorFlowTensors, tensor: TensorFlowTensor): TensorFlowTensor {
  const axes = tensors.constant(
    tensor.shape.map((_, axis) => axis),
    [tensor.shape.length],
    int32,
  );
  return tensors.execute('All', LOGICAL_REDUCTION, tensors.execute('IsFinite', [type('T', tensor.type)], tensor), axes);
}

/** Whatever is known of the operands. */
export function matrixProduct(tensors: TensorFlowTensors): LinearAlgebra['product'] {
  return (left, right, { transposeLeft = false, transposeRight = false }) => {
    const attributes = [...FLOAT32, boolean('transpose_a', transposeLeft), boolean('transpose_b', transposeRight)];
    return made(tensors.execute('MatMul', attributes, own(left), own(right)));
  };
}

export function tensorflowLinearAlgebra(tensors: TensorFlowTensors): LinearAlgebra {
  const execute = tensors.execute.bind(tensors);
  const number = (value: number): TensorFlowTensor => tensors.constant([value], [], float32);
  const integers = (values: readonly number[]): TensorFlowTensor => tensors.constant(values, [values.length], int32);
  /** Several operations as one: what they make on the way is freed. */
  const composed = (compute: () => TensorFlowTensor): Tensor => made(tensors.scope(compute, (result) => [result]));

  const double = (tensor: TensorFlowTensor): TensorFlowTensor => execute('Cast', TO_FLOAT64, tensor);
  const single = (tensor: TensorFlowTensor): TensorFlowTensor => execute('Cast', TO_FLOAT32, tensor);
  const reshaped = (tensor: TensorFlowTensor, shape: readonly number[]): TensorFlowTensor =>
    execute('Reshape', RESHAPE[float64], tensor, integers(shape));
  const finite = (tensor: TensorFlowTensor): TensorFlowTensor => allFinite(tensors, tensor);
  /** The tensor if the condition, a scalar of type bool, holds; else NaN throughout. */
  const orNaN = (condition: TensorFlowTensor, tensor: TensorFlowTensor): TensorFlowTensor =>
    execute('AddV2', FLOAT32, tensor, execute('SelectV2', FLOAT32, condition, number(0), number(Number.NaN)));
  /** Whether a matrix has the diagonal of a Cholesky factor: positive and finite. What is wrong with a row reaches it. */
  const isFactor = (matrix: TensorFlowTensor): TensorFlowTensor =>
    finite(execute('Log', FLOAT64, execute('MatrixDiagPart', FLOAT64, matrix)));
  /** The factor; where there is none, something else with which TensorFlow's triangular solve does not throw. */
  const solvable = (L: TensorFlowTensor, exists: TensorFlowTensor): TensorFlowTensor =>
    execute('SelectV2', FLOAT64, exists, L, double(number(1)));
  /** The identity as a function of L, whose diagonal is positive: a constant of that size would be in a graph several times. */
  const identityOf = (L: TensorFlowTensor): TensorFlowTensor => {
    const diagonal = execute('MatrixDiagPart', FLOAT64, L);
    return execute('MatrixDiag', FLOAT64, execute('RealDiv', FLOAT64, diagonal, diagonal));
  };
  /**
   * L⁻¹ of a lower triangular matrix, by halves: the inverse of [A 0; X C] is [A⁻¹ 0; −C⁻¹XA⁻¹ C⁻¹]. The products run on all cores,
   * TensorFlow's triangular solve on one.
   */
  const inverseOfLower = (L: TensorFlowTensor): TensorFlowTensor => {
    const n = L.shape[0] ?? 0;
    if (n <= LARGEST_SOLVED) {
      return execute('MatrixTriangularSolve', LOWER, L, identityOf(L));
    }
    const first = Math.floor(n / 2);
    const rest = n - first;
    const block = (row: number, column: number, rows: number, columns: number): TensorFlowTensor =>
      execute('Slice', SLICE[float64], L, integers([row, column]), integers([rows, columns]));
    const join = (axis: number, left: TensorFlowTensor, right: TensorFlowTensor): TensorFlowTensor =>
      execute('ConcatV2', PAIR, left, right, tensors.constant([axis], [], int32));
    const A = inverseOfLower(block(0, 0, first, first));
    const C = inverseOfLower(block(first, first, rest, rest));
    const X = execute('MatMul', PRODUCT, C, execute('MatMul', PRODUCT, block(first, 0, rest, first), A));
    const above = execute('Pad', PAD, A, tensors.constant([0, 0, 0, rest], [2, 2], int32));
    return join(0, above, join(1, execute('Neg', FLOAT64, X), C));
  };

  const product = matrixProduct(tensors);
  return {
    gram: (matrix, transposeLeft) => product(matrix, matrix, { transposeLeft, transposeRight: !transposeLeft }),
    product,
    cholesky: (matrix) => {
      orderOf(matrix);
      return composed(() => {
        const L = execute('Cholesky', FLOAT64, double(own(matrix)));
        return orNaN(isFactor(L), single(L));
      });
    },
    choleskySolve: (factor, rightHandSide) => {
      const n = orderOf(factor);
      return composed(() => {
        const L = double(own(factor));
        const exists = isFactor(L);
        const safe = solvable(L, exists);
        const y = execute('MatrixTriangularSolve', LOWER, safe, reshaped(double(own(rightHandSide)), [n, 1]));
        const x = execute('MatrixTriangularSolve', LOWER_TRANSPOSED, safe, y);
        return orNaN(exists, single(reshaped(x, [n])));
      });
    },
    inverseCholesky: (matrix) => {
      orderOf(matrix);
      return composed(() => {
        const L = execute('Cholesky', FLOAT64, double(own(matrix)));
        const exists = isFactor(L);
        return orNaN(exists, single(inverseOfLower(solvable(L, exists))));
      });
    },
    eigenSymmetric: (matrix) => {
      orderOf(matrix);
      return tensors.scope(
        () => {
          const exists = finite(own(matrix));
          // TensorFlow throws where the decomposition fails, as it may on what is not finite.
          const safe = execute('SelectV2', FLOAT32, exists, own(matrix), number(0));
          const decomposition = tensors.executeAll('SelfAdjointEigV2', EIGEN, [double(safe)], 2);
          const [values, vectors] = decomposition.map((part) => made(orNaN(exists, single(part))));
          if (values === undefined || vectors === undefined) throw new Error('SelfAdjointEigV2 has two results');
          return { values, vectors };
        },
        ({ values, vectors }) => [own(values), own(vectors)],
      );
    },
  };
}
