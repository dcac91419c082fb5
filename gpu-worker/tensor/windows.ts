/** Sliding windows over images [B, H, W, C], for convolutions and pooling, and their adjoint. */
import { elementCount } from '../../shared/shape.ts';
import type { AxisGeometry } from '../../shared/convolution.ts';
import type { Engine, Tensor } from './engine.ts';

export interface WindowGeometry {
  readonly rows: AxisGeometry;
  readonly columns: AxisGeometry;
}

/** Zeros around the images: [B, H, W, C] → [B, H', W', C]. */
export function padWindows(engine: Engine, { rows, columns }: WindowGeometry, images: Tensor): Tensor {
  return engine.pad(images, [[0, 0], rows.padding, columns.padding, [0, 0]]);
}

/** What each element of the window sees, row by row of the window: kh·kw tensors [B, oh, ow, C] from padded images. */
export function windowViews(engine: Engine, { rows, columns }: WindowGeometry, padded: Tensor): Tensor[] {
  const { stride } = engine;
  return positions(rows).flatMap((top) => {
    const along = stride(padded, 1, top, rows.outputs, rows.stride);
    return positions(columns).map((left) => stride(along, 2, left, columns.outputs, columns.stride));
  });
}

/** The adjoint of padding and {@link windowViews}: adds every view up where it was taken from, [B, H, W, C]. */
export function sumWindowViews(
  engine: Engine,
  { rows, columns }: WindowGeometry,
  views: readonly Tensor[],
  [height, width]: readonly [number, number],
): Tensor {
  const { add, slice } = engine;
  const paddedHeight = height + rows.padding[0] + rows.padding[1];
  const paddedWidth = width + columns.padding[0] + columns.padding[1];
  const places = positions(rows).flatMap((top) => positions(columns).map((left) => ({ top, left })));
  let sum: Tensor | null = null;
  for (const [index, view] of views.entries()) {
    const before: Tensor | null = sum;
    // Each view spread out is as large as the images: in a scope, no two are held.
    sum = engine.scope(() => {
      const { top = 0, left = 0 } = places[index] ?? {};
      const across = spread(engine, view, 2, left, columns.stride, paddedWidth);
      const placed = spread(engine, across, 1, top, rows.stride, paddedHeight);
      return before === null ? placed : add(before, placed);
    });
    if (before !== null) engine.dispose([before]);
  }
  if (sum === null) throw new RangeError('no views to add up');
  return slice(slice(sum, 1, rows.padding[0], height), 2, columns.padding[0], width);
}

/** Where in the window its elements lie along one axis. */
function positions({ kernel, dilation }: AxisGeometry): number[] {
  return Array.from({ length: kernel }, (_, index) => index * dilation);
}

/** Puts the elements of one axis at begin, begin + stride, … of an axis of zeros: the adjoint of `Engine.stride`. */
function spread(engine: Engine, tensor: Tensor, axis: number, begin: number, stride: number, length: number): Tensor {
  const { pad, reshape, slice } = engine;
  const size = tensor.shape[axis] ?? 1;
  const used = (size - 1) * stride + 1;
  let apart = tensor;
  if (stride > 1 && size > 1) {
    const outer = elementCount(tensor.shape.slice(0, axis));
    const inner = elementCount(tensor.shape.slice(axis + 1));
    const split = pad(reshape(tensor, [outer, size, 1, inner]), [[0, 0], [0, 0], [0, stride - 1], [0, 0]]); // prettier-ignore
    apart = slice(reshape(split, tensor.shape.with(axis, size * stride)), axis, 0, used);
  }
  const paddings = tensor.shape.map((_, index): [number, number] =>
    index === axis ? [begin, length - begin - used] : [0, 0],
  );
  return pad(apart, paddings);
}
