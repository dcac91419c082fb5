/**
 * A hosted model's weights as a PyTorch state_dict in a safetensors file: `<layer>.weight`, `.bias`, `.running_mean`, `.running_var`.
 *
 * PyTorch keeps [outputs, inputs] and, for convolutions, [outputs, inputs, rows, columns], and takes images as [channels, height,
 * width]: so what is behind a flattened image has its inputs in another order there.
 */
import { at } from '../../../shared/at.ts';
import type { Model } from '../../../shared/model.ts';
import { placeLayers, type Placed, type PlacedLayer, type Shape } from '../../../shared/model-shapes.ts';
import { elementCount } from '../../../shared/shape.ts';
import { encode, type NamedTensor } from '../../../shared/safetensors.ts';
import { InterchangeError, weightOf, type TrainedWeights } from './weights.ts';

/** For each feature in PyTorch's order its place in the service's; null where both are the same. */
type Order = readonly number[] | null;

/**
 * The state_dict of a module whose submodules have the layers' names.
 *
 * @returns a safetensors file
 * @throws InterchangeError for a residual block that flattens an image in one branch; RangeError if a weight is missing
 */
export function toPyTorch({ input, layers }: Model, weights: TrainedWeights): Uint8Array<ArrayBuffer> {
  const tensors: NamedTensor[] = [];
  let order: Order = null;
  for (const placed of placeLayers(input, layers)) order = take(placed, order, weights, tensors);
  return encode(tensors, { format: 'pt' });
}

function take(placed: Placed, order: Order, weights: TrainedWeights, tensors: NamedTensor[]): Order {
  if (placed.kind === 'layer') return takeLayer(placed, order, weights, tensors);
  const [branch, shortcut] = [placed.layers, placed.shortcut].map((layers) =>
    layers.reduce<Order>((before, layer) => takeLayer(layer, before, weights, tensors), order),
  );
  if (branch?.join() === shortcut?.join()) return branch ?? null;
  throw new InterchangeError('a residual block flattens an image in one of its branches alone; PyTorch would add features that do not belong together'); // prettier-ignore
}

function takeLayer(
  { layer, input }: PlacedLayer,
  order: Order,
  weights: TrainedWeights,
  tensors: NamedTensor[],
): Order {
  const put = (name: string, shape: readonly number[], values: Float32Array): void => {
    tensors.push({ name, shape, values });
  };
  switch (layer.kind) {
    case 'flatten':
      return order ?? (input.length === 3 ? channelsFirst(input) : null);
    case 'dense': {
      const { shape, values } = weightOf(weights, layer.name, 'weight');
      const [inputs = 0, outputs = 0] = shape;
      const transposed = Float32Array.from(values, (_, index) => {
        const column = index % inputs;
        return at(values, (order?.[column] ?? column) * outputs + Math.floor(index / inputs));
      });
      put(`${layer.name}.weight`, [outputs, inputs], transposed);
      if (layer.bias) putVector('bias', 'bias', null);
      return null;
    }
    case 'conv2d': {
      const { shape, values } = weightOf(weights, layer.name, 'weight');
      const [rows = 0, columns = 0, inputs = 0, outputs = 0] = shape;
      const area = rows * columns;
      const transposed = Float32Array.from(values, (_, index) => {
        const position = index % area;
        const channel = Math.floor(index / area) % inputs;
        const output = Math.floor(index / (area * inputs));
        return at(values, (position * inputs + channel) * outputs + output);
      });
      put(`${layer.name}.weight`, [outputs, inputs, rows, columns], transposed);
      if (layer.bias) putVector('bias', 'bias', null);
      return null;
    }
    case 'layer-norm':
    case 'batch-norm':
      if (layer.affine) {
        putVector('scale', 'weight', order);
        putVector('shift', 'bias', order);
      }
      if (layer.kind === 'batch-norm') {
        putVector('running_mean', 'running_mean', order);
        putVector('running_variance', 'running_var', order);
      }
      return order;
    default:
      return order;
  }

  function putVector(service: string, pytorch: string, places: Order): void {
    if (!('name' in layer)) return;
    const { shape, values } = weightOf(weights, layer.name, service);
    put(`${layer.name}.${pytorch}`, shape, Float32Array.from(values, (value, index) => (places === null ? value : at(values, at(places, index))))); // prettier-ignore
  }
}

/** For an image flattened as [channels, height, width]: where its features are in [height, width, channels]. */
function channelsFirst(shape: Shape): number[] {
  const [height = 0, width = 0, channels = 0] = shape;
  return Array.from({ length: elementCount(shape) }, (_, index) => {
    const area = height * width;
    return (index % area) * channels + Math.floor(index / area);
  });
}
