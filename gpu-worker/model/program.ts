/**
 * A model as a program on a stack of tensors: the optimal-control problem's dynamics, written out.
 *
 * Each layer with parameters is one stage. The state x_t before a stage is the whole stack: the stage's input on top, and below it
 * whatever later operations still need, such as the input of a residual block. So the state holds everything that the rest of the
 * network depends on, and s_t, a sum over the stack, counts a change along every path.
 */
import type { MapModelLayer } from '../../shared/model-layer.ts';
import { placeLayers, type Placed, type PlacedLayer, type Shape } from '../../shared/model-shapes.ts';
import { stageOf, type Stage, type StageLayer } from '../../shared/model-stages.ts';
import type { Model } from '../../shared/model.ts';

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
  readonly name: string;
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

  function addLayer(placed: PlacedLayer): void {
    const { layer, output } = placed;
    if (layer.kind === 'batch-norm') {
      const { epsilon, decay } = layer;
      const channels = output.at(-1) ?? 1;
      const operation = {
        kind: 'batch-norm',
        index: batchNorms.length,
        name: layer.name,
        epsilon,
        decay,
        channels,
      } as const;
      operations.push(operation);
      batchNorms.push(operation);
    } else if (layer.kind !== 'dense' && layer.kind !== 'conv2d') {
      operations.push({ kind: 'map', layer, output });
    }
    const stage = stageOf(placed);
    if (stage === null) return;
    // A norm's scale and shift stand behind it.
    const input = stage.layer.kind === 'scale-shift' ? output : placed.input;
    operations.push({ kind: 'stage', stage: stages.length, layer: stage.layer, input, output });
    stages.push(stage);
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
