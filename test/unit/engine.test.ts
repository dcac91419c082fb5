/**
 * Every operation of every tensor engine: small results by hand, and random tensors against the definition, subscript by subscript.
 */
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { createDeferredEngine } from '../../gpu-worker/tensor/deferred/engine.ts';
import {
  allFinite,
  tensorsIn,
  type Engine,
  type EngineName,
  type Operand,
  type Tensor,
} from '../../gpu-worker/tensor/engine.ts';
import { loadEngine, presentEngines } from '../../gpu-worker/tensor/index.ts';
import { findBinding, loadBinding } from '../../gpu-worker/tensor/tensorflow/binding.ts';
import { createTensorFlowEngine } from '../../gpu-worker/tensor/tensorflow/operations.ts';
import { convolutionGeometry, type WindowGeometry } from '../../shared/convolution.ts';
import { mulberry32 } from '../oracle/network.ts';

type Shape = readonly number[];

/** A tensor on the host: its shape and its row-major values. */
interface Host {
  readonly shape: Shape;
  readonly values: readonly number[];
}

/** All subscripts of a shape, in row-major order. */
function subscripts(shape: Shape): number[][] {
  return shape.reduce<number[][]>(
    (all, length) => all.flatMap((index) => Array.from({ length }, (_, i) => [...index, i])),
    [[]],
  );
}

function entry({ shape, values }: Host, index: readonly number[]): number {
  return values[index.reduce((flat, i, axis) => flat * shape[axis]! + i, 0)]!;
}

function fromEntries(shape: Shape, value: (index: number[]) => number): Host {
  return { shape, values: subscripts(shape).map(value) };
}

const random = mulberry32(4);
/** Numbers in ±[0.5, 2) that float32 holds exactly: none near 0, so that quotients are harmless. */
function randomHost(shape: Shape): Host {
  return fromEntries(shape, () => Math.fround((random() < 0.5 ? -1 : 1) * (0.5 + 1.5 * random())));
}

/** NumPy's broadcasting of two tensors, by definition. */
function broadcast(left: Host, right: Host, apply: (a: number, b: number) => number): Host {
  const rank = Math.max(left.shape.length, right.shape.length);
  const padded = ({ shape }: Host): number[] => [...new Array<number>(rank - shape.length).fill(1), ...shape];
  const [a, b] = [padded(left), padded(right)];
  const at = (host: Host, shape: Shape, index: readonly number[]): number =>
    entry(
      { shape, values: host.values },
      index.map((i, axis) => (shape[axis] === 1 ? 0 : i)),
    );
  const shape = a.map((length, axis) => Math.max(length, b[axis]!));
  return fromEntries(shape, (index) => apply(at(left, a, index), at(right, b, index)));
}

const BINARY = {
  add: (a, b) => a + b,
  subtract: (a, b) => a - b,
  multiply: (a, b) => a * b,
  divide: (a, b) => a / b,
  minimum: Math.min,
  maximum: Math.max,
} as const satisfies Partial<Record<keyof Engine, (a: number, b: number) => number>>;

const BROADCASTS: readonly (readonly [Shape, Shape])[] = [
  [[], []],
  [[3], []],
  [[], [2, 3]],
  [[3], [3]],
  [[2, 3], [3]],
  [[2, 3], [2, 1]],
  [[2, 1], [1, 3]],
  [[2, 3, 4], [3, 1]],
  [[2, 1, 4], [1, 3, 1]],
  [[2, 3, 4, 2], [2, 1, 4, 2]],
  [[2, 3, 4, 2], [4, 1]],
  [[2, 1, 2, 1], [2, 3, 2, 3]],
  [[2, 3, 1, 2, 2], [2, 1, 3, 2, 2]],
]; // prettier-ignore

/** A Aᵀ + I/2 for a random A. */
function randomPositive(n: number): Host {
  const root = randomHost([n, n]);
  return fromEntries([n, n], ([i, j]) => {
    let sum = i === j ? 0.5 : 0;
    for (let k = 0; k < n; k++) sum += entry(root, [i!, k]) * entry(root, [j!, k]);
    return Math.fround(sum);
  });
}

function product(left: Host, right: Host): Host {
  const [rows, inner] = left.shape.slice(-2);
  const columns = right.shape.at(-1)!;
  return fromEntries([...left.shape.slice(0, -2), rows!, columns], (index) => {
    const outer = index.slice(0, -2);
    const [i, j] = index.slice(-2);
    let sum = 0;
    for (let k = 0; k < inner!; k++) sum += entry(left, [...outer, i!, k]) * entry(right, [...outer, k, j!]);
    return sum;
  });
}

/** The last two axes exchanged. */
function transposed(host: Host): Host {
  const shape = [...host.shape.slice(0, -2), host.shape.at(-1)!, host.shape.at(-2)!];
  return fromEntries(shape, (index) => entry(host, [...index.slice(0, -2), index.at(-1)!, index.at(-2)!]));
}

