/** A TensorFlow.js layers model as a chain of layers that the service knows, maps without parameters among them. */
import * as z from 'zod';
import type { HostedDefinitionInput } from '../../../shared/hosted-definition.ts';
import { ACTIVATIONS, type ActivationName } from '../../../shared/model-layer.ts';
import type { Layer, LayersModel } from './tensorflow.ts';

export type HostedModelInput = HostedDefinitionInput['model'];
/** A layer of a declared model. */
export type DeclaredLayer = HostedModelInput['layers'][number];

/** The losses that the adapter computes; those of the service that need no more than the model's outputs and y. */
export type TfjsLoss = 'softmax-cross-entropy' | 'mse' | 'logistic';

/** The service's names of a layer's weights. */
export type WeightName = 'weight' | 'bias' | 'scale' | 'shift' | 'running_mean' | 'running_variance';

export interface ReadLayer {
  readonly layer: Layer;
  /** The layer's own name, and of its tensors. */
  readonly name: string;
  /** What the layer is without its activation. `map`: it has no parameters, or they are frozen. */
  readonly core:
    | { readonly kind: 'dense' }
    | { readonly kind: 'conv2d'; readonly strides: Pair; readonly dilations: Pair; readonly padding: 'same' | 'valid' }
    | { readonly kind: 'layer-norm'; readonly epsilon: number }
    | { readonly kind: 'batch-norm'; readonly epsilon: number; readonly momentum: number }
    | { readonly kind: 'dropout'; readonly rate: number }
    | { readonly kind: 'map' };
  /** Of the layer's weights, in their order; none of a map. */
  readonly weights: readonly WeightName[];
  /** By TensorFlow.js's name, where the layer has parameters. */
  readonly activation: string;
  /** What the service is told of it; null if it has no such layer. */
  readonly declared: readonly DeclaredLayer[] | null;
}

type Pair = readonly [number, number];

/** A layer that the adapter does not take; the message names it, and says what to do. */
export class UnsupportedLayerError extends Error {
  override readonly name = 'UnsupportedLayerError';
  /** Of the layer; null where the model as a whole is at fault. */
  readonly layer: string | null;

  constructor(layer: string | null, message: string) {
    super(message);
    this.layer = layer;
  }
}

const pair = z.tuple([z.number(), z.number()]);
const padding = z.enum(['same', 'valid']);
const common = { activation: z.string().default('linear'), useBias: z.boolean().default(true) };
const channelsLast = z.literal('channelsLast', 'only dataFormat "channelsLast" is taken').nullish();

const denseConfig = z.object({ ...common, units: z.number() });
const conv2dConfig = z.object({
  ...common,
  filters: z.number(),
  kernelSize: pair,
  strides: pair,
  dilationRate: z.union([pair, z.number().transform((rate): [number, number] => [rate, rate])]).default([1, 1]),
  padding,
  dataFormat: channelsLast,
});
const poolingConfig = z.object({ poolSize: pair, strides: pair, padding, dataFormat: channelsLast });
const dropoutConfig = z.object({
  rate: z.number(),
  noiseShape: z.null('only dropout feature by feature is taken').optional(),
});
const layerNormConfig = z.object({ epsilon: z.number(), center: z.boolean(), scale: z.boolean() });
const bothOn = z.literal(true, 'center and scale must both be on');
const batchNormConfig = z.object({ epsilon: z.number(), momentum: z.number(), center: bothOn, scale: bothOn });

/**
 * The layers of a model that is one chain, nested ones unrolled.
 *
 * An activation that the loss has in itself, a softmax before softmax-cross-entropy or a sigmoid before logistic, is left out at the
 * end: the service's losses take what comes before it.
 *
 * @throws UnsupportedLayerError naming the layer
 */
export function readModel(model: LayersModel, loss: TfjsLoss): ReadLayer[] {
  if (model.inputs.length !== 1 || model.outputs.length !== 1) {
    throw new UnsupportedLayerError(null, `the model has ${String(model.inputs.length)} inputs and ${String(model.outputs.length)} outputs; one of each is taken`); // prettier-ignore
  }
  const layers = chainOf(model).map(readLayer);
  const names = layers.map(({ name }) => name);
  const repeated = names.find((name, index) => names.indexOf(name) !== index);
  if (repeated !== undefined) {
    throw new UnsupportedLayerError(repeated, `two layers are named ${repeated} where the service can tell them; give every layer a name of its own`); // prettier-ignore
  }
  return withoutFinalActivation(layers, loss);
}

