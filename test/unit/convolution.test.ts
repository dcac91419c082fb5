/** Geometry of convolutions: against counting on a padded line, and against TensorFlow.js. */
import { backend_util as backend } from '@tensorflow/tfjs-core';
import { describe, expect, it } from 'vitest';
import { convolutionGeometry } from '../../shared/convolution.ts';
import { layerSchema } from '../../shared/layer.ts';

const LENGTHS = [1, 2, 3, 4, 5, 6, 7, 8, 11];
const KERNELS = [1, 2, 3, 4, 5];
const STRIDES = [1, 2, 3, 4];
const DILATIONS = [1, 2, 3];
const PADDINGS = [[0, 0], [1, 1], [2, 0], [0, 3]] as const; // prettier-ignore

interface Line {
  readonly length: number;
  readonly kernel: number;
  readonly stride: number;
  readonly dilation: number;
}

const LINES: readonly Line[] = LENGTHS.flatMap((length) =>
  KERNELS.flatMap((kernel) =>
    STRIDES.flatMap((stride) => DILATIONS.map((dilation) => ({ length, kernel, stride, dilation }))),
  ),
);

/** Positions at which a kernel's first and last tap both lie on the padded line. */
function places({ length, kernel, stride, dilation }: Line, [before, after]: readonly [number, number]): number {
  let count = 0;
  for (let first = 0; first < before + length + after; first += stride) {
    if (first + (kernel - 1) * dilation < before + length + after) count++;
  }
  return count;
}

type Padding = Parameters<typeof convolutionGeometry>[0]['padding'];

/** A convolution that is the given line along rows, and something else along columns. */
function alongRows({ length, kernel, stride, dilation }: Line, padding: Padding) {
  return convolutionGeometry({
    height: length,
    width: 9,
    kernel: [kernel, 2],
    strides: [stride, 3],
    dilations: [dilation, 1],
    padding,
  }).rows;
}

function alongColumns({ length, kernel, stride, dilation }: Line, padding: Padding) {
  return convolutionGeometry({
    height: 9,
    width: length,
    kernel: [2, kernel],
    strides: [3, stride],
    dilations: [1, dilation],
    padding,
  }).columns;
}

describe('output positions', () => {
  it('without padding: as many as the kernel has places; below 1 where it has none', () => {
    for (const line of LINES) {
      for (const geometry of [alongRows(line, { kind: 'valid' }), alongColumns(line, { kind: 'valid' })]) {
        expect(geometry.padding).toEqual([0, 0]);
        expect(Math.max(0, geometry.outputs), JSON.stringify(line)).toBe(places(line, [0, 0]));
      }
    }
  });

  it('with zeros of one’s own: as many as the kernel has places on the padded line', () => {
    for (const line of LINES) {
      for (const zeros of PADDINGS) {
        const own = { rows: [...zeros], columns: [5, 6] } as const;
        const rows = alongRows(line, { kind: 'explicit', rows: zeros, columns: own.columns });
        const columns = alongColumns(line, { kind: 'explicit', rows: own.columns, columns: zeros });
        for (const geometry of [rows, columns]) {
          expect(geometry.padding).toEqual(zeros);
          expect(Math.max(0, geometry.outputs), JSON.stringify({ line, zeros })).toBe(places(line, zeros));
        }
      }
    }
  });

  it('same: one per stride, with as few zeros as that takes, an odd one behind', () => {
    for (const line of LINES) {
      for (const geometry of [alongRows(line, { kind: 'same' }), alongColumns(line, { kind: 'same' })]) {
        const [before, after] = geometry.padding;
        const text = JSON.stringify(line);
        expect(geometry.outputs, text).toBe(Math.ceil(line.length / line.stride));
        expect(geometry.outputs, text).toBe(places(line, geometry.padding));
        expect([0, 1], text).toContain(after - before);
        const total = before + after;
        if (total > 0) expect(places(line, [0, total - 1]), text).toBeLessThan(geometry.outputs);
      }
    }
  });
});

