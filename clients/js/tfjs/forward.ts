/**
 * A layers model taken apart: what goes into each layer with parameters, its pre-activation, and what comes behind, in TensorFlow.js's
 * operations. Parameters are arguments, so that each can be tried before it is the model's.
 */
import { at } from '../../../shared/at.ts';
import { derivedSeed } from '../../../shared/random.ts';
import type { LayersDefinitionInput } from '../../../shared/layers-definition.ts';
import { UnsupportedLayerError, type ReadLayer, type TfjsLoss, type WeightName } from './read-model.ts';
import type { Layer, Tensor, TensorFlow, Variable } from './tensorflow.ts';

type TrainedWeight = Exclude<WeightName, 'running_mean' | 'running_variance'>;
type StageCore = Extract<ReadLayer['core'], { kind: 'dense' | 'conv2d' | 'layer-norm' | 'batch-norm' }>;

/** Activations within a layer with parameters, by TensorFlow.js's names. */
const STAGE_ACTIVATIONS = ['linear', 'relu', 'tanh', 'sigmoid', 'softplus', 'elu', 'selu', 'relu6', 'swish'] as const;

/** A layer with parameters that the client runs itself. */
export interface Stage extends ReadLayer {
  readonly core: StageCore;
  readonly activation: (typeof STAGE_ACTIVATIONS)[number];
  readonly weights: readonly TrainedWeight[];
  /** What the service is told of it in mode `layers`. */
  readonly definition: LayersDefinitionInput['layers'][number];
}

export type Link =
  { readonly kind: 'stage'; readonly stage: Stage } | { readonly kind: 'map'; readonly read: ReadLayer };

/** The model as links of a chain that can be run here. @throws UnsupportedLayerError naming the layer */
export function linksOf(layers: readonly ReadLayer[]): Link[] {
  return layers.map((read): Link => {
    const { core, layer } = read;
    switch (core.kind) {
      case 'map':
      case 'dropout':
        return { kind: 'map', read };
      case 'conv2d':
        if (Math.max(...core.dilations) > 1) {
          throw new UnsupportedLayerError(layer.name, `layer ${layer.name} (Conv2D) is dilated, and TensorFlow.js has no gradient of that; train in mode "hosted"`); // prettier-ignore
        }
        return stage(read, core);
      case 'dense':
      case 'layer-norm':
      case 'batch-norm':
        return stage(read, core);
    }
  });
}

function stage(read: ReadLayer, core: StageCore): Link {
  const { layer } = read;
  const weights = read.weights.filter(isParameter);
  const activation = STAGE_ACTIVATIONS.find((name) => name === read.activation);
  if (activation === undefined) {
    const known = STAGE_ACTIVATIONS.join(', ');
    throw new UnsupportedLayerError(layer.name, `layer ${layer.name} (${layer.getClassName()}) has the activation ${read.activation}; within a layer ${known} are taken. Put it into a layer of its own, tf.layers.activation`); // prettier-ignore
  }
  return { kind: 'stage', stage: { ...read, core, activation, weights, definition: definitionOf(read, core) } };
}

function isParameter(name: WeightName): name is TrainedWeight {
  return name !== 'running_mean' && name !== 'running_variance';
}

function definitionOf({ layer, name, weights }: ReadLayer, core: StageCore): Stage['definition'] {
  const input = layer.inboundNodes[0]?.inputShapes[0];
  const output = layer.inboundNodes[0]?.outputShapes[0];
  const [, ...shape] = Array.isArray(input) ? input : [];
  const size = (axis: number): number => {
    const found = shape.at(axis);
    if (typeof found === 'number') return found;
    throw new UnsupportedLayerError(layer.name, `layer ${layer.name} (${layer.getClassName()}) has an input of unknown shape; give the first layer of the model an inputShape`); // prettier-ignore
  };
  const outputs = Array.isArray(output) && typeof output.at(-1) === 'number' ? Number(output.at(-1)) : 0;
  switch (core.kind) {
    case 'dense':
      return {
        kind: 'dense',
        name,
        inputs: size(-1),
        outputs,
        bias: weights.includes('bias'),
        // Every axis between samples and features is one of positions.
        sequence: shape.length > 1,
      };
    case 'conv2d': {
      const [rows = 1, columns = 1] = layer.weights[0]?.shape ?? [];
      return {
        kind: 'conv2d',
        name,
        height: size(0),
        width: size(1),
        inputs: size(2),
        outputs,
        kernel: [rows ?? 1, columns ?? 1],
        strides: [...core.strides],
        padding: { kind: core.padding },
        bias: weights.includes('bias'),
      };
    }
    case 'layer-norm':
    case 'batch-norm':
      return {
        kind: 'scale-shift',
        name,
        features: size(-1),
        shift: weights.includes('shift'),
        sequence: shape.length > 1,
      };
  }
}

/** Mean and variance of every channel, [C] each. */
export interface ChannelStatistics {
  readonly mean: Tensor;
  readonly variance: Tensor;
}

