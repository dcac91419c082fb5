/**
 * The reference engine: float64 on the host, in plain loops. Slow and exact; it shows what the float32 engines round, and lets
 * the dense oracle judge the step to 1e-10.
 */
import type { WindowGeometry } from '../../shared/convolution.ts';
import { elementCount } from '../../shared/shape.ts';
import { tensorsIn, type Engine, type Operand, type Tensor } from './engine.ts';
import { erf } from './error-function.ts';
import { hostLinearAlgebra } from './host-linear-algebra.ts';

class ReferenceTensor {
  readonly shape: readonly number[];
  readonly values: Float64Array<ArrayBuffer>;

  constructor(shape: readonly number[], values: Float64Array<ArrayBuffer>) {
    const size = elementCount(shape);
    if (values.length !== size)
      throw new RangeError(`shape [${shape.join(', ')}] does not hold ${String(values.length)} values`);
    this.shape = shape;
    this.values = values;
  }
}

const isTensor = (value: object): value is Tensor => value instanceof ReferenceTensor;

function own(tensor: Tensor): ReferenceTensor {
  if (!(tensor instanceof ReferenceTensor)) throw new TypeError('a tensor of another engine');
  return tensor;
}

function operand(value: Operand): ReferenceTensor {
  return typeof value === 'number' ? new ReferenceTensor([], Float64Array.of(value)) : own(value);
}

/** Row-major strides of a shape seen as `target`, 0 along broadcast axes. */
function broadcastStrides(shape: readonly number[], target: readonly number[]): number[] {
  const strides = new Array<number>(target.length).fill(0);
  let stride = 1;
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    const size = shape[axis] ?? 1;
    const into = target.length - shape.length + axis;
    if (size !== 1) {
      if (size !== target[into])
        throw new RangeError(`[${shape.join(', ')}] does not broadcast to [${target.join(', ')}]`);
      strides[into] = stride;
    }
    stride *= size;
  }
  return strides;
}

/** Calls back for every element of images [B, H, W, C] that a window sees, with its index and those of its output and of its place in the window. */
function eachInWindows(
  [batch = 1, height = 1, width = 1, channels = 1]: readonly number[],
  { rows, columns }: WindowGeometry,
  visit: (element: number, output: number, place: number) => void,
): void {
  for (let output = 0; output < batch * rows.outputs * columns.outputs; output++) {
    const across = output % columns.outputs;
    const down = Math.floor(output / columns.outputs) % rows.outputs;
    const sample = Math.floor(output / (rows.outputs * columns.outputs));
    for (let place = 0; place < rows.kernel * columns.kernel; place++) {
      const y = down * rows.stride + Math.floor(place / columns.kernel) * rows.dilation - rows.padding[0];
      const x = across * columns.stride + (place % columns.kernel) * columns.dilation - columns.padding[0];
      if (y < 0 || y >= height || x < 0 || x >= width) continue;
      for (let channel = 0; channel < channels; channel++) {
        visit(
          ((sample * height + y) * width + x) * channels + channel,
          output * channels + channel,
          place * channels + channel,
        );
      }
    }
  }
}

