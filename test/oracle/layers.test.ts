/** The layer oracle against itself: finite differences, results by hand, and its step in two independent forms. */
import * as tf from '@tensorflow/tfjs-core';
import { beforeAll, describe, expect, it } from 'vitest';
import {
  eigenvectors,
  exactStep,
  forwardLayer,
  metricOf,
  outputExtent,
  parameterCount,
  parameterGradients,
  parameterSizes,
  sampleSpaceStep,
  stagesOf,
  type Conv2dOracle,
  type CouplingOracle,
  type LayerBatchOracle,
  type LayerOracle,
  type LinearLayer,
  type MetricOracle,
} from './layers.ts';
import { at, build, diagonal, identity, kron, multiply, subtract, transpose } from './matrix.ts';
import type { Matrix } from './matrix.ts';
import { gaussianMatrix, mulberry32 } from './network.ts';

const CONVOLUTION: Conv2dOracle = {
  kind: 'conv2d',
  height: 5,
  width: 4,
  inputs: 2,
  outputs: 2,
  kernel: [3, 2],
  strides: [1, 1],
  dilations: [1, 1],
  padding: [
    [0, 0],
    [0, 0],
  ],
  groups: 1,
  bias: true,
};

const LAYERS: readonly LinearLayer[] = [
  { kind: 'dense', positions: 1, inputs: 3, outputs: 2, bias: true },
  { kind: 'dense', positions: 4, inputs: 3, outputs: 2, bias: false },
  CONVOLUTION,
  { ...CONVOLUTION, strides: [2, 1], dilations: [2, 3], padding: [[1, 2], [0, 1]], groups: 2, bias: false }, // prettier-ignore
  { kind: 'scale-shift', positions: 1, features: 3, shift: false },
  { kind: 'scale-shift', positions: 4, features: 3, shift: true },
  { kind: 'embedding', positions: 5, vocabulary: 4, outputs: 2 },
];

const random = mulberry32(17);
const gaussian = (length: number): Float64Array => gaussianMatrix(random, 1, length).data;

function randomInput(layer: LinearLayer): Float64Array {
  switch (layer.kind) {
    case 'dense':
      return gaussian(layer.positions * layer.inputs);
    case 'conv2d':
      return gaussian(layer.height * layer.width * layer.inputs);
    case 'scale-shift':
      return gaussian(layer.positions * layer.features);
    case 'embedding':
      return Float64Array.from({ length: layer.positions }, () => Math.floor(random() * layer.vocabulary));
  }
}

const outputSize = (layer: LinearLayer, x: Float64Array): number =>
  forwardLayer(layer, x, new Float64Array(parameterCount(layer))).length;

function dot(a: Float64Array, b: Float64Array): number {
  return a.reduce((sum, value, i) => sum + value * b[i]!, 0);
}

function expectClose(actual: ArrayLike<number>, expected: ArrayLike<number>, tolerance: number): void {
  expect(actual.length).toBe(expected.length);
  for (let i = 0; i < expected.length; i++) expect(Math.abs(actual[i]! - expected[i]!)).toBeLessThan(tolerance);
}

describe.each(LAYERS.map((layer, index) => ({ layer, title: `${String(index)}: ${layer.kind}` })))(
  'layer $title',
  ({ layer }) => {
    it('has the parameter gradients of its forward pass, by central differences', () => {
      const r = 2;
      const inputs = [randomInput(layer), randomInput(layer), randomInput(layer)];
      const gradients = inputs.flatMap((x) => Array.from({ length: r }, () => gaussian(outputSize(layer, x))));
      const J = parameterGradients(layer, inputs, gradients);
      expect([J.rows, J.cols]).toEqual([inputs.length * r, parameterCount(layer)]);
      const u = gaussian(parameterCount(layer));
      const step = 1e-4;
      for (const [i, g] of gradients.entries()) {
        const x = inputs[Math.floor(i / r)]!;
        for (let k = 0; k < u.length; k++) {
          const along = (sign: number) => dot(g, forwardLayer(layer, x, u.with(k, u[k]! + sign * step)));
          expect(Math.abs((along(1) - along(-1)) / (2 * step) - at(J, i, k))).toBeLessThan(1e-9);
        }
      }
    });

    it('is linear in its parameters', () => {
      const x = randomInput(layer);
      const [u, v] = [gaussian(parameterCount(layer)), gaussian(parameterCount(layer))];
      const sum = forwardLayer(
        layer,
        x,
        u.map((value, k) => 2 * value - 3 * v[k]!),
      );
      const [ofU, ofV] = [forwardLayer(layer, x, u), forwardLayer(layer, x, v)];
      expectClose(
        sum,
        ofU.map((value, k) => 2 * value - 3 * ofV[k]!),
        1e-12,
      );
    });
  },
);

