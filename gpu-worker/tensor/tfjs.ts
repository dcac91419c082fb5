/** The seam on TensorFlow.js: float32 on whichever backend is active. */
import * as tf from '@tensorflow/tfjs-core';
import type { AxisGeometry, WindowGeometry } from '../../shared/convolution.ts';
import { tensorsIn, type Engine, type EngineName, type Operand, type Tensor } from './engine.ts';
import { hostLinearAlgebra } from './host-linear-algebra.ts';
import { maxPoolGradient } from './windows.ts';

const isTensor = (value: object): value is Tensor => value instanceof tf.Tensor;

function own<Rank extends tf.Rank = tf.Rank>(tensor: Tensor): tf.Tensor<Rank> {
  if (!(tensor instanceof tf.Tensor)) throw new TypeError('a tensor of another engine');
  return tensor as tf.Tensor<Rank>;
}

function operand(value: Operand): tf.Tensor | number {
  return typeof value === 'number' ? value : own(value);
}

function made(tensor: tf.Tensor): Tensor {
  return tensor as unknown as Tensor;
}

/** [..., n, m] → [..., m, n]. */
function swapLastAxes(tensor: tf.Tensor): tf.Tensor {
  const axes = tensor.shape.map((_, axis) => axis);
  return tf.transpose(tensor, [...axes.slice(0, -2), axes.length - 1, axes.length - 2]);
}

/**
 * Inner dimension up to which a transposed copy is multiplied: many times faster on wasm than its kernel's own transposition, but
 * the fast kernel adds the terms one after the other in float32, and longer sums lose digits.
 */
const LONGEST_FAST_SUM = 2048;

function product(a: tf.Tensor, b: tf.Tensor, transposeA: boolean, transposeB: boolean): tf.Tensor {
  const inner = a.shape.at(transposeA ? -2 : -1) ?? 0;
  if (inner > LONGEST_FAST_SUM) return tf.matMul(a, b, transposeA, transposeB);
  return tf.tidy(() => tf.matMul(transposeA ? swapLastAxes(a) : a, transposeB ? swapLastAxes(b) : b));
}

function explicitPadding({ rows, columns }: WindowGeometry): tf.backend_util.ExplicitPadding {
  return [[0, 0], [...rows.padding], [...columns.padding], [0, 0]];
}

/** TensorFlow.js convolves with strides or with dilations: with both, at every place, of which some are taken. */
function convolution(images: tf.Tensor4D, kernel: tf.Tensor4D, window: WindowGeometry): tf.Tensor4D {
  const { rows, columns } = window;
  const dilations: [number, number] = [rows.dilation, columns.dilation];
  const strides: [number, number] = [rows.stride, columns.stride];
  const convolve = (along: [number, number]): tf.Tensor4D =>
    tf.conv2d(images, kernel, along, explicitPadding(window), 'NHWC', dilations);
  if (Math.max(...strides) === 1 || Math.max(...dilations) === 1) return convolve(strides);
  const all = convolve([1, 1]);
  const [batch, , , outputs] = all.shape;
  const end = ({ outputs: places, stride }: AxisGeometry): number => (places - 1) * stride + 1;
  return tf.stridedSlice(
    all,
    [0, 0, 0, 0],
    [batch, end(rows), end(columns), outputs],
    [1, ...strides, 1],
  ) as tf.Tensor4D;
}

