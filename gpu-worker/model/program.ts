/**
 * A model as a program on a stack of tensors: the optimal-control problem's dynamics, written out.
 *
 * Each layer with parameters is one stage. The state x_t before a stage is the whole stack: the stage's input on top, and below it
 * whatever later operations still need, such as the input of a residual block. So the state holds everything that the rest of the
 * network depends on, and s_t, a sum over the stack, counts a change along every path.
 */
import type { Layer } from '../../shared/layer.ts';
import type { Initialization, MapModelLayer, ParametricModelLayer } from '../../shared/model-layer.ts';
import { placeLayers, type Placed, type PlacedLayer, type Shape } from '../../shared/model-shapes.ts';
import type { Model } from '../../shared/model.ts';

/** Layers with parameters that a model can hold. */
export type StageLayer = Extract<Layer, { kind: 'dense' | 'conv2d' | 'scale-shift' }>;

export interface StageOperation {
  readonly kind: 'stage';
  /** t. */
  readonly stage: number;
  readonly layer: StageLayer;
  readonly input: Shape;
  readonly output: Shape;
}

export interface BatchNormOperation {
  readonly kind: 'batch-norm';
  /** Its place among the model's batch norms. */
  readonly index: number;
  readonly epsilon: number;
  readonly decay: number;
  readonly channels: number;
}

export interface MapOperation {
  readonly kind: 'map';
  readonly layer: Exclude<MapModelLayer, { kind: 'batch-norm' }>;
  readonly output: Shape;
}

export type Operation =
  /** On the top of the stack. */
  | StageOperation
  | BatchNormOperation
  | MapOperation
  /** […, x] → […, x, x]. */
  | { readonly kind: 'fork' }
  /** […, x, y] → […, y, x]. */
  | { readonly kind: 'swap' }
  /** […, x, y] → […, x + y]. */
  | { readonly kind: 'add' };

export interface Stage {
  readonly layer: StageLayer;
  readonly initialization: Initialization;
}

export interface Program {
  /** Shape of one sample. */
  readonly input: Shape;
  /** C. */
  readonly outputs: number;
  readonly operations: readonly Operation[];
  /** In the order of the forward pass. */
  readonly stages: readonly Stage[];
  readonly batchNorms: readonly BatchNormOperation[];
}

export function compile(model: Model): Program {
  const placed = placeLayers(model.input, model.layers);
  const operations: Operation[] = [];
  const stages: Stage[] = [];
  const batchNorms: BatchNormOperation[] = [];

  function addStage(layer: StageLayer, initialization: Initialization, input: Shape, output: Shape): void {
    operations.push({ kind: 'stage', stage: stages.length, layer, input, output });
    stages.push({ layer, initialization });
  }

  function addLayer({ layer, input, output }: PlacedLayer): void {
    switch (layer.kind) {
      case 'dense':
      case 'conv2d':
        addStage(stageLayer(layer, input), layer.initialization, input, output);
        return;
      case 'batch-norm':
      case 'layer-norm': {
        const channels = output.at(-1) ?? 1;
        if (layer.kind === 'layer-norm') operations.push({ kind: 'map', layer, output });
        else {
          const { epsilon, decay } = layer;
          const operation = { kind: 'batch-norm', index: batchNorms.length, epsilon, decay, channels } as const;
          operations.push(operation);
          batchNorms.push(operation);
        }
        if (!layer.affine) return;
        const affine = { name: layer.name, kind: 'scale-shift', features: channels, shift: true } as const;
        addStage({ ...affine, sequence: output.length > 1 }, 'he-normal', output, output);
        return;
      }
      default:
        operations.push({ kind: 'map', layer, output });
    }
  }

  function addPlaced(item: Placed): void {
    if (item.kind === 'layer') {
      addLayer(item);
      return;
    }
    operations.push({ kind: 'fork' });
    item.layers.forEach(addLayer);
    if (item.shortcut.length > 0) operations.push({ kind: 'swap' });
    item.shortcut.forEach(addLayer);
    operations.push({ kind: 'add' });
  }

  placed.forEach(addPlaced);
  return { input: model.input, outputs: placed.at(-1)?.output[0] ?? 0, operations, stages, batchNorms };
}

/** The layer with the sizes that its input gives it. */
function stageLayer(layer: ParametricModelLayer, input: Shape): StageLayer {
  const inputs = input.at(-1) ?? 1;
  if (layer.kind === 'dense') {
    const { name, outputs, bias } = layer;
    return { kind: 'dense', name, inputs, outputs, bias, sequence: input.length > 1 };
  }
  const [height = 1, width = 1] = input;
  const { name, outputs, kernel, strides, dilations, padding, groups, bias } = layer;
  return { kind: 'conv2d', name, height, width, inputs, outputs, kernel, strides, dilations, padding, groups, bias };
}