describe('forward passes by hand', () => {
  it('dense, per position', () => {
    const layer: LinearLayer = { kind: 'dense', positions: 2, inputs: 2, outputs: 2, bias: true };
    const y = forwardLayer(layer, Float64Array.of(1, 2, 3, 4), Float64Array.of(1, 2, 3, 4, 10, 20));
    expect([...y]).toEqual([17, 30, 25, 42]);
  });

  it('scale and shift', () => {
    const layer: LinearLayer = { kind: 'scale-shift', positions: 2, features: 2, shift: true };
    expect([...forwardLayer(layer, Float64Array.of(1, 2, 3, 4), Float64Array.of(2, 3, 10, 20))]).toEqual([
      12, 26, 16, 32,
    ]);
  });

  it('embedding', () => {
    const layer: LinearLayer = { kind: 'embedding', positions: 3, vocabulary: 2, outputs: 2 };
    expect([...forwardLayer(layer, Float64Array.of(1, 0, 1), Float64Array.of(1, 2, 3, 4))]).toEqual([3, 4, 1, 2, 3, 4]);
  });

  it('convolution: a 2×2 kernel over 3×3, with a bias', () => {
    const layer: Conv2dOracle = { ...CONVOLUTION, height: 3, width: 3, inputs: 1, outputs: 1, kernel: [2, 2] };
    const y = forwardLayer(layer, Float64Array.of(1, 2, 3, 4, 5, 6, 7, 8, 9), Float64Array.of(1, 10, 100, 1000, 0.5));
    expect([...y]).toEqual([5421.5, 6532.5, 8754.5, 9865.5]);
  });

  it('convolution: dilation, stride, padding and groups', () => {
    // Two groups of one channel over one row of four: channel 0 is 1 2 3 4, channel 1 is 10 20 30 40; one zero in front.
    const layer: Conv2dOracle = {
      ...CONVOLUTION,
      height: 1,
      width: 4,
      kernel: [1, 2],
      strides: [1, 2],
      dilations: [1, 2],
      padding: [[0, 0], [1, 0]], // prettier-ignore
      groups: 2,
      bias: false,
    };
    const x = Float64Array.of(1, 10, 2, 20, 3, 30, 4, 40);
    // weight [1, 2, 1, 2]: taps of output 0 are 1 and 100, of output 1 are 2 and 200.
    const y = forwardLayer(layer, x, Float64Array.of(1, 2, 100, 200));
    expect(outputExtent(layer)).toEqual([1, 2]);
    // Padded rows: 0 1 2 3 4. Position 0 meets columns 0 and 2, position 1 columns 2 and 4.
    expect([...y]).toEqual([100 * 2, 200 * 20, 2 + 100 * 4, 2 * 20 + 200 * 40]);
  });
});

describe('convolution against TensorFlow.js', () => {
  beforeAll(async () => {
    await import('@tensorflow/tfjs-backend-wasm');
    await tf.setBackend('wasm');
    await tf.ready();
  });

  it.each<Partial<Conv2dOracle>>([
    {},
    { kernel: [1, 1] },
    { strides: [2, 2], padding: [[1, 1], [0, 1]] }, // prettier-ignore
    { dilations: [2, 2], padding: [[2, 0], [1, 2]] }, // prettier-ignore
    { inputs: 3, outputs: 5, strides: [1, 2] },
  ])('%j', (change) => {
    const layer: Conv2dOracle = { ...CONVOLUTION, ...change, bias: false };
    const x = gaussian(layer.height * layer.width * layer.inputs);
    const u = gaussian(parameterCount(layer));
    const [kh, kw] = layer.kernel;
    const image: [number, number, number, number] = [1, layer.height, layer.width, layer.inputs];
    const filter: [number, number, number, number] = [kh, kw, layer.inputs, layer.outputs];
    const expected = tf.tidy(() => {
      const padded = tf.pad4d(tf.tensor4d(Float32Array.from(x), image), [[0, 0], [...layer.padding[0]], [...layer.padding[1]], [0, 0]]); // prettier-ignore
      const weight = tf.tensor4d(Float32Array.from(u), filter);
      return tf.conv2d(padded, weight, [...layer.strides], 'valid', 'NHWC', [...layer.dilations]).dataSync();
    });
    expectClose(forwardLayer(layer, x, u), expected, 1e-5);
  });
});

