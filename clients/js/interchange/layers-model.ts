/**
 * A hosted model as a TensorFlow.js layers model, which Keras reads as well: a topology of Keras layers, and one file of weights.
 * https://github.com/tensorflow/tfjs/blob/master/tfjs-layers/README.md
 */
import type { Model } from '../../../shared/model.ts';
import type { ModelLayer, Residual } from '../../../shared/model-layer.ts';
import { InterchangeError, weightOf, type TrainedWeights } from './weights.ts';

/** What lies in the weights' bytes, one after the other, as little-endian float32. */
export interface WeightSpecification {
  readonly name: string;
  readonly shape: number[];
  readonly dtype: 'float32';
}

/** The contents of `model.json`. */
export interface LayersModelJson {
  readonly format: 'layers-model';
  readonly generatedBy: 'ddpnopt';
  readonly convertedBy: null;
  readonly modelTopology: {
    /** Where Keras 3 looks for the class; TensorFlow.js passes over it. */
    readonly module: 'keras';
    readonly class_name: 'Model';
    readonly config: object;
    readonly keras_version: '2.15.0';
    readonly backend: 'tensorflow';
  };
  readonly weightsManifest: readonly [{ readonly paths: ['weights.bin']; readonly weights: WeightSpecification[] }];
}

export interface LayersModelFiles {
  readonly json: LayersModelJson;
  /** The contents of `weights.bin`. */
  readonly weights: Uint8Array<ArrayBuffer>;
}

interface KerasLayer {
  readonly className: string;
  readonly config: Readonly<Record<string, unknown>>;
  /** The layer's weights in Keras's order: its name there, and the service's. */
  readonly weights: readonly (readonly [keras: string, service: string])[];
}

/**
 * The model of a hosted session with its weights. It answers what `predict` answers: of softmax-cross-entropy the numbers before the
 * softmax.
 *
 * @throws InterchangeError for grouped convolutions and explicitly padded pooling, which TensorFlow.js has not; RangeError if a weight
 *   is missing
 */
export function toLayersModel({ input, layers }: Model, weights: TrainedWeights): LayersModelFiles {
  const topology: object[] = [];
  const specifications: WeightSpecification[] = [];
  const data: Float32Array[] = [];
  let unnamed = 0;

  function add({ className, config, weights: named }: KerasLayer, name: string, inbound: readonly string[]): string {
    const inboundNodes = inbound.length === 0 ? [] : [inbound.map((from) => [from, 0, 0, {}])];
    topology.push({ class_name: className, name, config: { name, ...config }, inbound_nodes: inboundNodes });
    for (const [keras, service] of named) {
      const { shape, values } = weightOf(weights, name, service);
      specifications.push({ name: `${name}/${keras}`, shape, dtype: 'float32' });
      data.push(values);
    }
    return name;
  }

  function addLayers(list: readonly (ModelLayer | Residual)[], from: string): string {
    let last = from;
    for (const layer of list) {
      if (layer.kind === 'residual') {
        const branches = [addLayers(layer.layers, last), addLayers(layer.shortcut, last)];
        last = add({ className: 'Add', config: {}, weights: [] }, `residual_${String(++unnamed)}`, branches);
        continue;
      }
      if (layer.kind === 'conv2d' && layer.padding.kind === 'explicit') {
        const { rows, columns } = layer.padding;
        const config = { padding: [[...rows], [...columns]], data_format: 'channels_last' };
        last = add({ className: 'ZeroPadding2D', config, weights: [] }, `${layer.name}_padding`, [last]);
      }
      const name = 'name' in layer ? layer.name : `${layer.kind.replaceAll('-', '_')}_${String(++unnamed)}`;
      last = add(kerasLayer(layer, name), name, [last]);
    }
    return last;
  }

  const first = add(
    {
      className: 'InputLayer',
      config: { batch_input_shape: [null, ...input], dtype: 'float32', sparse: false },
      weights: [],
    },
    'input',
    [],
  );
  const last = addLayers(layers, first);
  const config = { name: 'ddpnopt', layers: topology, input_layers: [[first, 0, 0]], output_layers: [[last, 0, 0]] };
  return {
    json: {
      format: 'layers-model',
      generatedBy: 'ddpnopt',
      convertedBy: null,
      modelTopology: { module: 'keras', class_name: 'Model', config, keras_version: '2.15.0', backend: 'tensorflow' },
      weightsManifest: [{ paths: ['weights.bin'], weights: specifications }],
    },
    weights: littleEndian(data),
  };
}