/** On a GPU, and with npm's binding, TensorFlow computes without OpenBLAS. */
async function withoutOpenblas(file: string): Promise<Engine> {
  const { engine, compile } = createTensorFlowEngine(loadBinding(file), 'tensorflow');
  return Promise.resolve(
    createDeferredEngine(engine, compile, (reason) => {
      throw new Error(reason);
    }),
  );
}

const binding = findBinding();
const SUBJECTS: readonly { label: string; name: EngineName; load: () => Promise<Engine> }[] = [
  ...presentEngines().map((name) => ({ label: name, name, load: () => loadEngine(name) })),
  ...(binding === null
    ? []
    : [{ label: 'tensorflow without OpenBLAS', name: 'tensorflow' as const, load: () => withoutOpenblas(binding) }]),
];

/** M Mᵀ. */
function gram({ shape: [rows = 0, columns = 0], values }: Host): Host {
  const result: number[] = [];
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < rows; j++) {
      let sum = 0;
      for (let k = 0; k < columns; k++) sum += values[i * columns + k]! * values[j * columns + k]!;
      result.push(sum);
    }
  }
  return { shape: [rows, rows], values: result };
}

/** Windows over images of 5×6. */
const WINDOWS: readonly (readonly [string, WindowGeometry])[] = (
  [
    ['1×1', { kernel: [1, 1] }],
    ['2×3', { kernel: [2, 3] }],
    ['2×2 side by side', { kernel: [2, 2], strides: [2, 2] }],
    ['3×3, same', { kernel: [3, 3], padding: { kind: 'same' } }],
    ['4×2, same: odd zeros behind', { kernel: [4, 2], padding: { kind: 'same' } }],
    ['3×2, strides 2×3, same', { kernel: [3, 2], strides: [2, 3], padding: { kind: 'same' } }],
    ['2×2, zeros below and left', { kernel: [2, 2], padding: { kind: 'explicit', rows: [0, 1], columns: [1, 0] } }],
    ['as large as the images', { kernel: [5, 6] }],
  ] as const
).map(([title, window]) => [title, windowOver(5, 6, window)]);

function windowOver(
  height: number,
  width: number,
  window: Pick<Parameters<typeof convolutionGeometry>[0], 'kernel'> &
    Partial<Parameters<typeof convolutionGeometry>[0]>,
): WindowGeometry {
  return convolutionGeometry({
    height,
    width,
    strides: [1, 1],
    dilations: [1, 1],
    padding: { kind: 'valid' },
    ...window,
  });
}

/** Where in an image every element of the window lies that output position [y, x] sees, and where in the window. */
function seen({ rows, columns }: WindowGeometry, [, height, width]: Shape, y: number, x: number) {
  return subscripts([rows.kernel, columns.kernel]).flatMap(([i, j]) => {
    const row = y * rows.stride + i! * rows.dilation - rows.padding[0];
    const column = x * columns.stride + j! * columns.dilation - columns.padding[0];
    return row >= 0 && row < height! && column >= 0 && column < width! ? [{ row, column, i: i!, j: j! }] : [];
  });
}