describe('eigenvectors', () => {
  it.each([1, 2, 5, 9])('of order %i', (n) => {
    const root = gaussianMatrix(random, n, n);
    const A = multiply(root, transpose(root));
    const { values, vectors } = eigenvectors(A);
    expectClose(multiply(transpose(vectors), vectors).data, identity(n).data, 1e-13);
    expectClose(multiply(vectors, diagonal(values), transpose(vectors)).data, A.data, 1e-12);
  });

  it('of a diagonal matrix are the axes, even where values repeat', () => {
    expect(eigenvectors(diagonal([2, 1, 2])).vectors).toEqual(identity(3));
  });
});

const MIXED: readonly LayerOracle[] = [
  LAYERS[0]!,
  LAYERS[3]!,
  LAYERS[6]!,
  LAYERS[5]!,
  { kind: 'generic', parameters: 3 },
];
const METRICS: readonly MetricOracle[] = [
  { kind: 'identity' },
  { kind: 'rmsprop', decay: 0.8, epsilon: 0.01 },
  { kind: 'adam', decay: 0.8, epsilon: 0.01 },
  { kind: 'kronecker', decay: 0.8, damping: 0.03 },
  { kind: 'ekfac', decay: 0.8, damping: 0.03 },
];

describe('the step', () => {
  const B = 4;
  const h = [0.5, 1, 3, 20];
  const batches = [1, 2].map(() => ({
    h,
    layers: MIXED.map((layer): LayerBatchOracle => {
      if (layer.kind === 'generic') {
        const lossGradients = Array.from({ length: B }, () => gaussian(layer.parameters));
        return { inputs: [], lossGradients, columnGradients: null };
      }
      const inputs = Array.from({ length: B }, () => randomInput(layer));
      const lossGradients = inputs.map((x) => gaussian(outputSize(layer, x)));
      return { inputs, lossGradients, columnGradients: null };
    }),
  }));

  it.each(
    METRICS.flatMap((metric) =>
      (['layerwise', 'value', 'gauss-newton-step'] as const).map((coupling: CouplingOracle) => ({
        metric,
        coupling,
        title: `${metric.kind}, ${coupling}`,
      })),
    ),
  )('is the same in parameter space and in sample space: $title', ({ metric, coupling }) => {
    const stages = stagesOf(MIXED, batches, metric, 2);
    const exact = exactStep(stages, h, coupling);
    const dual = sampleSpaceStep(stages, h, coupling, 'full');
    for (const [t, change] of exact.entries()) expectClose(change.data, dual[t]!.data, 1e-10);
  });

  it('has symmetric positive definite metrics', () => {
    for (const metric of METRICS) {
      for (const { R } of stagesOf(MIXED, batches, metric, 2)) {
        expect(Math.max(...subtract(R, transpose(R)).data.map(Math.abs))).toBeLessThan(1e-12);
        expect(Math.min(...eigenvectors(R).values)).toBeGreaterThan(0);
      }
    }
  });
});

