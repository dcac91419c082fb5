/** Scalars of a computation: numbers, or tensors where they come of what is being computed, so that nothing waits for them. */
import type { Engine, Tensor } from './engine.ts';

/** A number, or a tensor of shape []. */
export type Scalar = number | Tensor;

export function scalarProduct(engine: Engine, left: Scalar, right: Scalar): Scalar {
  return typeof left === 'number' && typeof right === 'number' ? left * right : engine.multiply(left, right);
}

export function scalarTensor(engine: Engine, scalar: Scalar): Tensor {
  return typeof scalar === 'number' ? engine.tensor([scalar], []) : scalar;
}

/** Waits for the device if it is a tensor. */
export function readScalar(engine: Engine, scalar: Scalar): number {
  return typeof scalar === 'number' ? scalar : (engine.read(scalar)[0] ?? Number.NaN);
}
