import type { Tensor } from '../engine.ts';
import type { DataType, TensorDescription } from './binding.ts';

/** A tensor of TensorFlow. */
export class TensorFlowTensor {
  readonly shape: readonly number[];
  readonly type: DataType;
  /** The binding's number for it; null once it is freed. */
  id: number | null;

  constructor({ shape, dtype, id }: TensorDescription) {
    this.shape = shape;
    this.type = dtype;
    this.id = id;
  }
}

/** @throws Error if the tensor has been freed */
export function idOf({ id }: TensorFlowTensor): number {
  if (id === null) throw new Error('a tensor that has been freed');
  return id;
}

/** The engine's own tensor behind one of the seam. @throws TypeError if it is another engine's */
export function own(tensor: Tensor): TensorFlowTensor {
  if (!(tensor instanceof TensorFlowTensor)) throw new TypeError('a tensor of another engine');
  return tensor;
}

/** A tensor of the seam. */
export function made(tensor: TensorFlowTensor): Tensor {
  return tensor as unknown as Tensor;
}

/** n of a matrix [n, n]. @throws RangeError */
export function orderOf({ shape }: Tensor): number {
  const [rows, columns] = shape;
  if (rows === undefined || rows !== columns || shape.length !== 2) {
    throw new RangeError(`expected a square matrix, got [${shape.join(', ')}]`);
  }
  return rows;
}
