/** Tensors whose values are computed when somebody asks for them. */
import type { Operand, Tensor } from '../engine.ts';
import type { Shape } from './shapes.ts';

/** A recorded operation of the seam. */
export interface Operation {
  /** Its name and everything that it does besides its operands: equal texts compute alike. */
  readonly text: string;
  readonly operands: readonly (DeferredTensor | number)[];
  /** Whether its result is its operand, in value and shape. */
  readonly isIdentity: boolean;
  /** Computes it at once. */
  readonly perform: (operands: readonly Operand[]) => readonly Tensor[];
}

export type Source =
  /** One of the results of an operation that has not been computed. */
  | { readonly kind: 'pending'; readonly operation: Operation; readonly result: number }
  /** Values on the host, not yet on the device. */
  | { readonly kind: 'host'; readonly values: ArrayLike<number> }
  | { readonly kind: 'device'; readonly tensor: Tensor }
  | { readonly kind: 'freed' };

export class DeferredTensor {
  readonly shape: Shape;
  source: Source;
  /** Whether nobody holds it any more; pending operations may still need it until the outermost scope ends. */
  isReleased = false;

  constructor(shape: Shape, source: Source) {
    this.shape = shape;
    this.source = source;
  }
}
