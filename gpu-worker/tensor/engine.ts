/**
 * The seam to the tensor libraries. Everything above it computes with this interface alone; below it stand TensorFlow,
 * TensorFlow.js on WebAssembly, and a float64 reference.
 *
 * Matrices are row-major. Elementwise operations broadcast as in NumPy. No operation changes its arguments.
 */
import type { WindowGeometry } from '../../shared/convolution.ts';

declare const engineTensor: unique symbol;

/** A tensor on the engine's device. Opaque: only the engine that made it can read it. */
export interface Tensor {
  readonly shape: readonly number[];
  readonly [engineTensor]: true;
}

export type Operand = Tensor | number;

export interface Product {
  readonly transposeLeft?: boolean;
  readonly transposeRight?: boolean;
  /** The operand that is upper triangular before any transposition: an engine may pass over what lies below its diagonal. */
  readonly upperTriangular?: 'left' | 'right';
}

/** Best first. */
export const ENGINE_NAMES = ['tensorflow', 'wasm', 'reference'] as const;
export type EngineName = (typeof ENGINE_NAMES)[number];

export interface Engine {
  readonly name: EngineName;
  readonly precision: 'float32' | 'float64';

  /** Copies values to the device. */
  readonly tensor: (values: ArrayLike<number>, shape: readonly number[]) => Tensor;
  /** Copies a tensor's values back. Waits for the device. */
  readonly read: (tensor: Tensor) => Float32Array<ArrayBuffer> | Float64Array<ArrayBuffer>;

  readonly add: (left: Operand, right: Operand) => Tensor;
  readonly subtract: (left: Operand, right: Operand) => Tensor;
  readonly multiply: (left: Operand, right: Operand) => Tensor;
  readonly divide: (left: Operand, right: Operand) => Tensor;
  readonly minimum: (left: Operand, right: Operand) => Tensor;
  readonly maximum: (left: Operand, right: Operand) => Tensor;
  readonly sqrt: (tensor: Tensor) => Tensor;
  readonly square: (tensor: Tensor) => Tensor;

  /** left · right for matrices, or for two stacks [B, …, …] of them; the last two axes of either are transposed first. */
  readonly matMul: (left: Tensor, right: Tensor, product?: Product) => Tensor;
  /** Sum over one axis, which disappears. */
  readonly sum: (tensor: Tensor, axis: number) => Tensor;
  readonly reshape: (tensor: Tensor, shape: readonly number[]) => Tensor;
  /** [..., n] → [..., n + 1] with ones in the last column: the bias as one more input. */
  readonly appendOnes: (tensor: Tensor) => Tensor;
  /** The axes in another order. */
  readonly transpose: (tensor: Tensor, axes: readonly number[]) => Tensor;
  /** Elements [begin, begin + size) along one axis. */
  readonly slice: (tensor: Tensor, axis: number, begin: number, size: number) => Tensor;
  /** Every stride-th element from begin, `size` of them, along one axis. */
  readonly stride: (tensor: Tensor, axis: number, begin: number, size: number, stride: number) => Tensor;
  readonly concat: (tensors: readonly Tensor[], axis: number) => Tensor;
  /** Zeros added before and after along every axis. */
  readonly pad: (tensor: Tensor, paddings: readonly (readonly [number, number])[]) => Tensor;

  /** The elements of one axis in reverse order. */
  readonly reverse: (tensor: Tensor, axis: number) => Tensor;

  /** Images [B, H, W, C] under a kernel [kh, kw, C, c], which is not flipped: [B, oh, ow, c]. */
  readonly convolution: (images: Tensor, kernel: Tensor, window: WindowGeometry) => Tensor;
  /** The largest element in every window of images [B, H, W, C], channel by channel: [B, oh, ow, C]. Padding is never the largest. */
  readonly maxPool: (images: Tensor, window: WindowGeometry) => Tensor;
  /**
   * The adjoint of {@link maxPool} at these images: adds every element of a gradient [B, oh, ow, C] to where the largest element
   * of its window is, the first one of several.
   *
   * @param largest what `maxPool` made of the images
   */
  readonly maxPoolGradient: (images: Tensor, largest: Tensor, gradient: Tensor, window: WindowGeometry) => Tensor;