describe('metrics by hand', () => {
  it('with one sample and one position the Kronecker factors are exact: P = J Jᵀ without damping', () => {
    const layer = LAYERS[0]!;
    const batch: LayerBatchOracle = { inputs: [gaussian(3)], lossGradients: [gaussian(2)], columnGradients: null };
    const P = metricOf(layer, [{ layer: batch, h: [1] }], { kind: 'kronecker', decay: 0.9, damping: 1e-24 });
    const J = parameterGradients(layer, batch.inputs, batch.lossGradients);
    expectClose(P.data, multiply(transpose(J), J).data, 1e-9);
  });

  it('a convolution has one Kronecker pair per group, and nothing couples the groups', () => {
    const layer: Conv2dOracle = {
      ...CONVOLUTION,
      height: 1,
      width: 1,
      kernel: [1, 1],
      inputs: 2,
      outputs: 2,
      groups: 2,
    };
    const batch: LayerBatchOracle = {
      inputs: [Float64Array.of(2, 3)],
      lossGradients: [Float64Array.of(5, 7)],
      columnGradients: null,
    };
    const P = metricOf(layer, [{ layer: batch, h: [1] }], { kind: 'kronecker', decay: 0.9, damping: 1e-24 });
    // Group 0: A = [2, 1]ᵀ[2, 1], Γ = 25; group 1: A = [3, 1]ᵀ[3, 1], Γ = 49. Order: w0, w1, b0, b1.
    expectClose(P.data, [100, 0, 50, 0, 0, 441, 0, 147, 50, 0, 25, 0, 0, 147, 0, 49], 1e-8);
  });

  it('Γ is a mean over positions, A a sum over them; columns add up', () => {
    const layer: LayerOracle = { kind: 'dense', positions: 2, inputs: 1, outputs: 1, bias: false };
    const batch: LayerBatchOracle = {
      inputs: [Float64Array.of(1, 2), Float64Array.of(3, 4)],
      lossGradients: [Float64Array.of(1, 1), Float64Array.of(1, 1)],
      columnGradients: [[1, 2], [3, 4], [5, 6], [7, 8]].map((g) => Float64Array.from(g)), // prettier-ignore
    };
    const P = metricOf(layer, [{ layer: batch, h: [1, 2] }], { kind: 'kronecker', decay: 0.9, damping: 1e-24 });
    const A = (1 + 4 + 9 + 16) / 2;
    const Gamma = (1 * (1 + 4 + 9 + 16) + 2 * (25 + 36 + 49 + 64)) / (2 * 2);
    expectClose(P.data, [A * Gamma], 1e-8);
  });

  it('the diagonal Fisher is the weighted mean of squares; rmsprop starts from 0, adam is bias-corrected', () => {
    const layer: LayerOracle = { kind: 'generic', parameters: 2 };
    const batch = (rows: readonly (readonly number[])[]): LayerBatchOracle => ({
      inputs: [],
      lossGradients: rows.map((row) => Float64Array.from(row)),
      columnGradients: null,
    });
    const seen = [
      { layer: batch([[1, 2], [3, 4]]), h: [1, 2] }, // prettier-ignore
      { layer: batch([[0, 2], [2, 0]]), h: [1, 1] }, // prettier-ignore
    ];
    const diagonalOf = (P: Matrix): number[] => [at(P, 0, 0), at(P, 1, 1)];
    const fisher = metricOf(layer, seen, { kind: 'kronecker', decay: 0.5, damping: 0.25 });
    expectClose(diagonalOf(fisher), [(19 / 2 + 2 * 2) / 3 + 0.25, (36 / 2 + 2 * 2) / 3 + 0.25], 1e-12);
    const rmsprop = metricOf(layer, seen, { kind: 'rmsprop', decay: 0.5, epsilon: 0.1 });
    expectClose(diagonalOf(rmsprop), [Math.sqrt(4 / 4 + 1 / 2) + 0.1, Math.sqrt(9 / 4 + 1 / 2) + 0.1], 1e-12);
    const adam = metricOf(layer, seen, { kind: 'adam', decay: 0.5, epsilon: 0.1 });
    expectClose(diagonalOf(adam), [Math.sqrt(1.5 / 0.75) + 0.1, Math.sqrt(2.75 / 0.75) + 0.1], 1e-12);
  });

  it('ekfac with one sample and one position is exact up to damping', () => {
    const layer: LayerOracle = { kind: 'dense', positions: 1, inputs: 2, outputs: 2, bias: true };
    const batch: LayerBatchOracle = {
      inputs: [Float64Array.of(2, -1)],
      lossGradients: [Float64Array.of(1, 3)],
      columnGradients: null,
    };
    const P = metricOf(layer, [{ layer: batch, h: [2] }], { kind: 'ekfac', decay: 0.7, damping: 0.5 });
    const J = kron(build(1, 3, (_, j) => [2, -1, 1][j]!), build(1, 2, (_, j) => [1, 3][j]!)); // prettier-ignore
    const outer = multiply(transpose(J), J);
    expectClose(
      P.data,
      outer.data.map((value, index) => 2 * value + (index % 7 === 0 ? 0.5 : 0)),
      1e-10,
    );
  });

  it('knows the sizes of parameter tensors', () => {
    expect(LAYERS.map(parameterSizes)).toEqual([[6, 2], [6], [24, 2], [12], [3], [3, 3], [8]]);
  });
});
