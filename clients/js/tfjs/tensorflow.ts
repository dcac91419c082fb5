/** TensorFlow.js as the caller hands it over: this adapter imports nothing of it but types. */
import type * as core from '@tensorflow/tfjs-core';
import type { LayersModel } from '@tensorflow/tfjs-layers';

/** What the adapter calls, of `import * as tf from '@tensorflow/tfjs'`, `-node` or `-core`. */
export type TensorFlow = Pick<
  typeof core,
  | 'add'
  | 'concat'
  | 'conv2d'
  | 'dispose'
  | 'dropout'
  | 'elu'
  | 'eye'
  | 'gather'
  | 'grads'
  | 'keep'
  | 'logSoftmax'
  | 'matMul'
  | 'moments'
  | 'mul'
  | 'oneHot'
  | 'ones'
  | 'relu'
  | 'relu6'
  | 'reshape'
  | 'rsqrt'
  | 'selu'
  | 'sigmoid'
  | 'slice'
  | 'softplus'
  | 'square'
  | 'sub'
  | 'sum'
  | 'tanh'
  | 'tensor'
  | 'tidy'
  | 'valueAndGrads'
  | 'zeros'
>;

export type Tensor = core.Tensor;
export type { LayersModel };
/** A layer of such a model. */
export type Layer = LayersModel['layers'][number];
/** A layer's weight. */
export type Variable = Layer['weights'][number];