describe.each(SUBJECTS)('engine $label', async ({ name, load }) => {
  const engine = await load();
  const tolerance = engine.precision === 'float64' ? 1e-12 : 2e-6;

  let before: number;
  beforeEach(() => {
    before = engine.liveTensors;
  });
  afterEach(() => {
    expect(engine.liveTensors).toBe(before);
  });

  const upload = ({ shape, values }: Host): Tensor => engine.tensor(values, shape);

  /** A computation's result on the host; everything it made is freed, and its arguments are as they were. */
  function compute(inputs: readonly Host[], run: (...tensors: Tensor[]) => Tensor): Host {
    return engine.scope(() => {
      const tensors = inputs.map(upload);
      const result = run(...tensors);
      for (const [i, input] of inputs.entries()) {
        expect(tensors[i]!.shape).toEqual(input.shape);
        expect([...engine.read(tensors[i]!)]).toEqual(input.values);
      }
      return { shape: [...result.shape], values: [...engine.read(result)] };
    });
  }

  function expectClose(actual: Host, expected: Host, within = tolerance): void {
    expect(actual.shape).toEqual(expected.shape);
    expect(actual.values.length).toBe(expected.values.length);
    const scale = Math.max(1, ...expected.values.map(Math.abs));
    // A NaN is not within anything.
    const outside = expected.values.findIndex((value, i) => !(Math.abs(actual.values[i]! - value) / scale < within));
    expect(outside, `entry ${String(outside)}: ${String(actual.values[outside])}`).toBe(-1);
  }

  it('says what it is', () => {
    expect(engine.name).toBe(name);
    expect(['float32', 'float64']).toContain(engine.precision);
  });

  describe('tensor and read', () => {
    it.each<Shape>([[], [1], [3], [2, 3], [2, 3, 4], [2, 1, 3, 2], [1, 2, 1, 2, 3]])('round trip of %j', (...shape) => {
      const host = randomHost(shape);
      expect(compute([host], (tensor) => tensor)).toEqual(host);
    });

    it('takes plain arrays and both kinds of typed arrays, and copies them', () => {
      for (const values of [[1, 2], Float32Array.of(1, 2), Float64Array.of(1, 2)]) {
        engine.scope(() => {
          const tensor = engine.tensor(values, [2]);
          values[0] = 9;
          expect([...engine.read(tensor)]).toEqual([1, 2]);
          const read = engine.read(tensor);
          read[1] = 9;
          expect([...engine.read(tensor)]).toEqual([1, 2]);
        });
      }
    });

    it('computes in the precision that it names', () => {
      const third = compute([], () => engine.divide(1, engine.tensor([3], [1]))).values[0]!;
      expect(third === Math.fround(1 / 3)).toBe(engine.precision === 'float32');
    });
  });

  describe.each(Object.entries(BINARY))('%s', (operation, apply) => {
    const run = (left: Operand, right: Operand): Tensor => engine[operation as keyof typeof BINARY](left, right);

    it.each(BROADCASTS)('%j and %j, in either order', (left, right) => {
      const [a, b] = [randomHost(left), randomHost(right)];
      expectClose(compute([a, b], run), broadcast(a, b, apply));
      expectClose(compute([b, a], run), broadcast(b, a, apply));
    });

    it('takes numbers on either side', () => {
      const host = randomHost([2, 3]);
      expectClose(compute([host], (tensor) => run(tensor, 0.75)), broadcast(host, { shape: [], values: [0.75] }, apply)); // prettier-ignore
      expectClose(compute([host], (tensor) => run(-1.25, tensor)), broadcast({ shape: [], values: [-1.25] }, host, apply)); // prettier-ignore
    });
  });

  it('sqrt and square', () => {
    const host = randomHost([2, 3, 2]);
    const squares = { shape: host.shape, values: host.values.map((value) => value * value) };
    expectClose(compute([host], engine.square), squares);
    const positive = { shape: host.shape, values: host.values.map(Math.abs) };
    const roots = { shape: host.shape, values: positive.values.map(Math.sqrt) };
    expectClose(compute([positive], engine.sqrt), roots);
    expect(compute([{ shape: [3], values: [0, 4, 2.25] }], engine.sqrt).values).toEqual([0, 2, 1.5]);
  });

  describe('matMul', () => {
    it('by hand', () => {
      const left = { shape: [2, 3], values: [1, 2, 3, 4, 5, 6] };
      const right = { shape: [3, 2], values: [7, 8, 9, 10, 11, 12] };
      const result = compute([left, right], (a, b) => engine.matMul(a, b));
      expect(result).toEqual({ shape: [2, 2], values: [58, 64, 139, 154] });
    });

    it.each<{ outer: Shape; rows: number; inner: number; columns: number }>([
      { outer: [], rows: 3, inner: 4, columns: 2 },
      { outer: [], rows: 1, inner: 1, columns: 1 },
      { outer: [], rows: 1, inner: 7, columns: 1 },
      { outer: [], rows: 17, inner: 70, columns: 33 },
      { outer: [1], rows: 3, inner: 4, columns: 2 },
      { outer: [5], rows: 3, inner: 4, columns: 2 },
      { outer: [3], rows: 9, inner: 1, columns: 20 },
    ])('$outer × $rows·$inner·$columns with either side transposed', ({ outer, rows, inner, columns }) => {
      const left = randomHost([...outer, rows, inner]);
      const right = randomHost([...outer, inner, columns]);
      const expected = product(left, right);
      for (const transposeLeft of [false, true]) {
        for (const transposeRight of [false, true]) {
          const inputs = [transposeLeft ? transposed(left) : left, transposeRight ? transposed(right) : right];
          const options = { transposeLeft, transposeRight };
          expectClose(compute(inputs, (a, b) => engine.matMul(a, b, options)), expected); // prettier-ignore
        }
      }
    });

    it.each<[rows: number, columns: number]>([
      [1, 1],
      [3, 4],
      [33, 7],
      [300, 200],
    ])('%i×%i with itself', (rows, columns) => {
      const matrix = randomHost([rows, columns]);
      const byRows = compute([matrix], (X) => engine.matMul(X, X, { transposeRight: true }));
      expectClose(byRows, gram(matrix));
      const byColumns = compute([matrix], (X) => engine.matMul(X, X, { transposeLeft: true }));
      expectClose(byColumns, gram(transposed(matrix)));
      expect(transposed(byRows)).toEqual(byRows);
    });

    it.each<[n: number, m: number]>([
      [1, 1],
      [4, 3],
      [40, 130],
      [130, 40],
    ])('of an upper triangular matrix of order %i and one with %i rows or columns', (n, m) => {
      const T = fromEntries([n, n], ([i, j]) => (j! < i! ? 0 : Math.fround(random() - 0.5)));
      const [X, Y] = [randomHost([m, n]), randomHost([n, m])];
      const right = { upperTriangular: 'right' } as const;
      expectClose(compute([X, T], (x, t) => engine.matMul(x, t, right)), product(X, T)); // prettier-ignore
      const timesTransposed = compute([X, T], (x, t) => engine.matMul(x, t, { ...right, transposeRight: true }));
      expectClose(timesTransposed, product(X, transposed(T)));
      const transposedTimes = compute([Y, T], (y, t) => engine.matMul(y, t, { ...right, transposeLeft: true }));
      expectClose(transposedTimes, product(transposed(Y), T));
      const left = { upperTriangular: 'left' } as const;
      expectClose(
        compute([T, Y], (t, y) => engine.matMul(t, y, left)),
        product(T, Y),
      );
      const leftTransposed = compute([T, Y], (t, y) => engine.matMul(t, y, { ...left, transposeLeft: true }));
      expectClose(leftTransposed, product(transposed(T), Y));
    });

    it('refuses what does not fit', () => {
      const [left, right] = [randomHost([2, 3]), randomHost([2, 3])];
      expect(() => compute([left, right], (a, b) => engine.matMul(a, b))).toThrow();
    });
  });

  describe('sum', () => {
    it.each<{ shape: Shape; axis: number }>([
      { shape: [4], axis: 0 },
      { shape: [2, 3], axis: 0 },
      { shape: [2, 3], axis: 1 },
      { shape: [2, 3, 4], axis: 1 },
      { shape: [2, 3, 1, 2], axis: 2 },
      { shape: [2, 3, 4, 2], axis: 0 },
      { shape: [2, 3, 4, 2], axis: 3 },
    ])('$shape along $axis', ({ shape, axis }) => {
      const host = randomHost(shape);
      const expected = fromEntries(shape.toSpliced(axis, 1), (index) =>
        Array.from({ length: shape[axis]! }, (_, i) => entry(host, index.toSpliced(axis, 0, i))).reduce(
          (a, b) => a + b,
        ),
      );
      expectClose(
        compute([host], (tensor) => engine.sum(tensor, axis)),
        expected,
      );
    });
  });

  it.each<readonly [Shape, Shape]>([
    [[6], [2, 3]],
    [[2, 3], [6]],
    [
      [2, 3, 4],
      [4, 1, 6],
    ],
    [[1], []],
  ])('reshape %j to %j keeps the order', (from, to) => {
    const host = randomHost(from);
    expect(compute([host], (tensor) => engine.reshape(tensor, to))).toEqual({ shape: to, values: host.values });
  });

  it.each<Shape>([[3], [2, 3], [2, 3, 4], [2, 1, 3, 2]])('appendOnes to %j', (...shape) => {
    const host = randomHost(shape);
    const last = shape.length - 1;
    const expected = fromEntries(shape.with(last, shape[last]! + 1), (index) =>
      index[last] === shape[last] ? 1 : entry(host, index),
    );
    expect(compute([host], engine.appendOnes)).toEqual(expected);
  });

  it.each<{ shape: Shape; axes: readonly number[] }>([
    { shape: [2, 3], axes: [1, 0] },
    { shape: [2, 3], axes: [0, 1] },
    { shape: [2, 3, 4], axes: [2, 0, 1] },
    { shape: [2, 3, 4], axes: [1, 2, 0] },
    { shape: [2, 3, 4, 5], axes: [0, 2, 1, 3] },
    { shape: [2, 3, 4, 5], axes: [3, 1, 0, 2] },
    { shape: [2, 3, 4, 1, 2], axes: [4, 2, 0, 1, 3] },
  ])('transpose $shape by $axes', ({ shape, axes }) => {
    const host = randomHost(shape);
    const expected = fromEntries(
      axes.map((axis) => shape[axis]!),
      (index) => entry(host, shape.map((_, axis) => index[axes.indexOf(axis)]!)), // prettier-ignore
    );
    expect(compute([host], (tensor) => engine.transpose(tensor, axes))).toEqual(expected);
  });

  it.each<{ shape: Shape; axis: number; begin: number; size: number }>([
    { shape: [5], axis: 0, begin: 1, size: 3 },
    { shape: [3, 4], axis: 0, begin: 2, size: 1 },
    { shape: [3, 4], axis: 1, begin: 0, size: 4 },
    { shape: [2, 3, 4], axis: 1, begin: 1, size: 2 },
    { shape: [2, 3, 4, 5], axis: 3, begin: 2, size: 3 },
    { shape: [2, 3, 4, 5], axis: 2, begin: 1, size: 2 },
  ])('slice of $shape: $size from $begin along $axis', ({ shape, axis, begin, size }) => {
    const host = randomHost(shape);
    const expected = fromEntries(shape.with(axis, size), (index) =>
      entry(host, index.with(axis, index[axis]! + begin)),
    );
    expect(compute([host], (tensor) => engine.slice(tensor, axis, begin, size))).toEqual(expected);
  });

  it.each<{ shape: Shape; axis: number; begin: number; size: number; stride: number }>([
    { shape: [7], axis: 0, begin: 1, size: 3, stride: 2 },
    { shape: [7], axis: 0, begin: 0, size: 3, stride: 3 },
    { shape: [7], axis: 0, begin: 2, size: 2, stride: 3 },
    { shape: [5, 3], axis: 0, begin: 4, size: 1, stride: 2 },
    { shape: [2, 6], axis: 1, begin: 0, size: 6, stride: 1 },
    { shape: [2, 5, 4, 3], axis: 1, begin: 0, size: 2, stride: 3 },
    { shape: [2, 5, 4, 3], axis: 2, begin: 1, size: 2, stride: 2 },
  ])('stride over $shape: $size from $begin along $axis, every $stride', ({ shape, axis, begin, size, stride }) => {
    const host = randomHost(shape);
    const expected = fromEntries(shape.with(axis, size), (index) =>
      entry(host, index.with(axis, begin + index[axis]! * stride)),
    );
    expect(compute([host], (tensor) => engine.stride(tensor, axis, begin, size, stride))).toEqual(expected);
  });

  it.each<{ shapes: readonly Shape[]; axis: number }>([
    { shapes: [[2]], axis: 0 },
    { shapes: [[2], [3]], axis: 0 },
    {
      shapes: [
        [2, 3],
        [1, 3],
        [4, 3],
      ],
      axis: 0,
    },
    {
      shapes: [
        [2, 3],
        [2, 1],
      ],
      axis: 1,
    },
    {
      shapes: [
        [2, 3, 2],
        [2, 1, 2],
        [2, 2, 2],
      ],
      axis: 1,
    },
    {
      shapes: [
        [2, 1, 2, 3],
        [2, 1, 2, 1],
      ],
      axis: 3,
    },
  ])('concat $shapes along $axis', ({ shapes, axis }) => {
    const hosts = shapes.map(randomHost);
    const ends = shapes.map((_, i) => shapes.slice(0, i + 1).reduce((sum, shape) => sum + shape[axis]!, 0));
    const expected = fromEntries(shapes[0]!.with(axis, ends.at(-1)!), (index) => {
      const part = ends.findIndex((end) => index[axis]! < end);
      return entry(hosts[part]!, index.with(axis, index[axis]! - (ends[part - 1] ?? 0)));
    });
    expect(compute(hosts, (...tensors) => engine.concat(tensors, axis))).toEqual(expected);
  });

  it.each<{ shape: Shape; paddings: readonly (readonly [number, number])[] }>([
    { shape: [3], paddings: [[1, 2]] },
    {
      shape: [2, 3],
      paddings: [
        [0, 0],
        [0, 0],
      ],
    },
    {
      shape: [2, 3],
      paddings: [
        [0, 1],
        [2, 0],
      ],
    },
    {
      shape: [2, 3, 2],
      paddings: [
        [1, 0],
        [0, 0],
        [0, 2],
      ],
    },
    {
      shape: [2, 3, 4, 2],
      paddings: [
        [0, 0],
        [2, 1],
        [0, 3],
        [0, 0],
      ],
    },
  ])('pad $shape with $paddings', ({ shape, paddings }) => {
    const host = randomHost(shape);
    const expected = fromEntries(shape.map((length, axis) => length + paddings[axis]![0] + paddings[axis]![1]), (index) => {
      const source = index.map((i, axis) => i - paddings[axis]![0]);
      return source.every((i, axis) => i >= 0 && i < shape[axis]!) ? entry(host, source) : 0;
    }); // prettier-ignore
    expect(compute([host], (tensor) => engine.pad(tensor, paddings))).toEqual(expected);
  });

  it.each<{ shape: Shape; axis: number }>([
    { shape: [5], axis: 0 },
    { shape: [2, 3], axis: 1 },
    { shape: [2, 3, 2, 4], axis: 1 },
  ])('reverse $shape along $axis', ({ shape, axis }) => {
    const host = randomHost(shape);
    const expected = fromEntries(shape, (index) => entry(host, index.with(axis, shape[axis]! - 1 - index[axis]!)));
    expect(compute([host], (tensor) => engine.reverse(tensor, axis))).toEqual(expected);
  });

  it.each([
    ...WINDOWS,
    ['2×3, dilations 3×2', windowOver(5, 6, { kernel: [2, 3], dilations: [3, 2] })],
    ['2×2, stride 2, dilation 2, same', windowOver(5, 6, { kernel: [2, 2], strides: [2, 2], dilations: [2, 2], padding: { kind: 'same' } })],
  ] as const)('convolution %s', (_, window) => {
    const images = randomHost([2, 5, 6, 3]);
    const kernel = randomHost([window.rows.kernel, window.columns.kernel, 3, 4]);
    const expected = fromEntries([2, window.rows.outputs, window.columns.outputs, 4], ([b, y, x, c]) =>
      seen(window, images.shape, y!, x!)
        .flatMap(({ row, column, i, j }) =>
          [0, 1, 2].map((channel) => entry(images, [b!, row, column, channel]) * entry(kernel, [i, j, channel, c!])),
        )
        .reduce((a, b) => a + b, 0),
    );
    expectClose(compute([images, kernel], (x, k) => engine.convolution(x, k, window)), expected); // prettier-ignore
  }); // prettier-ignore

  describe.each(WINDOWS)('maxPool %s', (_, window) => {
    // Few values, so that many are equal; all below the zeros of a padding.
    const images = fromEntries([2, 5, 6, 3], () => -1 - Math.floor(3 * random()));
    const outputs = [2, window.rows.outputs, window.columns.outputs, 3];
    const values = ([b, y, x, channel]: readonly number[]): number[] =>
      seen(window, images.shape, y!, x!).map(({ row, column }) => entry(images, [b!, row, column, channel!]));
    const largest = fromEntries(outputs, (index) => Math.max(...values(index)));

    it('the largest element in every window', () => {
      expect(compute([images], (x) => engine.maxPool(x, window))).toEqual(largest);
    });

    it('its gradient goes to the first one', () => {
      const gradient = randomHost(outputs);
      const expected = fromEntries(images.shape, ([b, row, column, channel]) =>
        subscripts([window.rows.outputs, window.columns.outputs])
          .filter(([y, x]) => {
            const index = [b!, y!, x!, channel!];
            const first = seen(window, images.shape, y!, x!)[values(index).indexOf(entry(largest, index))]!;
            return first.row === row && first.column === column;
          })
          .reduce((sum, [y, x]) => sum + entry(gradient, [b!, y!, x!, channel!]), 0),
      );
      expectClose(
        compute([images, largest, gradient], (x, most, g) => engine.maxPoolGradient(x, most, g, window)),
        expected,
      );
    });
  });

  it.each([1, 2, 5])('identity of order %i', (n) => {
    const expected = fromEntries([n, n], ([i, j]) => (i === j ? 1 : 0));
    expect(compute([], () => engine.identity(n))).toEqual(expected);
  });

  it('diagonal and diagonalOf', () => {
    for (const n of [1, 2, 5]) {
      const values = randomHost([n]);
      const matrix = fromEntries([n, n], ([i, j]) => (i === j ? values.values[i!]! : 0));
      expectClose(compute([values], engine.diagonal), matrix);
      const any = randomHost([n, n]);
      expect(compute([any], engine.diagonalOf)).toEqual(fromEntries([n], ([i]) => entry(any, [i!, i!])));
    }
  });

  describe('factorisations', () => {
    const ORDERS = [1, 2, 3, 8, 20];
    const within = engine.precision === 'float64' ? 1e-10 : 1e-4;
    const BAD: readonly (readonly [string, readonly number[]])[] = [
      ['indefinite', [1, 0, 0, -1]],
      ['singular', [1, 1, 1, 1]],
      ['zero', [0, 0, 0, 0]],
      ['with NaN', [1, Number.NaN, Number.NaN, 1]],
      ['with infinity', [Number.POSITIVE_INFINITY, 0, 0, 1]],
    ];
    const isLower = (host: Host): boolean =>
      subscripts(host.shape).every(([i, j]) => j! <= i! || entry(host, [i!, j!]) === 0);
    const identity = (n: number): Host => fromEntries([n, n], ([i, j]) => (i === j ? 1 : 0));

    it.each(ORDERS)('cholesky of order %i', (n) => {
      const A = randomPositive(n);
      const L = compute([A], engine.cholesky);
      expect(isLower(L)).toBe(true);
      expectClose(product(L, transposed(L)), A, within);
    });

    it('cholesky and inverseCholesky by hand', () => {
      const A = { shape: [2, 2], values: [4, 6, 6, 10] };
      expect(compute([A], engine.cholesky)).toEqual({ shape: [2, 2], values: [2, 0, 3, 1] });
      expect(compute([A], engine.inverseCholesky)).toEqual({ shape: [2, 2], values: [0.5, 0, -1.5, 1] });
    });

    it.each(ORDERS)('inverseCholesky of order %i', (n) => {
      const A = randomPositive(n);
      const inverse = compute([A], engine.inverseCholesky);
      expect(isLower(inverse)).toBe(true);
      expectClose(product(A, product(transposed(inverse), inverse)), identity(n), within);
    });

    it('inverseCholesky of an order at which an engine may work in blocks', () => {
      const n = 301;
      const A = fromEntries([n, n], ([i, j]) =>
        i === j ? 2 : i! - j! < 20 && j! - i! < 20 ? 0.5 ** (1 + Math.abs(i! - j!)) : 0,
      );
      const inverse = compute([A], engine.inverseCholesky);
      expect(isLower(inverse)).toBe(true);
      // L⁻¹ A L⁻ᵀ = I, at some of its entries.
      const row = (i: number): number[] => inverse.values.slice(i * n, i * n + n);
      const times = (values: readonly number[]): number[] =>
        Array.from({ length: n }, (_, i) => values.reduce((sum, value, j) => sum + A.values[i * n + j]! * value, 0));
      for (const i of [0, 74, 149, 150, 151, 225, 300]) {
        const product = times(row(i));
        for (const k of [0, 149, 150, 151, i, 300]) {
          const entry = row(k).reduce((sum, value, j) => sum + value * product[j]!, 0);
          expect(Math.abs(entry - (i === k ? 1 : 0))).toBeLessThan(within);
        }
      }
    });

    it.each(ORDERS)('choleskySolve of order %i', (n) => {
      const A = randomPositive(n);
      const b = randomHost([n]);
      const x = compute([A, b], (matrix, right) => engine.choleskySolve(engine.cholesky(matrix), right));
      expect(x.shape).toEqual([n]);
      expectClose(product(A, { ...x, shape: [n, 1] }), { ...b, shape: [n, 1] }, within);
    });

    it.each(ORDERS)('eigenSymmetric of order %i', (n) => {
      const A = randomPositive(n);
      const values = compute([A], (matrix) => engine.eigenSymmetric(matrix).values);
      const vectors = compute([A], (matrix) => engine.eigenSymmetric(matrix).vectors);
      expect(values.shape).toEqual([n]);
      expect(values.values).toEqual(values.values.toSorted((a, b) => a - b));
      expectClose(product(transposed(vectors), vectors), identity(n), within);
      const scaled = fromEntries([n, n], ([i, j]) => entry(vectors, [i!, j!]) * values.values[j!]!);
      expectClose(product(scaled, transposed(vectors)), A, within);
    });

    it('eigenSymmetric of a matrix with equal, zero and negative eigenvalues', () => {
      const A = { shape: [3, 3], values: [2, 0, 0, 0, -1, 0, 0, 0, 2] };
      expect(compute([A], (matrix) => engine.eigenSymmetric(matrix).values).values).toEqual([-1, 2, 2]);
      const zero = { shape: [2, 2], values: [0, 0, 0, 0] };
      expect(compute([zero], (matrix) => engine.eigenSymmetric(matrix).values).values).toEqual([0, 0]);
      const vectors = compute([zero], (matrix) => engine.eigenSymmetric(matrix).vectors);
      expectClose(product(transposed(vectors), vectors), identity(2));
    });

    it.each(BAD)('of a matrix that is %s: all NaN', (_, values) => {
      // What float32 does to the elements must not be part of the test, hence matrices of small whole numbers.
      const A = { shape: [2, 2], values };
      for (const factorise of [engine.cholesky, engine.inverseCholesky]) {
        const result = compute([A], factorise);
        expect(result).toEqual({ shape: [2, 2], values: new Array(4).fill(Number.NaN) });
      }
    });

    it('choleskySolve with the factor of a matrix that has none: all NaN', () => {
      const [A, b] = [{ shape: [2, 2], values: [1, 0, 0, -1] }, randomHost([2])];
      const x = compute([A, b], (matrix, right) => engine.choleskySolve(engine.cholesky(matrix), right));
      expect(x).toEqual({ shape: [2], values: [Number.NaN, Number.NaN] });
    });

    it.each(BAD.slice(3))('eigenSymmetric of a matrix that is %s: all NaN', (_, values) => {
      const A = { shape: [2, 2], values };
      const eigenvalues = compute([A], (matrix) => engine.eigenSymmetric(matrix).values);
      const vectors = compute([A], (matrix) => engine.eigenSymmetric(matrix).vectors);
      expect(eigenvalues).toEqual({ shape: [2], values: [Number.NaN, Number.NaN] });
      expect(vectors).toEqual({ shape: [2, 2], values: new Array(4).fill(Number.NaN) });
    });

    it('refuse what is not square', () => {
      const host = randomHost([2, 3]);
      expect(() => compute([host], engine.cholesky)).toThrow(RangeError);
      expect(() => compute([host], engine.inverseCholesky)).toThrow(RangeError);
      expect(() => compute([host], (matrix) => engine.eigenSymmetric(matrix).values)).toThrow(RangeError);
    });
  });

  describe('isFinite', () => {
    const isFinite = (...lists: readonly (readonly number[])[]): boolean =>
      engine.scope(() =>
        allFinite(
          engine,
          lists.map((values) => engine.tensor(values, [values.length])),
        ),
      );

    it('is true of finite tensors of any rank and size, and of none', () => {
      expect(isFinite()).toBe(true);
      expect(isFinite([0, -1, 1e30, -1e30])).toBe(true);
      // Whose sum is not representable.
      expect(isFinite([3e38, 3e38, 3e38])).toBe(true);
      engine.scope(() => {
        expect(allFinite(engine, [upload(randomHost([])), upload(randomHost([2, 3, 4, 2]))])).toBe(true);
      });
    });

    it.each([Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY])('is false with %d anywhere', (bad) => {
      expect(isFinite([bad])).toBe(false);
      expect(isFinite([1, 2], [3, bad, 4])).toBe(false);
      expect(isFinite([1, bad], [3, 4])).toBe(false);
      expect(isFinite([Number.POSITIVE_INFINITY, bad])).toBe(false);
    });
  });

  describe('accounting', () => {
    it('scope keeps what its result reaches, through objects, arrays and maps, and frees the rest', () => {
      const kept = engine.scope(() => {
        const a = engine.tensor([1], [1]);
        const b = engine.add(a, 1);
        engine.add(b, 1);
        return { a, list: [b, [engine.add(b, 2)]], map: new Map([['x', engine.add(b, 3)]]), n: 1, none: null };
      });
      expect(engine.liveTensors).toBe(before + 4);
      expect([...engine.read(kept.a)]).toEqual([1]);
      expect([...engine.read(kept.map.get('x')!)]).toEqual([5]);
      engine.dispose(tensorsIn(kept, engine.isTensor));
    });

    it('scopes nest: an inner result lives until the outer scope ends', () => {
      const outer = engine.tensor([7], [1]);
      const value = engine.scope(() => {
        const inner = engine.scope(() => engine.add(engine.add(outer, 1), 1));
        expect(engine.liveTensors).toBe(before + 2);
        return engine.read(inner)[0];
      });
      expect(value).toBe(9);
      expect(engine.liveTensors).toBe(before + 1);
      expect([...engine.read(outer)]).toEqual([7]);
      engine.dispose([outer]);
    });

    it('scope frees everything when its computation fails', () => {
      const outer = engine.tensor([1], [1]);
      expect(() =>
        engine.scope(() => {
          engine.scope(() => engine.add(outer, 1));
          engine.multiply(outer, 2);
          throw new Error('no');
        }),
      ).toThrow('no');
      expect(engine.liveTensors).toBe(before + 1);
      engine.dispose([outer]);
    });

    it('a scope does not free a tensor that was there before, even if it is its result', () => {
      const outer = engine.tensor([1], [1]);
      expect(engine.scope(() => outer)).toBe(outer);
      expect(engine.liveTensors).toBe(before + 1);
      engine.dispose([outer]);
    });

    it('a reshaped tensor outlives the one it was made from', () => {
      const reshaped = engine.scope(() => engine.reshape(engine.tensor([1, 2], [2]), [2, 1]));
      expect([...engine.read(reshaped)]).toEqual([1, 2]);
      engine.dispose([reshaped]);
    });

    it('dispose takes a tensor more than once, and any iterable', () => {
      const tensor = engine.tensor([1], [1]);
      engine.dispose([tensor, tensor]);
      engine.dispose(new Set([tensor]));
      engine.dispose([]);
    });

    it('every operation makes no more tensors than its results', () => {
      const A = randomPositive(3);
      const results: Record<string, (matrix: Tensor) => unknown> = {
        add: (matrix) => engine.add(matrix, 1),
        matMul: (matrix) => engine.matMul(matrix, matrix, { transposeLeft: true }),
        sum: (matrix) => engine.sum(matrix, 0),
        cholesky: engine.cholesky,
        inverseCholesky: engine.inverseCholesky,
        eigenSymmetric: engine.eigenSymmetric,
      };
      for (const [operation, run] of Object.entries(results)) {
        const matrix = upload(A);
        const result = engine.scope(() => run(matrix));
        const made = tensorsIn(result, engine.isTensor);
        expect(engine.liveTensors, operation).toBe(before + 1 + made.size);
        engine.dispose([matrix, ...made]);
      }
    });

    it('isTensor knows its own tensors only', async () => {
      const tensor = engine.tensor([1], [1]);
      expect(engine.isTensor(tensor)).toBe(true);
      expect(engine.isTensor({ shape: [1] })).toBe(false);
      for (const other of presentEngines().filter((candidate) => candidate !== name)) {
        expect((await loadEngine(other)).isTensor(tensor)).toBe(false);
      }
      engine.dispose([tensor]);
    });
  });

  it('refuses tensors of another engine', async () => {
    for (const other of presentEngines().filter((candidate) => candidate !== name)) {
      const foreign = await loadEngine(other);
      const tensor = foreign.tensor([1], [1]);
      expect(() => engine.add(tensor, 1)).toThrow(TypeError);
      foreign.dispose([tensor]);
    }
  });
});
