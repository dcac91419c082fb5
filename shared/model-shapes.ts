/** How shapes propagate through a hosted model. A shape is that of one sample: [n], [S, n] or [height, width, channels]. */
import { elementCount } from './shape.ts';
import { convolutionGeometry, type AxisGeometry } from './convolution.ts';
import { LIMITS } from './limits.ts';
import type { ModelLayer, PoolingLayer, Residual } from './model-layer.ts';

export type Shape = readonly number[];

export interface PlacedLayer {
  readonly kind: 'layer';
  readonly layer: ModelLayer;
  readonly input: Shape;
  readonly output: Shape;
}

export interface PlacedResidual {
  readonly kind: 'residual';
  readonly layers: readonly PlacedLayer[];
  readonly shortcut: readonly PlacedLayer[];
  readonly output: Shape;
}

export type Placed = PlacedLayer | PlacedResidual;

/** A layer that its input does not fit. */
export class ShapeError extends Error {
  override readonly name = 'ShapeError';
  readonly path: readonly (string | number)[];

  constructor(path: readonly (string | number)[], message: string) {
    super(message);
    this.path = path;
  }
}

/**
 * Every layer with its shapes.
 *
 * @throws ShapeError naming the first layer that does not fit, by its path in the list
 */
export function placeLayers(input: Shape, layers: readonly (ModelLayer | Residual)[]): Placed[] {
  let shape = input;
  return layers.map((layer, index): Placed => {
    const placed = layer.kind === 'residual' ? placeResidual(layer, shape, index) : placeLayer(layer, shape, [index]);
    shape = placed.output;
    return placed;
  });
}

function placeResidual(residual: Residual, input: Shape, index: number): PlacedResidual {
  const branch = (key: 'layers' | 'shortcut'): { placed: PlacedLayer[]; output: Shape } => {
    let shape = input;
    const placed = residual[key].map((layer, inner): PlacedLayer => {
      const at = placeLayer(layer, shape, [index, key, inner]);
      shape = at.output;
      return at;
    });
    return { placed, output: shape };
  };
  const layers = branch('layers');
  const shortcut = branch('shortcut');
  if (layers.output.join() !== shortcut.output.join()) {
    const message = `its layers end with ${show(layers.output)}, its shortcut with ${show(shortcut.output)}; they cannot be added`;
    throw new ShapeError([index], message);
  }
  return { kind: 'residual', layers: layers.placed, shortcut: shortcut.placed, output: layers.output };
}

function placeLayer(layer: ModelLayer, input: Shape, path: readonly (string | number)[]): PlacedLayer {
  const refuse = (reason: string): never => {
    const named = 'name' in layer ? `${layer.kind} ${layer.name}` : layer.kind;
    throw new ShapeError(path, `${named} does not take an input of shape ${show(input)}: ${reason}`);
  };
  return { kind: 'layer', layer, input, output: outputShape(layer, input, refuse) };
}

function outputShape(layer: ModelLayer, input: Shape, refuse: (reason: string) => never): Shape {
  switch (layer.kind) {
    case 'dense': {
      const features = input.at(-1) ?? 0;
      if (input.length > 2) return refuse('it takes [n] or [S, n]; flatten it first');
      if (features > LIMITS.features) return refuse(`at most ${String(LIMITS.features)} features`);
      return [...input.slice(0, -1), layer.outputs];
    }
    case 'conv2d': {
      const [height, width, channels] = image(input, refuse);
      for (const [side, count] of [
        ['input', channels],
        ['output', layer.outputs],
      ] as const) {
        // prettier-ignore
        if (count % layer.groups === 0) continue;
        return refuse(`${String(layer.groups)} groups do not divide ${String(count)} ${side} channels`);
      }
      const { rows, columns } = convolutionGeometry({ height, width, ...layer });
      if (rows.outputs < 1 || columns.outputs < 1) return refuse('the kernel is larger than the padded input');
      return [rows.outputs, columns.outputs, layer.outputs];
    }
    case 'max-pooling':
    case 'average-pooling': {
      const [height, width, channels] = image(input, refuse);
      const { rows, columns } = poolingGeometry(layer, height, width);
      if (rows.outputs < 1 || columns.outputs < 1) return refuse('the window is larger than the padded input');
      for (const { kernel, padding } of [rows, columns]) {
        if (Math.max(...padding) >= kernel) return refuse('a window may not lie in the padding alone');
      }
      return [rows.outputs, columns.outputs, channels];
    }
    case 'flatten':
      return [elementCount(input)];
    case 'relu':
    case 'tanh':
    case 'sigmoid':
    case 'gelu':
    case 'softplus':
    case 'layer-norm':
    case 'batch-norm':
    case 'dropout':
      return input;
  }
}

function image(input: Shape, refuse: (reason: string) => never): readonly [number, number, number] {
  const [height, width, channels] = input;
  if (input.length !== 3 || height === undefined || width === undefined || channels === undefined) {
    return refuse('it takes [height, width, channels]');
  }
  return [height, width, channels];
}

export function poolingGeometry(
  { window, strides, padding }: PoolingLayer,
  height: number,
  width: number,
): { readonly rows: AxisGeometry; readonly columns: AxisGeometry } {
  return convolutionGeometry({ height, width, kernel: window, strides: strides ?? window, dilations: [1, 1], padding });
}

export function show(shape: Shape): string {
  return `[${shape.join(', ')}]`;
}
