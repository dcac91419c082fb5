/** The stages of a hosted model: its layers with parameters, with the sizes that their inputs give them. */
import { elementCount } from './shape.ts';
import type { Layer } from './layer.ts';
import type { Initialization } from './model-layer.ts';
import type { Placed, PlacedLayer } from './model-shapes.ts';

/** Layers with parameters that a model can hold. */
export type StageLayer = Extract<Layer, { kind: 'dense' | 'conv2d' | 'scale-shift' }>;

export interface Stage {
  readonly layer: StageLayer;
  readonly initialization: Initialization;
  /** Positions at which a sample uses the parameters, where the layer has an axis of them; else 1. */
  readonly positions: number;
}

/** The layers of a model in the order of the forward pass, residual blocks unrolled. */
export function flattened(placed: readonly Placed[]): PlacedLayer[] {
  return placed.flatMap((item) => (item.kind === 'residual' ? [...item.layers, ...item.shortcut] : [item]));
}

/** The stage that a layer is, or that follows it as the scale and shift of a norm; null if it has no parameters. */
export function stageOf({ layer, input, output }: PlacedLayer): Stage | null {
  switch (layer.kind) {
    case 'dense': {
      const { kind, name, outputs, bias, initialization } = layer;
      const sequence = input.length > 1;
      const positions = sequence ? (input[0] ?? 1) : 1;
      return { layer: { kind, name, inputs: input.at(-1) ?? 1, outputs, bias, sequence }, initialization, positions };
    }
    case 'conv2d': {
      const [height = 1, width = 1, inputs = 1] = input;
      const { initialization, ...fields } = layer;
      return { layer: { ...fields, height, width, inputs }, initialization, positions: 1 };
    }
    case 'batch-norm':
    case 'layer-norm': {
      if (!layer.affine) return null;
      const features = output.at(-1) ?? 1;
      const sequence = output.length > 1;
      const positions = elementCount(output.slice(0, -1));
      return {
        layer: { name: layer.name, kind: 'scale-shift', features, shift: true, sequence },
        initialization: 'he-normal',
        positions,
      };
    }
    default:
      return null;
  }
}