/** @throws InterchangeError */
function kerasLayer(layer: ModelLayer, name: string): KerasLayer {
  const format = { data_format: 'channels_last' };
  switch (layer.kind) {
    case 'dense': {
      const { outputs, bias } = layer;
      return {
        className: 'Dense',
        config: { units: outputs, activation: 'linear', use_bias: bias },
        weights: kernelAndBias(bias),
      };
    }
    case 'conv2d': {
      const { outputs, kernel, strides, dilations, padding, groups, bias } = layer;
      if (groups > 1)
        throw new InterchangeError(
          `layer ${name} is a convolution in ${String(groups)} groups, which TensorFlow.js has not`,
        );
      const config = {
        filters: outputs,
        kernel_size: [...kernel],
        strides: [...strides],
        dilation_rate: [...dilations],
        padding: padding.kind === 'explicit' ? 'valid' : padding.kind,
        activation: 'linear',
        use_bias: bias,
        ...format,
      };
      return { className: 'Conv2D', config, weights: kernelAndBias(bias) };
    }
    case 'max-pooling':
    case 'average-pooling': {
      const { window, strides, padding } = layer;
      if (padding.kind === 'explicit') throw new InterchangeError(`${layer.kind} ${name} is padded by numbers, which TensorFlow.js has not; use "same" or "valid"`); // prettier-ignore
      const className = layer.kind === 'max-pooling' ? 'MaxPooling2D' : 'AveragePooling2D';
      return {
        className,
        config: { pool_size: [...window], strides: [...(strides ?? window)], padding: padding.kind, ...format },
        weights: [],
      };
    }
    case 'flatten':
      return { className: 'Flatten', config: format, weights: [] };
    case 'relu':
    case 'tanh':
    case 'sigmoid':
    case 'gelu':
    case 'softplus':
      return { className: 'Activation', config: { activation: layer.kind }, weights: [] };
    case 'dropout':
      return { className: 'Dropout', config: { rate: layer.rate }, weights: [] };
    case 'layer-norm': {
      const { epsilon, affine } = layer;
      return {
        className: 'LayerNormalization',
        config: { axis: -1, epsilon, center: affine, scale: affine },
        weights: affine ? SCALE_AND_SHIFT : [],
      };
    }
    case 'batch-norm': {
      const { epsilon, decay, affine } = layer;
      const statistics = [['moving_mean', 'running_mean'], ['moving_variance', 'running_variance']] as const; // prettier-ignore
      const config = { axis: -1, momentum: decay, epsilon, center: affine, scale: affine };
      return {
        className: 'BatchNormalization',
        config,
        weights: affine ? [...SCALE_AND_SHIFT, ...statistics] : statistics,
      };
    }
  }
}

const SCALE_AND_SHIFT = [['gamma', 'scale'], ['beta', 'shift']] as const; // prettier-ignore

function kernelAndBias(bias: boolean): KerasLayer['weights'] {
  return bias ? [['kernel', 'weight'], ['bias', 'bias']] : [['kernel', 'weight']]; // prettier-ignore
}

function littleEndian(tensors: readonly Float32Array[]): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(tensors.reduce((sum, { length }) => sum + 4 * length, 0));
  const view = new DataView(bytes.buffer);
  let offset = 0;
  for (const tensor of tensors) {
    for (const value of tensor) {
      view.setFloat32(offset, value, true);
      offset += 4;
    }
  }
  return bytes;
}
