/** The seam on TensorFlow.js: float32 on whichever backend is active. */
import * as tf from '@tensorflow/tfjs-core';
import { tensorsIn, type Engine, type EngineName, type Operand, type Tensor } from './engine.ts';
import { hostLinearAlgebra } from './host-linear-algebra.ts';

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

export function createTfjsEngine(name: EngineName): Engine {
  const transfer: Pick<Engine, 'tensor' | 'read'> = {
    tensor: (values, shape) =>
      made(tf.tensor(values instanceof Float32Array ? values : Float32Array.from(values), [...shape], 'float32')),
    read: (tensor) => Float32Array.from(own(tensor).dataSync()),
  };
  return {
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
    matMul: (left, right, { transposeLeft = false, transposeRight = false } = {}) =>
      made(tf.matMul(own(left), own(right), transposeLeft, transposeRight)),
    sum: (tensor, axis) => made(tf.sum(own(tensor), axis)),
    reshape: (tensor, shape) => made(tf.reshape(own(tensor), [...shape])),
    appendOnes: (matrix) => made(tf.pad(own<tf.Rank.R2>(matrix), [[0, 0], [0, 1]], 1)), // prettier-ignore
    rows: (matrix, begin, rows) => made(tf.slice(own<tf.Rank.R2>(matrix), [begin, 0], [rows, -1])),
    diagonal: (values) => {
      const n = own(values).size;
      return made(tf.mul(tf.eye(n), own(values)));
    },
    trace: (matrix) => {
      const [n] = own<tf.Rank.R2>(matrix).shape;
      return made(tf.sum(tf.mul(tf.eye(n), own(matrix))));
    },
    ...hostLinearAlgebra(transfer),
    allFinite: (tensors) =>
      tf.tidy(() => tensors.every((tensor) => Number.isFinite(tf.sum(tf.mul(own(tensor), 0)).dataSync()[0]))),
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
    get liveTensors() {
      return tf.memory().numTensors;
    },
  };
}