export function createTfjsEngine(name: EngineName): Engine {
  const transfer: Pick<Engine, 'tensor' | 'read'> = {
    tensor: (values, shape) =>
      made(tf.tensor(values instanceof Float32Array ? values : Float32Array.from(values), [...shape], 'float32')),
    read: (tensor) => Float32Array.from(own(tensor).dataSync()),
  };
  const engine: Engine = {
    name,
    precision: 'float32',
    ...transfer,
    add: (left, right) => made(tf.add(operand(left), operand(right))),
    subtract: (left, right) => made(tf.sub(operand(left), operand(right))),
    multiply: (left, right) => made(tf.mul(operand(left), operand(right))),
    divide: (left, right) => made(tf.div(operand(left), operand(right))),
    minimum: (left, right) => made(tf.minimum(operand(left), operand(right))),
    maximum: (left, right) => made(tf.maximum(operand(left), operand(right))),
    sqrt: (tensor) => made(tf.sqrt(own(tensor))),
    square: (tensor) => made(tf.square(own(tensor))),
    matMul: (left, right, { transposeLeft = false, transposeRight = false } = {}) =>
      made(product(own(left), own(right), transposeLeft, transposeRight)),
    sum: (tensor, axis) => made(tf.sum(own(tensor), axis)),
    reshape: (tensor, shape) => made(tf.reshape(own(tensor), [...shape])),
    appendOnes: (tensor) => {
      const values = own(tensor);
      return made(tf.concat([values, tf.ones([...values.shape.slice(0, -1), 1])], -1));
    },
    transpose: (tensor, axes) => made(tf.transpose(own(tensor), [...axes])),
    slice: (tensor, axis, begin, size) => {
      const { shape } = tensor;
      const from = shape.map((_, index) => (index === axis ? begin : 0));
      return made(
        tf.slice(
          own(tensor),
          from,
          shape.map((length, index) => (index === axis ? size : length)),
        ),
      );
    },
    stride: (tensor, axis, begin, size, stride) => {
      const { shape } = tensor;
      const along = (value: number, other: (length: number) => number): number[] =>
        shape.map((length, index) => (index === axis ? value : other(length)));
      const end = along(begin + (size - 1) * stride + 1, (length) => length);
      return made(tf.stridedSlice(own(tensor), along(begin, () => 0), end, along(stride, () => 1))); // prettier-ignore
    },
    concat: (tensors, axis) => made(tf.concat(tensors.map((tensor) => own(tensor)), axis)), // prettier-ignore
    pad: (tensor, paddings) => made(tf.pad(own(tensor), paddings.map(([before, after]) => [before, after]))), // prettier-ignore
    reverse: (tensor, axis) => made(tf.reverse(own(tensor), axis)),
    convolution: (images, kernel, window) =>
      made(tf.tidy(() => convolution(own<tf.Rank.R4>(images), own<tf.Rank.R4>(kernel), window))),
    maxPool: (images, window) => {
      const { rows, columns } = window;
      const [size, strides] = [[rows.kernel, columns.kernel], [rows.stride, columns.stride]] as [[number, number], [number, number]]; // prettier-ignore
      return made(tf.maxPool(own<tf.Rank.R4>(images), size, strides, explicitPadding(window)));
    },
    // The backend's own gradient goes to the last of several largest elements.
    maxPoolGradient: (images, largest, gradient, window) => maxPoolGradient(engine, images, largest, gradient, window),
    exp: (tensor) => made(tf.exp(own(tensor))),
    log: (tensor) => made(tf.log(own(tensor))),
    tanh: (tensor) => made(tf.tanh(own(tensor))),
    sigmoid: (tensor) => made(tf.sigmoid(own(tensor))),
    softplus: (tensor) => made(tf.softplus(own(tensor))),
    erf: (tensor) => made(tf.erf(own(tensor))),
    isPositive: (tensor) => made(tf.cast(tf.greater(own(tensor), 0), 'float32')),
    largest: (tensor, axis) => made(tf.max(own(tensor), axis)),
    identity: (n) => made(tf.eye(n)),
    diagonal: (values) => {
      const n = own(values).size;
      return made(tf.mul(tf.eye(n), own(values)));
    },
    diagonalOf: (matrix) => {
      const [n] = own<tf.Rank.R2>(matrix).shape;
      return made(tf.sum(tf.mul(tf.eye(n), own(matrix)), 0));
    },
    ...hostLinearAlgebra(transfer),
    isFinite: (tensors) =>
      made(
        tf.tidy(() => {
          // 0 · x is NaN for what is not finite, and so is every sum that it enters.
          const zero = tensors.reduce<tf.Tensor>(
            (sum, x) => tf.tidy(() => tf.add(sum, tf.sum(tf.mul(own(x), 0)))),
            tf.scalar(0),
          );
          return tf.cast(tf.equal(zero, 0), 'float32');
        }),
      ),
    evaluate: () => undefined,
    scope: (compute) => {
      tf.engine().startScope();
      let kept: Set<Tensor> | undefined;
      try {
        const result = compute();
        kept = tensorsIn(result, isTensor);
        return result;
      } finally {
        tf.engine().endScope([...(kept ?? [])].map((tensor) => own(tensor)));
      }
    },
    dispose: (tensors) => {
      tf.dispose([...tensors].map((tensor) => own(tensor)));
    },
    isTensor,
    get liveTensors() {
      return tf.memory().numTensors;
    },
  };
  return engine;
}