  readonly exp: (tensor: Tensor) => Tensor;
  readonly log: (tensor: Tensor) => Tensor;
  readonly tanh: (tensor: Tensor) => Tensor;
  /** 1 / (1 + e^−x), without overflow. */
  readonly sigmoid: (tensor: Tensor) => Tensor;
  /** log(1 + eˣ), without overflow. */
  readonly softplus: (tensor: Tensor) => Tensor;
  /** The error function, 2/√π ∫₀ˣ e^−t² dt. */
  readonly erf: (tensor: Tensor) => Tensor;
  /** 1 where an element is greater than 0, else 0. */
  readonly isPositive: (tensor: Tensor) => Tensor;
  /** Largest element along one axis, which disappears. */
  readonly largest: (tensor: Tensor, axis: number) => Tensor;

  /** The n×n identity matrix. */
  readonly identity: (n: number) => Tensor;
  /** The n×n matrix with the given n values on its diagonal. */
  readonly diagonal: (values: Tensor) => Tensor;
  /** The diagonal of a square matrix, [n]. */
  readonly diagonalOf: (matrix: Tensor) => Tensor;

  /** Lower Cholesky factor of a symmetric positive definite matrix; all NaN if the matrix is not. */
  readonly cholesky: (matrix: Tensor) => Tensor;
  /** x with L Lᵀ x = b, for L [n, n] and b [n]. */
  readonly choleskySolve: (factor: Tensor, rightHandSide: Tensor) => Tensor;
  /** L⁻¹ for the Cholesky factor L of a symmetric positive definite matrix, so that A⁻¹ = L⁻ᵀL⁻¹; all NaN if the matrix is not. */
  readonly inverseCholesky: (matrix: Tensor) => Tensor;
  /** Eigenvalues [n], ascending, and eigenvectors [n, n], one per column, of a symmetric matrix; all NaN if it is not finite. */
  readonly eigenSymmetric: (matrix: Tensor) => { readonly values: Tensor; readonly vectors: Tensor };
  /** 1 if no element of any of the tensors is NaN or infinite, else 0: a scalar. */
  readonly isFinite: (tensors: readonly Tensor[]) => Tensor;

  /**
   * Computes every tensor reachable from a value, together. An engine that computes at once has nothing to do; one that defers
   * computes here what would otherwise be computed piece by piece as it is read.
   */
  readonly evaluate: (value: unknown) => void;

  /** Runs a computation and frees every tensor it made, except those reachable from its result (objects, arrays, maps). */
  readonly scope: <Result>(compute: () => Result) => Result;
  /** Frees tensors; each may be named more than once. */
  readonly dispose: (tensors: Iterable<Tensor>) => void;
  /** Whether a value is a tensor of this engine. */
  readonly isTensor: (value: object) => value is Tensor;
  /** Tensors alive on the device: for accounting and leak checks. */
  readonly liveTensors: number;
}

/** Every tensor reachable from a value through objects, arrays and maps. */
export function tensorsIn(
  value: unknown,
  isTensor: (value: object) => value is Tensor,
  found = new Set<Tensor>(),
): Set<Tensor> {
  if (typeof value !== 'object' || value === null || ArrayBuffer.isView(value)) return found;
  if (isTensor(value)) found.add(value);
  else {
    const children: Iterable<unknown> = value instanceof Map ? value.values() : Object.values(value);
    for (const child of children) tensorsIn(child, isTensor, found);
  }
  return found;
}

/** Frees the tensors of a state that the next state does not share. */
export function disposeReplaced(engine: Engine, state: unknown, next: unknown): void {
  const kept = tensorsIn(next, engine.isTensor);
  engine.dispose([...tensorsIn(state, engine.isTensor)].filter((tensor) => !kept.has(tensor)));
}

/** Whether no element of any of the tensors is NaN or infinite. Waits for the device. */
export function allFinite(engine: Engine, tensors: readonly Tensor[]): boolean {
  return engine.scope(() => engine.read(engine.isFinite(tensors))[0] === 1);
}