describe('against TensorFlow.js', () => {
  const info = (rows: Line, columns: Line, padding: Parameters<typeof backend.computeConv2DInfo>[4]) =>
    backend.computeConv2DInfo(
      [1, rows.length, columns.length, 1],
      [rows.kernel, columns.kernel, 1, 1],
      [rows.stride, columns.stride],
      [rows.dilation, columns.dilation],
      padding,
    );
  const geometryOf = (rows: Line, columns: Line, padding: Padding) =>
    convolutionGeometry({
      height: rows.length,
      width: columns.length,
      kernel: [rows.kernel, columns.kernel],
      strides: [rows.stride, columns.stride],
      dilations: [rows.dilation, columns.dilation],
      padding,
    });
  // Every line along rows, each with another one along columns.
  const pairs = LINES.map((rows, index) => [rows, LINES[(index * 37 + 11) % LINES.length]!] as const);

  it('same: output size and zeros', () => {
    for (const [rows, columns] of pairs) {
      const { outHeight, outWidth, padInfo } = info(rows, columns, 'same');
      const geometry = geometryOf(rows, columns, { kind: 'same' });
      expect(geometry.rows).toMatchObject({ outputs: outHeight, padding: [padInfo.top, padInfo.bottom] });
      expect(geometry.columns).toMatchObject({ outputs: outWidth, padding: [padInfo.left, padInfo.right] });
    }
  });

  it('valid: output size, where the kernel fits', () => {
    for (const [rows, columns] of pairs) {
      if (places(rows, [0, 0]) === 0 || places(columns, [0, 0]) === 0) continue;
      const { outHeight, outWidth } = info(rows, columns, 'valid');
      const geometry = geometryOf(rows, columns, { kind: 'valid' });
      expect([geometry.rows.outputs, geometry.columns.outputs]).toEqual([outHeight, outWidth]);
    }
  });

  it('explicit zeros: output size, where the kernel fits', () => {
    const zeros = { rows: [2, 1], columns: [0, 3] } as const;
    for (const [rows, columns] of pairs) {
      if (places(rows, zeros.rows) === 0 || places(columns, zeros.columns) === 0) continue;
      const { outHeight, outWidth } = info(rows, columns, [[0, 0], [...zeros.rows], [...zeros.columns], [0, 0]]); // prettier-ignore
      const geometry = geometryOf(rows, columns, { kind: 'explicit', ...zeros });
      expect([geometry.rows.outputs, geometry.columns.outputs]).toEqual([outHeight, outWidth]);
    }
  });
});

describe('the definition of a convolution', () => {
  const layer = { name: 'conv', kind: 'conv2d', height: 4, width: 4, inputs: 4, outputs: 6, kernel: [3, 3] };
  const fault = (change: object): string => {
    const parsed = layerSchema.safeParse({ ...layer, ...change });
    return parsed.success ? '' : parsed.error.issues.map(({ path, message }) => `${path.join('.')}: ${message}`).join();
  };

  it.each([
    ['a kernel larger than the input', { kernel: [5, 1] }, 'kernel: the kernel does not fit'],
    ['a dilated kernel larger than the input', { dilations: [1, 2] }, 'kernel: the kernel does not fit'],
    ['groups that do not divide the inputs', { groups: 3 }, 'groups: 3 groups do not divide 4 inputs'],
    ['groups that do not divide the outputs', { groups: 4 }, 'groups: 4 groups do not divide 6 outputs'],
  ])('refuses %s', (_, change, message) => {
    expect(fault(change)).toContain(message);
  });

  it.each([
    ['a kernel as large as the input', { kernel: [4, 4] }],
    [
      'a kernel that padding makes fit',
      { kernel: [5, 4], padding: { kind: 'explicit', rows: [0, 1], columns: [0, 0] } },
    ],
    ['any kernel with same padding', { kernel: [9, 9], padding: { kind: 'same' } }],
    ['groups that divide both', { groups: 2 }],
  ])('takes %s', (_, change) => {
    expect(fault(change)).toBe('');
  });
});