/** Over samples and positions of [B, …, C]. */
export function channelStatistics(tf: TensorFlow, x: Tensor): ChannelStatistics {
  const axes = x.shape.slice(0, -1).map((_, axis) => axis);
  return tf.moments(x, axes);
}

/**
 * What the layer's parameters meet: its input, or of a norm the normalised input.
 *
 * @param isTraining whether batch normalisation goes by the batch's own statistics, which ties its samples together; else by the running ones
 */
export function stageInput(tf: TensorFlow, { core, layer }: Stage, x: Tensor, isTraining: boolean): Tensor {
  switch (core.kind) {
    case 'dense':
    case 'conv2d':
      return x;
    case 'layer-norm':
      return normalised(tf, x, tf.moments(x, -1, true), core.epsilon);
    case 'batch-norm':
      return normalised(tf, x, isTraining ? channelStatistics(tf, x) : runningStatistics(layer), core.epsilon);
  }
}

function normalised(tf: TensorFlow, x: Tensor, { mean, variance }: ChannelStatistics, epsilon: number): Tensor {
  return tf.mul(tf.sub(x, mean), tf.rsqrt(tf.add(variance, epsilon)));
}

/** In a layer's weights they stand behind scale and shift. */
function runningVariables(layer: Layer): [mean: Variable, variance: Variable] {
  return [at(layer.weights, 2), at(layer.weights, 3)];
}

function runningStatistics(layer: Layer): ChannelStatistics {
  const [mean, variance] = runningVariables(layer);
  return { mean: mean.read(), variance: variance.read() };
}

/** Moves a batch normalisation's running statistics towards a batch's, as the layer itself does when it trains. */
export function averageStatistics(
  tf: TensorFlow,
  { layer }: Stage,
  { mean, variance }: ChannelStatistics,
  momentum: number,
): void {
  const [runningMean, runningVariance] = runningVariables(layer);
  const towards = (running: Variable, observed: Tensor): void => {
    tf.tidy(() => {
      const average = running.read();
      running.write(tf.add(average, tf.mul(tf.sub(observed, average), 1 - momentum)));
    });
  };
  towards(runningMean, mean);
  towards(runningVariance, variance);
}

/** [B, …, c] of the stage's input and its parameters, in the order of the layer's weights. */
export function preActivation(tf: TensorFlow, { core }: Stage, input: Tensor, parameters: readonly Tensor[]): Tensor {
  const [first, second] = parameters;
  if (first === undefined) throw new RangeError('a stage without parameters');
  const behind = (product: Tensor): Tensor => (second === undefined ? product : tf.add(product, second));
  switch (core.kind) {
    case 'dense': {
      const rows = tf.reshape(input, [-1, input.shape.at(-1) ?? 1]);
      const product = tf.matMul(rows, first);
      return behind(tf.reshape(product, [...input.shape.slice(0, -1), product.shape.at(-1) ?? 1]));
    }
    case 'conv2d': {
      const [rows, columns] = core.strides;
      // The ranks are those that the layer itself has been built with.
      return behind(tf.conv2d(input as Parameters<TensorFlow['conv2d']>[0], first as Parameters<TensorFlow['conv2d']>[1], [rows, columns], core.padding)); // prettier-ignore
    }
    case 'layer-norm':
    case 'batch-norm':
      return behind(tf.mul(input, first));
  }
}

export function activate(tf: TensorFlow, { activation }: Stage, x: Tensor): Tensor {
  switch (activation) {
    case 'linear':
      return x;
    case 'swish':
      return tf.mul(x, tf.sigmoid(x));
    default:
      return tf[activation](x);
  }
}

/** A layer without parameters. @param seed of the pass: a dropout drops the same features whenever it is the same; null drops none */
export function applyMap(
  tf: TensorFlow,
  { core, layer }: ReadLayer,
  x: Tensor,
  position: number,
  seed: number | null,
): Tensor {
  if (core.kind !== 'dropout') return single(layer.apply(x));
  return seed === null ? x : tf.dropout(x, core.rate, undefined, derivedSeed(seed, position));
}

function single(output: unknown): Tensor {
  if (Array.isArray(output)) throw new TypeError('a layer with more than one output');
  return output as Tensor;
}

/** φ of each sample, [B]. @param y classes one-hot, or targets, [B, C] */
export function sampleLosses(tf: TensorFlow, loss: TfjsLoss, outputs: Tensor, y: Tensor): Tensor {
  switch (loss) {
    case 'softmax-cross-entropy':
      return tf.mul(tf.sum(tf.mul(y, tf.logSoftmax(outputs)), -1), -1);
    case 'mse':
      return tf.mul(tf.sum(tf.square(tf.sub(outputs, y)), -1), 0.5);
    case 'logistic':
      return tf.sum(tf.sub(tf.softplus(outputs), tf.mul(y, outputs)), -1);
  }
}
