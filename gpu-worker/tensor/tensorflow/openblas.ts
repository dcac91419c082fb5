/**
 * Linear algebra of OpenBLAS, as operations that the binding brings to TensorFlow when `npm run native` built it
 * (kernels/linear_algebra.cc). All take and give float32; factorisations are computed in float64 and NaN throughout where there is
 * none.
 */
import type { Product, Tensor } from '../engine.ts';
import { DATA_TYPES, type TensorFlowBinding } from './binding.ts';
import { matrixProduct, type LinearAlgebra } from './linear-algebra.ts';
import { made, orderOf, own } from './tensor.ts';
import type { TensorFlowTensors } from './tensors.ts';

const OPERATIONS = {
  gramOfRows: 'DdpnoptGramOfRows',
  gramOfColumns: 'DdpnoptGramOfColumns',
  cholesky: 'DdpnoptCholesky',
  choleskySolve: 'DdpnoptCholeskySolve',
  inverseCholesky: 'DdpnoptInverseCholesky',
  eigenSymmetric: 'DdpnoptEigenSymmetric',
  timesUpper: 'DdpnoptTimesUpper',
  timesUpperTransposed: 'DdpnoptTimesUpperTransposed',
  upperTimes: 'DdpnoptUpperTimes',
} as const;

/** Whether the binding has the operations, and tensors lie where they can be used: on the CPU. */
export function hasOpenblas(binding: TensorFlowBinding): boolean {
  if (binding.isUsingGpuDevice()) return false;
  const one = binding.createTensor([1, 1], DATA_TYPES.float32, Float32Array.of(1));
  try {
    for (const { id } of binding.executeOp(OPERATIONS.cholesky, [], [one], 1)) binding.deleteTensor(id);
    return true;
  } catch {
    // TensorFlow knows no operation of that name: the binding is npm's.
    return false;
  } finally {
    binding.deleteTensor(one);
  }
}

/** The operation for a product with a triangular matrix; null where there is none. */
function triangularProduct({ transposeLeft = false, transposeRight = false, upperTriangular }: Product): string | null {
  if (transposeLeft) return null;
  if (upperTriangular === 'right') return transposeRight ? OPERATIONS.timesUpperTransposed : OPERATIONS.timesUpper;
  return upperTriangular === 'left' && !transposeRight ? OPERATIONS.upperTimes : null;
}

export function openblas(tensors: TensorFlowTensors): LinearAlgebra {
  const ofMatrix = (operation: string) => (matrix: Tensor) => {
    orderOf(matrix);
    return made(tensors.execute(operation, [], own(matrix)));
  };
  const general = matrixProduct(tensors);
  return {
    product: (left, right, product) => {
      const operation = triangularProduct(product);
      return operation === null
        ? general(left, right, product)
        : made(tensors.execute(operation, [], own(left), own(right)));
    },
    gram: (matrix, transposeLeft) =>
      made(tensors.execute(transposeLeft ? OPERATIONS.gramOfColumns : OPERATIONS.gramOfRows, [], own(matrix))),
    cholesky: ofMatrix(OPERATIONS.cholesky),
    inverseCholesky: ofMatrix(OPERATIONS.inverseCholesky),
    choleskySolve: (factor, rightHandSide) => {
      orderOf(factor);
      return made(tensors.execute(OPERATIONS.choleskySolve, [], own(factor), own(rightHandSide)));
    },
    eigenSymmetric: (matrix) => {
      orderOf(matrix);
      const [values, vectors] = tensors.executeAll(OPERATIONS.eigenSymmetric, [], [own(matrix)], 2);
      if (values === undefined || vectors === undefined) throw new Error('a decomposition has two results');
      return { values: made(values), vectors: made(vectors) };
    },
  };
}
