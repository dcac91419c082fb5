/** Sliding windows over images [B, H, W, C], for convolutions and pooling, and their adjoint. */
import { elementCount } from '../../shared/shape.ts';
import type { AxisGeometry, WindowGeometry } from '../../shared/convolution.ts';
import type { Engine, Tensor } from './engine.ts';

/** Zeros around the images: [B, H, W, C] → [B, H', W', C]. */
export function padWindows(engine: Engine, { rows, columns }: WindowGeometry, images: Tensor): Tensor {
  return engine.pad(images, [[0, 0], rows.padding, columns.padding, [0, 0]]);
}

/** What each element of the window sees, row by row of the window: kh·kw tensors [B, oh, ow, C] from padded images. */
export function windowViews(engine: Engine, { rows, columns }: WindowGeometry, padded: Tensor): Tensor[] {
  return axisViews(engine, 1, rows, padded).flatMap((along) => axisViews(engine, 2, columns, along));
}

/** What each element of a row of the window sees: kw tensors [B, H', ow, C] from padded images. */
export function columnViews(engine: Engine, columns: AxisGeometry, padded: Tensor): Tensor[] {
  return axisViews(engine, 2, columns, padded);
}

function axisViews(engine: Engine, index: number, axis: AxisGeometry, padded: Tensor): Tensor[] {
  const { outputs, stride } = axis;
  return positions(axis).map((begin) =>
    stride === 1 ? engine.slice(padded, index, begin, outputs) : engine.stride(padded, index, begin, outputs, stride),
  );
}

/** Patches of images [B, H, W, C], [B, P, kh·kw·C], in the order of a kernel's first three axes. */
export function patches(engine: Engine, window: WindowGeometry, images: Tensor): Tensor {
  const [batch = 1, , , channels = 1] = images.shape;
  const views = windowViews(engine, window, padWindows(engine, window, images));
  const positions = window.rows.outputs * window.columns.outputs;
  return engine.reshape(engine.concat(views, 3), [batch, positions, views.length * channels]);
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

/**
 * The adjoint of a convolution in its images: gradients [R, oh, ow, c] in its outputs → [R, H, W, C].
 *
 * @param kernel [kh, kw, C, c]
 */
export function convolutionAdjoint(
  engine: Engine,
  window: WindowGeometry,
  kernel: Tensor,
  gradients: Tensor,
  size: readonly [number, number],
): Tensor {
  const { rows, columns } = window;
  const { convolution, matMul, reshape, reverse, slice, transpose } = engine;
  return engine.scope(() => {
    if (rows.stride === 1 && columns.stride === 1) {
      // A convolution, too, with the kernel turned round.
      const turned = transpose(reverse(reverse(kernel, 0), 1), [0, 1, 3, 2]);
      const down = adjointAxis(engine, gradients, 1, rows, size[0]);
      const across = adjointAxis(engine, down.gradients, 2, columns, size[1]);
      return convolution(across.gradients, turned, { rows: down.axis, columns: across.axis });
    }
    // With strides that would multiply mostly zeros: what each patch gets, added up where it was taken from.
    const [elements, channels, outputs] = [rows.kernel * columns.kernel, kernel.shape[2] ?? 1, kernel.shape[3] ?? 1];
    const shape = [gradients.shape[0] ?? 1, rows.outputs, columns.outputs];
    const seen = matMul(
      reshape(gradients, [elementCount(shape), outputs]),
      reshape(kernel, [elements * channels, outputs]),
      { transposeRight: true },
    );
    const patched = reshape(seen, [...shape, elements * channels]);
    const views = Array.from({ length: elements }, (_, element) => slice(patched, 3, element * channels, channels));
    return sumWindowViews(engine, window, views, size);
  });
}

/** The gradients and the geometry of the turned convolution along one axis of images of this length. */
function adjointAxis(
  engine: Engine,
  gradients: Tensor,
  index: number,
  { kernel, dilation, padding, outputs }: AxisGeometry,
  length: number,
): { readonly gradients: Tensor; readonly axis: AxisGeometry } {
  const reach = (kernel - 1) * dilation;
  const before = reach - padding[0];
  const after = length - outputs + padding[0];
  // Where there is more padding than the kernel reaches over, some gradients meet nothing but padding: they are cut off.
  const [cutBefore, cutAfter] = [Math.max(0, -before), Math.max(0, -after)];
  const used = outputs - cutBefore - cutAfter;
  return {
    gradients: used === outputs ? gradients : engine.slice(gradients, index, cutBefore, used),
    axis: {
      kernel,
      stride: 1,
      dilation,
      padding: [Math.max(0, before), Math.max(0, after)],
      outputs: length,
    },
  };
}

/** {@link Engine.maxPoolGradient} from the other operations. */
export function maxPoolGradient(
  engine: Engine,
  images: Tensor,
  largest: Tensor,
  gradient: Tensor,
  window: WindowGeometry,
): Tensor {
  const { isPositive, multiply, subtract } = engine;
  const [, height = 1, width = 1] = images.shape;
  return engine.scope(() => {
    let free: Tensor | null = null;
    const gradients = maxPoolViews(engine, images, window).map((view) => {
      const before: Tensor | null = free;
      const next = engine.scope(() => {
        const isLargest = subtract(1, isPositive(subtract(largest, view)));
        const chosen = before === null ? isLargest : multiply(before, isLargest);
        return {
          free: before === null ? subtract(1, chosen) : subtract(before, chosen),
          gradient: multiply(gradient, chosen),
        };
      });
      if (before !== null) engine.dispose([before]);
      free = next.free;
      return next.gradient;
    });
    return sumWindowViews(engine, window, gradients, [height, width]);
  });
}

/** What each element of the window sees; where that is padding, something far below anything in the images. */
function maxPoolViews(engine: Engine, images: Tensor, window: WindowGeometry): Tensor[] {
  const { add, multiply, subtract } = engine;
  const [, height = 1, width = 1] = images.shape;
  const padded = padWindows(engine, window, images);
  const hasPadding = [...window.rows.padding, ...window.columns.padding].some((zeros) => zeros > 0);
  if (!hasPadding) return windowViews(engine, window, padded);
  const inside = padWindows(engine, window, engine.tensor(new Float32Array(height * width).fill(1), [1, height, width, 1])); // prettier-ignore
  return windowViews(engine, window, add(padded, multiply(subtract(1, inside), -1e30)));
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