function chainOf(model: LayersModel): Layer[] {
  const layers = model.layers.filter((layer) => layer.getClassName() !== 'InputLayer');
  for (const [index, layer] of layers.entries()) {
    const [node, ...more] = layer.inboundNodes;
    const before = node?.inboundLayers ?? [];
    const previous = layers[index - 1];
    if (more.length > 0 || before.length > 1 || (previous !== undefined && before[0] !== previous)) {
      throw new UnsupportedLayerError(
        layer.name,
        `layer ${layer.name} (${layer.getClassName()}) is not the one successor of the layer before it: only chains of layers are taken. Declare branches as residual blocks of a hosted session yourself`,
      );
    }
  }
  return layers.flatMap((layer) => (isModel(layer) ? chainOf(layer) : [layer]));
}

function isModel(layer: Layer | LayersModel): layer is LayersModel {
  return 'layers' in layer;
}

function withoutFinalActivation(layers: readonly ReadLayer[], loss: TfjsLoss): ReadLayer[] {
  const own = { 'softmax-cross-entropy': 'softmax', logistic: 'sigmoid', mse: null }[loss];
  const last = layers.at(-1);
  if (own === null || last === undefined) return [...layers];
  if (last.core.kind === 'map' && activationOf(last.layer) === own) return layers.slice(0, -1);
  if (last.activation !== own) return [...layers];
  return [
    ...layers.slice(0, -1),
    { ...last, activation: 'linear', declared: last.declared?.slice(0, 1) ?? firstOf(last) },
  ];
}

/** What is declared of a layer whose activation cannot be, but is left out. */
function firstOf({ layer }: ReadLayer): readonly DeclaredLayer[] | null {
  return declare(layer, 'linear');
}

/** The activation that a layer without parameters is. */
function activationOf(layer: Layer): string | null {
  switch (layer.getClassName()) {
    case 'Softmax':
      return 'softmax';
    case 'Activation':
      return parse(layer, z.object({ activation: z.string() })).activation;
    default:
      return null;
  }
}

function readLayer(layer: Layer): ReadLayer {
  const name = tensorName(layer.name);
  refusePenalties(layer);
  const isFrozen = layer.weights.length > 0 && layer.trainableWeights.length === 0;
  const read = { layer, name, activation: 'linear' };
  if (isFrozen) return { ...read, core: { kind: 'map' }, weights: [], declared: null };
  switch (layer.getClassName()) {
    case 'Dense': {
      const { activation, useBias } = parse(layer, denseConfig);
      return {
        ...read,
        core: { kind: 'dense' },
        weights: parameters(useBias),
        activation,
        declared: declare(layer, activation),
      };
    }
    case 'Conv2D': {
      const { activation, useBias, strides, dilationRate, padding } = parse(layer, conv2dConfig);
      const core = { kind: 'conv2d', strides, dilations: dilationRate, padding } as const;
      return { ...read, core, weights: parameters(useBias), activation, declared: declare(layer, activation) };
    }
    case 'LayerNormalization': {
      const { epsilon, center, scale } = parse(layer, layerNormConfig);
      refuseOtherAxes(layer);
      if (!scale && !center) return { ...read, core: { kind: 'map' }, weights: [], declared: declare(layer, 'linear') };
      if (!scale) throw new UnsupportedLayerError(layer.name, `layer ${layer.name} (LayerNormalization) has a shift and no scale; give it both, or neither`); // prettier-ignore
      const weights: WeightName[] = center ? ['scale', 'shift'] : ['scale'];
      return {
        ...read,
        core: { kind: 'layer-norm', epsilon },
        weights,
        declared: center ? declare(layer, 'linear') : null,
      };
    }
    case 'BatchNormalization': {
      const { epsilon, momentum } = parse(layer, batchNormConfig);
      refuseOtherAxes(layer);
      const weights = ['scale', 'shift', 'running_mean', 'running_variance'] as const;
      return { ...read, core: { kind: 'batch-norm', epsilon, momentum }, weights, declared: declare(layer, 'linear') };
    }
    case 'Dropout': {
      const { rate } = parse(layer, dropoutConfig);
      return { ...read, core: { kind: 'dropout', rate }, weights: [], declared: [{ kind: 'dropout', rate }] };
    }
    case 'GaussianNoise':
    case 'GaussianDropout':
    case 'AlphaDropout':
    case 'SpatialDropout1D':
      throw new UnsupportedLayerError(layer.name, `layer ${layer.name} (${layer.getClassName()}) draws noise, and both passes of a step must see the same; use Dropout, or leave it out`); // prettier-ignore
    default:
      if (layer.weights.length > 0) {
        throw new UnsupportedLayerError(layer.name, `layer ${layer.name} (${layer.getClassName()}) has parameters that the adapter does not know; dense, conv2d, layerNormalization and batchNormalization are taken. Set its trainable to false to keep it as it is in mode "layers"`); // prettier-ignore
      }
      return { ...read, core: { kind: 'map' }, weights: [], declared: declare(layer, 'linear') };
  }
}

