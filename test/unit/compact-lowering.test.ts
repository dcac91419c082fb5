/** Lowered images against patches, on the reference engine: what a convolution's parameters need of them. */
import { describe, expect, it } from 'vitest';
import {
  loweredGradients,
  lowerImages,
  patchesGram,
  suitsLowering,
} from '../../gpu-worker/optimizer/layers/compact-lowering.ts';
import type { Tensor } from '../../gpu-worker/tensor/engine.ts';
import { createReferenceEngine } from '../../gpu-worker/tensor/reference.ts';
import { patches } from '../../gpu-worker/tensor/windows.ts';
import { convolutionGeometry, type WindowGeometry } from '../../shared/convolution.ts';
import { seededRandom } from '../../shared/random.ts';

type Convolution = Parameters<typeof convolutionGeometry>[0];

const engine = createReferenceEngine();
const [B, C, OUTPUTS] = [5, 2, 3];

const WINDOWS: readonly (Omit<Convolution, 'strides' | 'dilations' | 'padding'> & Partial<Convolution>)[] = [
  { height: 7, width: 5, kernel: [3, 3] },
  { height: 6, width: 5, kernel: [3, 3], padding: { kind: 'same' } },
  { height: 6, width: 5, kernel: [4, 2], padding: { kind: 'same' } },
  { height: 6, width: 5, kernel: [1, 3] },
  { height: 7, width: 6, kernel: [3, 2], strides: [1, 2], dilations: [2, 3], padding: { kind: 'same' } },
  { height: 4, width: 4, kernel: [3, 3], padding: { kind: 'explicit', rows: [1, 0], columns: [0, 2] } },
  { height: 4, width: 3, kernel: [2, 2], padding: { kind: 'explicit', rows: [3, 0], columns: [1, 0] } },
  { height: 4, width: 3, kernel: [2, 2], padding: { kind: 'explicit', rows: [0, 3], columns: [0, 0] } },
  { height: 3, width: 3, kernel: [3, 3] },
  {
    height: 2,
    width: 3,
    kernel: [3, 2],
    dilations: [2, 1],
    padding: { kind: 'explicit', rows: [2, 2], columns: [0, 0] },
  },
];

function random(shape: readonly number[], seed: number): Tensor {
  const draw = seededRandom(seed);
  const size = shape.reduce((product, length) => product * length, 1);
  return engine.tensor(Float64Array.from({ length: size }, () => 2 * draw() - 1), shape); // prettier-ignore
}

function expectClose(actual: Tensor, expected: Tensor): void {
  expect(actual.shape).toEqual(expected.shape);
  const values = engine.read(expected);
  const errors = engine.read(actual).map((value, index) => Math.abs(value - values[index]!));
  expect(Math.max(...errors)).toBeLessThan(1e-12);
}

describe.each(WINDOWS)('of $height×$width under %o', (convolution) => {
  const { height, width } = convolution;
  const window: WindowGeometry = convolutionGeometry({
    strides: [1, 1],
    dilations: [1, 1],
    padding: { kind: 'valid' },
    ...convolution,
  });
  const positions = window.rows.outputs * window.columns.outputs;
  const n = window.rows.kernel * window.columns.kernel * C;
  // Of one sample, of two samples, and everything in one.
  const parts = [1, 2 * 8 * (height + 4) * window.columns.outputs * 9, 2 ** 24];

  it.each(parts)('in parts of %d bytes: the products of all patches', (bytes) => {
    engine.scope(() => {
      const images = random([B, height, width, C], 1);
      const a = engine.reshape(patches(engine, window, images), [B * positions, n]);
      const lowered = lowerImages(engine, window, images, OUTPUTS, bytes);
      expectClose(patchesGram(engine, lowered), engine.matMul(a, a, { transposeLeft: true }));
    });
  });

  it.each(parts)('in parts of %d bytes: per-sample gradients of one and of two columns', (bytes) => {
    engine.scope(() => {
      const images = random([B, height, width, C], 2);
      const a = patches(engine, window, images);
      for (const r of [1, 2]) {
        const g = random([B * r, positions, OUTPUTS], 3);
        // Every sample's patches once per column.
        const repeated = engine.concat(Array.from({ length: B * r }, (_, row) => engine.slice(a, 0, Math.floor(row / r), 1)), 0); // prettier-ignore
        const lowered = lowerImages(engine, window, images, r * OUTPUTS, bytes);
        expectClose(loweredGradients(engine, lowered, g), engine.matMul(g, repeated, { transposeLeft: true }));
      }
    });
  });
});

it('parts are no larger than asked for, unless a sample is', () => {
  engine.scope(() => {
    const window = convolutionGeometry({ height: 6, width: 5, kernel: [3, 3], strides: [1, 1], dilations: [1, 1], padding: { kind: 'same' } }); // prettier-ignore
    const images = random([B, 6, 5, C], 4);
    const sizes = (bytes: number): number[] =>
      lowerImages(engine, window, images, OUTPUTS, bytes).parts.map(({ shape }) => shape[0]!);
    const sampleBytes = 4 * 8 * 5 * 9; // the gradients, once per kernel row, are wider than the images
    expect(sizes(sampleBytes - 1)).toEqual([1, 1, 1, 1, 1]);
    expect(sizes(2 * sampleBytes)).toEqual([2, 2, 1]);
    expect(sizes(100 * sampleBytes)).toEqual([5]);
  });
});

it('suits convolutions over enough rows, row by row, that see more numbers than they yield', () => {
  const window = (fields: Partial<Convolution>): WindowGeometry =>
    convolutionGeometry({ height: 28, width: 28, kernel: [3, 3], strides: [1, 1], dilations: [1, 1], padding: { kind: 'same' }, ...fields }); // prettier-ignore
  expect(suitsLowering(window({}), 32, 32)).toBe(true);
  expect(suitsLowering(window({}), 1, 32)).toBe(false);
  expect(suitsLowering(window({}), 32, 320)).toBe(false);
  expect(suitsLowering(window({ strides: [2, 2] }), 32, 32)).toBe(false);
  expect(suitsLowering(window({ strides: [1, 2] }), 32, 32)).toBe(true);
  expect(suitsLowering(window({ height: 4 }), 32, 32)).toBe(true);
  expect(suitsLowering(window({ height: 3 }), 32, 32)).toBe(false);
});