export function createReferenceEngine(): Engine {
  const live = new Set<Tensor>();

  function make(shape: readonly number[], values: Float64Array<ArrayBuffer>): Tensor {
    const tensor = new ReferenceTensor(shape, values) as unknown as Tensor;
    live.add(tensor);
    return tensor;
  }

  function elementwise(left: Operand, right: Operand, apply: (a: number, b: number) => number): Tensor {
    const a = operand(left);
    const b = operand(right);
    const rank = Math.max(a.shape.length, b.shape.length);
    const shape = Array.from({ length: rank }, (_, axis) =>
      Math.max(a.shape[axis - rank + a.shape.length] ?? 1, b.shape[axis - rank + b.shape.length] ?? 1),
    );
    const aStrides = broadcastStrides(a.shape, shape);
    const bStrides = broadcastStrides(b.shape, shape);
    const values = new Float64Array(elementCount(shape));
    for (let index = 0; index < values.length; index++) {
      let rest = index;
      let aIndex = 0;
      let bIndex = 0;
      for (let axis = rank - 1; axis >= 0; axis--) {
        const size = shape[axis] ?? 1;
        const position = rest % size;
        rest = (rest - position) / size;
        aIndex += position * (aStrides[axis] ?? 0);
        bIndex += position * (bStrides[axis] ?? 0);
      }
      values[index] = apply(a.values[aIndex] ?? Number.NaN, b.values[bIndex] ?? Number.NaN);
    }
    return make(shape, values);
  }

  /** A stack of matrices: every axis but the last two counts them. */
  function stack(tensor: Tensor): { outer: readonly number[]; rows: number; columns: number; values: Float64Array } {
    const { shape, values } = own(tensor);
    const [rows, columns] = shape.slice(-2);
    if (rows === undefined || columns === undefined)
      throw new RangeError(`expected matrices, got [${shape.join(', ')}]`);
    return { outer: shape.slice(0, -2), rows, columns, values };
  }

  /** A tensor whose elements are taken from a source, by subscripts; where there are none, `otherwise`. */
  function gather(
    shape: readonly number[],
    source: (index: readonly number[]) => readonly number[] | null,
    tensor: Tensor,
    otherwise = 0,
  ): Tensor {
    const from = own(tensor);
    const index = new Array<number>(shape.length).fill(0);
    const values = new Float64Array(elementCount(shape));
    for (let position = 0; position < values.length; position++) {
      const subscripts = source(index);
      if (subscripts === null) values[position] = otherwise;
      else {
        const flat = subscripts.reduce((sum, subscript, axis) => sum * (from.shape[axis] ?? 1) + subscript, 0);
        values[position] = from.values[flat] ?? Number.NaN;
      }
      for (let axis = shape.length - 1; axis >= 0; axis--) {
        const next = (index[axis] ?? 0) + 1;
        index[axis] = next < (shape[axis] ?? 1) ? next : 0;
        if (next < (shape[axis] ?? 1)) break;
      }
    }
    return make([...shape], values);
  }

  function map(tensor: Tensor, apply: (value: number) => number): Tensor {
    return make(tensor.shape, own(tensor).values.map(apply));
  }

  /** Folds one axis, which disappears. */
  function reduce(
    tensor: Tensor,
    axis: number,
    initial: number,
    fold: (folded: number, value: number) => number,
  ): Tensor {
    const { shape, values } = own(tensor);
    const length = shape[axis];
    if (length === undefined) throw new RangeError(`[${shape.join(', ')}] has no axis ${String(axis)}`);
    const inner = elementCount(shape.slice(axis + 1));
    const outer = elementCount(shape.slice(0, axis));
    const result = new Float64Array(outer * inner).fill(initial);
    values.forEach((value, index) => {
      const target = Math.floor(index / (length * inner)) * inner + (index % inner);
      result[target] = fold(result[target] ?? Number.NaN, value);
    });
    return make(shape.toSpliced(axis, 1), result);
  }

  const transfer: Pick<Engine, 'tensor' | 'read'> = {
    tensor: (values, shape) => make([...shape], Float64Array.from(values)),
    read: (tensor) => own(tensor).values.slice(),
  };

  return {
    name: 'reference',
    precision: 'float64',
    ...transfer,
    add: (left, right) => elementwise(left, right, (a, b) => a + b),
    subtract: (left, right) => elementwise(left, right, (a, b) => a - b),
    multiply: (left, right) => elementwise(left, right, (a, b) => a * b),
    divide: (left, right) => elementwise(left, right, (a, b) => a / b),
    minimum: (left, right) => elementwise(left, right, Math.min),
    maximum: (left, right) => elementwise(left, right, Math.max),
    sqrt: (tensor) => map(tensor, Math.sqrt),
    square: (tensor) => map(tensor, (value) => value * value),
    matMul(left, right, { transposeLeft = false, transposeRight = false } = {}) {
      const a = stack(left);
      const b = stack(right);
      const rows = transposeLeft ? a.columns : a.rows;
      const inner = transposeLeft ? a.rows : a.columns;
      const columns = transposeRight ? b.rows : b.columns;
      if (inner !== (transposeRight ? b.columns : b.rows) || a.outer.join() !== b.outer.join()) {
        throw new RangeError(`cannot multiply [${left.shape.join(', ')}] and [${right.shape.join(', ')}]`);
      }
      const count = elementCount(a.outer);
      const values = new Float64Array(count * rows * columns);
      for (let s = 0; s < count; s++) {
        for (let i = 0; i < rows; i++) {
          for (let j = 0; j < columns; j++) {
            let sum = 0;
            for (let k = 0; k < inner; k++) {
              const aIndex = transposeLeft ? k * a.columns + i : i * a.columns + k;
              const bIndex = transposeRight ? j * b.columns + k : k * b.columns + j;
              sum +=
                (a.values[s * a.rows * a.columns + aIndex] ?? Number.NaN) *
                (b.values[s * b.rows * b.columns + bIndex] ?? Number.NaN);
            }
            values[(s * rows + i) * columns + j] = sum;
          }
        }
      }
      return make([...a.outer, rows, columns], values);
    },
    sum: (tensor, axis) => reduce(tensor, axis, 0, (total, value) => total + value),
    reshape: (tensor, shape) => make([...shape], own(tensor).values.slice()),
    appendOnes(tensor) {
      const { shape } = own(tensor);
      const last = shape.length - 1;
      const columns = shape[last] ?? 1;
      return gather(
        [...shape.slice(0, last), columns + 1],
        (index) => ((index[last] ?? 0) < columns ? index : null),
        tensor,
        1,
      );
    },
    transpose: (tensor, axes) =>
      gather(axes.map((axis) => tensor.shape[axis] ?? 1), (index) => axes.map((_, axis) => index[axes.indexOf(axis)] ?? 0), tensor), // prettier-ignore
    slice: (tensor, axis, begin, size) =>
      gather(tensor.shape.with(axis, size), (index) => index.with(axis, (index[axis] ?? 0) + begin), tensor),
    stride: (tensor, axis, begin, size, stride) =>
      gather(tensor.shape.with(axis, size), (index) => index.with(axis, (index[axis] ?? 0) * stride + begin), tensor),
    concat(tensors, axis) {
      const [first] = tensors;
      if (first === undefined) throw new RangeError('nothing to concatenate');
      const sizes = tensors.map(({ shape }) => shape[axis] ?? 0);
      const shape = first.shape.with(axis, sizes.reduce((sum, size) => sum + size, 0)); // prettier-ignore
      const inner = elementCount(shape.slice(axis + 1));
      const outer = elementCount(shape.slice(0, axis));
      const values = new Float64Array(elementCount(shape));
      let position = 0;
      for (let block = 0; block < outer; block++) {
        for (const [index, tensor] of tensors.entries()) {
          const length = (sizes[index] ?? 0) * inner;
          values.set(own(tensor).values.subarray(block * length, (block + 1) * length), position);
          position += length;
        }
      }
      return make(shape, values);
    },
    pad: (tensor, paddings) =>
      gather(
        tensor.shape.map((size, axis) => size + (paddings[axis]?.[0] ?? 0) + (paddings[axis]?.[1] ?? 0)),
        (index) => {
          const source = index.map((position, axis) => position - (paddings[axis]?.[0] ?? 0));
          return source.every((position, axis) => position >= 0 && position < (tensor.shape[axis] ?? 0))
            ? source
            : null;
        },
        tensor,
      ),
    reverse: (tensor, axis) =>
      gather(tensor.shape, (index) => index.with(axis, (tensor.shape[axis] ?? 1) - 1 - (index[axis] ?? 0)), tensor),
    convolution(images, kernel, window) {
      const { shape, values } = own(images);
      const { values: weights } = own(kernel);
      const [batch = 1, , , channels = 1] = shape;
      const outputs = kernel.shape[3] ?? 1;
      const result = new Float64Array(batch * window.rows.outputs * window.columns.outputs * outputs);
      eachInWindows(shape, window, (element, output, place) => {
        const position = Math.floor(output / channels);
        for (let c = 0; c < outputs; c++) {
          const index = position * outputs + c;
          result[index] =
            (result[index] ?? 0) + (values[element] ?? Number.NaN) * (weights[place * outputs + c] ?? Number.NaN);
        }
      });
      return make([batch, window.rows.outputs, window.columns.outputs, outputs], result);
    },
    maxPool(images, window) {
      const { shape, values } = own(images);
      const [batch = 1, , , channels = 1] = shape;
      const { rows, columns } = window;
      const result = new Float64Array(batch * rows.outputs * columns.outputs * channels).fill(Number.NEGATIVE_INFINITY);
      eachInWindows(shape, window, (element, output) => {
        result[output] = Math.max(result[output] ?? Number.NaN, values[element] ?? Number.NaN);
      });
      return make([batch, rows.outputs, columns.outputs, channels], result);
    },
    maxPoolGradient(images, largest, gradient, window) {
      const { shape, values } = own(images);
      const best = own(largest).values;
      const rows = own(gradient).values;
      const result = new Float64Array(values.length);
      const given = new Set<number>();
      eachInWindows(shape, window, (element, output) => {
        if (values[element] !== best[output] || given.has(output)) return;
        given.add(output);
        result[element] = (result[element] ?? 0) + (rows[output] ?? Number.NaN);
      });
      return make(shape, result);
    },
    exp: (tensor) => map(tensor, Math.exp),
    log: (tensor) => map(tensor, Math.log),
    tanh: (tensor) => map(tensor, Math.tanh),
    sigmoid: (tensor) => map(tensor, (x) => 1 / (1 + Math.exp(-x))),
    softplus: (tensor) => map(tensor, (x) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)))),
    erf: (tensor) => map(tensor, erf),
    isPositive: (tensor) => map(tensor, (x) => (x > 0 ? 1 : 0)),
    largest: (tensor, axis) => reduce(tensor, axis, Number.NEGATIVE_INFINITY, Math.max),
    identity: (n) =>
      make(
        [n, n],
        Float64Array.from({ length: n * n }, (_, index) => (index % (n + 1) === 0 ? 1 : 0)),
      ),
    diagonal(tensor) {
      const { values } = own(tensor);
      const n = values.length;
      const result = new Float64Array(n * n);
      values.forEach((value, i) => (result[i * n + i] = value));
      return make([n, n], result);
    },
    diagonalOf(tensor) {
      const n = tensor.shape[0] ?? 0;
      const { values } = own(tensor);
      return make(
        [n],
        Float64Array.from({ length: n }, (_, i) => values[i * n + i] ?? Number.NaN),
      );
    },
    ...hostLinearAlgebra(transfer),
    isFinite: (tensors) =>
      make([], Float64Array.of(tensors.every((tensor) => own(tensor).values.every(Number.isFinite)) ? 1 : 0)),
    evaluate: () => undefined,
    scope(compute) {
      const before = new Set(live);
      try {
        const result = compute();
        for (const tensor of tensorsIn(result, isTensor)) before.add(tensor);
        return result;
      } finally {
        for (const tensor of live) if (!before.has(tensor)) live.delete(tensor);
      }
    },
    dispose(tensors) {
      for (const tensor of tensors) live.delete(tensor);
    },
    isTensor,
    get liveTensors() {
      return live.size;
    },
  };
}
