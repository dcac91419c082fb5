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
