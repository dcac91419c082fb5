/** Shapes of results, known before anything is computed. */
import type { WindowGeometry } from '../../../shared/convolution.ts';
import { elementCount } from '../../../shared/shape.ts';

export type Shape = readonly number[];

/** NumPy's broadcasting. @throws RangeError if the shapes do not fit */
export function broadcastShape(left: Shape, right: Shape): Shape {
  if (left.length === 0) return right;
  if (right.length === 0) return left;
  const rank = Math.max(left.length, right.length);
  return Array.from({ length: rank }, (_, axis) => {
    const a = left[axis - rank + left.length] ?? 1;
    const b = right[axis - rank + right.length] ?? 1;
    if (a !== b && a !== 1 && b !== 1) {
      throw new RangeError(`[${left.join(', ')}] and [${right.join(', ')}] do not broadcast`);
    }
    return a === 1 ? b : a;
  });
}

/** @throws RangeError if the inner dimensions differ */
export function productShape(left: Shape, right: Shape, transposeLeft: boolean, transposeRight: boolean): Shape {
  const [rows, inner] = lastTwo(left, transposeLeft);
  const [innerRight, columns] = lastTwo(right, transposeRight);
  if (inner !== innerRight) {
    throw new RangeError(`no product of [${left.join(', ')}] and [${right.join(', ')}]: the inner dimensions differ`);
  }
  return [...left.slice(0, -2), rows, columns];
}

function lastTwo(shape: Shape, isTransposed: boolean): readonly [number, number] {
  const [rows, columns] = shape.slice(-2);
  if (rows === undefined || columns === undefined) {
    throw new RangeError(`expected matrices, got [${shape.join(', ')}]`);
  }
  return isTransposed ? [columns, rows] : [rows, columns];
}

/** @throws RangeError if the sizes differ */
export function reshapedShape(from: Shape, to: Shape): Shape {
  if (elementCount(from) !== elementCount(to)) {
    throw new RangeError(`[${from.join(', ')}] does not reshape to [${to.join(', ')}]`);
  }
  return [...to];
}

export function concatenatedShape(shapes: readonly Shape[], axis: number): Shape {
  const [first = []] = shapes;
  return first.with(
    axis,
    shapes.reduce((sum, shape) => sum + (shape[axis] ?? 0), 0),
  );
}

/** [B, oh, ow, channels] of images under a window. @throws RangeError if they are no images */
export function windowedShape(images: Shape, { rows, columns }: WindowGeometry, channels: number): Shape {
  const [batch, ...rest] = images;
  if (batch === undefined || rest.length !== 3) throw new RangeError(`expected images, got [${images.join(', ')}]`);
  return [batch, rows.outputs, columns.outputs, channels];
}

/** Everything about a window, in words. */
export function windowText({ rows, columns }: WindowGeometry): string {
  return [rows, columns]
    .map(({ kernel, stride, dilation, padding, outputs }) => [kernel, stride, dilation, ...padding, outputs].join())
    .join(' ');
}