function parameters(useBias: boolean): WeightName[] {
  return useBias ? ['weight', 'bias'] : ['weight'];
}

/** What the service is told of a layer; null if it has no such layer. */
function declare(layer: Layer, activation: string): readonly DeclaredLayer[] | null {
  const name = tensorName(layer.name);
  const behind = declaredActivation(activation);
  if (behind === null) return null;
  switch (layer.getClassName()) {
    case 'Dense': {
      const { units, useBias } = parse(layer, denseConfig);
      return [{ kind: 'dense', name, outputs: units, bias: useBias }, ...behind];
    }
    case 'Conv2D': {
      const { filters, kernelSize, strides, dilationRate, padding, useBias } = parse(layer, conv2dConfig);
      const geometry = { kernel: kernelSize, strides, dilations: dilationRate, padding: { kind: padding } };
      return [{ kind: 'conv2d', name, outputs: filters, bias: useBias, ...geometry }, ...behind];
    }
    case 'LayerNormalization': {
      const { epsilon, scale } = parse(layer, layerNormConfig);
      return [{ kind: 'layer-norm', name, epsilon, affine: scale }];
    }
    case 'BatchNormalization': {
      const { epsilon, momentum } = parse(layer, batchNormConfig);
      return [{ kind: 'batch-norm', name, epsilon, decay: momentum }];
    }
    case 'MaxPooling2D':
    case 'AveragePooling2D': {
      const { poolSize, strides, padding } = parse(layer, poolingConfig);
      const kind = layer.getClassName() === 'MaxPooling2D' ? 'max-pooling' : 'average-pooling';
      return [{ kind, window: poolSize, strides, padding: { kind: padding } }];
    }
    case 'Flatten':
      return [{ kind: 'flatten' }];
    case 'ReLU':
      return parse(layer, z.object({ maxValue: z.number().nullish() })).maxValue == null ? [{ kind: 'relu' }] : null;
    case 'Activation':
      return declaredActivation(parse(layer, z.object({ activation: z.string() })).activation);
    default:
      return null;
  }
}

function declaredActivation(activation: string): readonly DeclaredLayer[] | null {
  if (activation === 'linear') return [];
  return isActivationName(activation) ? [{ kind: activation }] : null;
}

function isActivationName(text: string): text is ActivationName {
  return ACTIVATIONS.some((name) => name === text);
}

/** Names that a layer of the service may have; TensorFlow.js allows any. */
function tensorName(name: string): string {
  return name.replaceAll(/[^A-Za-z0-9_.-]/g, '_').replace(/^[.-]/, '_');
}

/** Penalties and constraints are an optimizer's business, and none of this one's. */
function refusePenalties(layer: Layer): void {
  if (layer.trainableWeights.length === 0) return;
  const penalty = Object.entries(layer.getConfig()).find(
    ([key, value]) => /(Regularizer|Constraint)$/.test(key) && value !== null,
  );
  if (penalty === undefined) return;
  throw new UnsupportedLayerError(layer.name, `layer ${layer.name} (${layer.getClassName()}) has a ${penalty[0]}, which would not be heard; leave it out, and use optimizer.weightDecay`); // prettier-ignore
}

function refuseOtherAxes(layer: Layer): void {
  const { axis } = parse(layer, z.object({ axis: z.union([z.number(), z.array(z.number())]) }));
  const [only, ...more] = typeof axis === 'number' ? [axis] : axis;
  const shape = layer.inboundNodes[0]?.inputShapes[0];
  if (more.length === 0 && (only === -1 || (Array.isArray(shape) && only === shape.length - 1))) return;
  throw new UnsupportedLayerError(layer.name, `layer ${layer.name} (${layer.getClassName()}) normalises along axis ${String(axis)}; only the last one is taken`); // prettier-ignore
}

function parse<Output>(layer: Layer, schema: z.ZodType<Output>): Output {
  const parsed = schema.safeParse(layer.getConfig());
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  throw new UnsupportedLayerError(
    layer.name,
    `layer ${layer.name} (${layer.getClassName()}) cannot be taken: ${issue === undefined ? 'its configuration is not known' : `${issue.path.join('.')}: ${issue.message}`}`,
  );
}
