/**
 * What a convolution's parameters need of its patches, without the patches.
 *
 * Images are lowered along their columns only, to [B, H', ow, kw·C]: that takes kw times their size, where patches take kh·kw times.
 * Output row p sees under kernel row i the row p + i·D of them (D the dilation), so what is a product of patches is one product of
 * shifted rows per kernel row; and of A = Σ_p a_p a_pᵀ, whose blocks (i, j) differ only at the images' ends for equal j − i, kh
 * products instead of kh².
 *
 * Cho & Brand, "MEC: Memory-efficient Convolution for Deep Neural Network", 2017, for the lowering.
 *
 * Axes: B samples; H' rows, padding counted; P positions; n = kh·kw·C; c outputs; r columns per sample, R = B·r.
 */
import type { WindowGeometry } from '../../../shared/convolution.ts';
import { elementCount } from '../../../shared/shape.ts';
import type { Engine, Tensor } from '../../tensor/engine.ts';
import { columnViews } from '../../tensor/windows.ts';

export interface LoweredImages {
  readonly window: WindowGeometry;
  /** Rows of the images, and those of padding before them. */
  readonly height: number;
  readonly top: number;
  /** Some samples each, [b, H', ow, kw·C]. */
  readonly parts: readonly Tensor[];
}

/**
 * Bytes of a part, or of the gradients that meet it. Larger blocks are not kept between their uses by the C library's allocator,
 * so that every page of them is made anew: lowering 61 MB takes 27 ms in one part and 4 ms in two.
 */
const PART_BYTES = 16 * 2 ** 20;
const ELEMENT_BYTES = 4;

/** Rows of zeros that keep a sample's rows from meeting the next sample's. */
function rowsApart({ rows }: WindowGeometry): number {
  return (rows.kernel - 1) * rows.dilation;
}

/**
 * Whether the lowered images, and gradients repeated for every kernel row, take fewer numbers than patches and gradients; and the
 * images' ends, which have to be taken off the products, are the smaller part of them.
 *
 * @param channels C
 * @param outputs r·c
 */
export function suitsLowering(window: WindowGeometry, channels: number, outputs: number): boolean {
  const { rows, columns } = window;
  const lowered = columns.kernel * channels + rows.kernel * outputs;
  const patched = rows.kernel * columns.kernel * channels + outputs;
  return rows.stride === 1 && rows.outputs >= 2 * rowsApart(window) && lowered < patched;
}

/**
 * @param images [B, H, W, C]
 * @param outputs r·c of the gradients that will meet them
 */
export function lowerImages(
  engine: Engine,
  window: WindowGeometry,
  images: Tensor,
  outputs: number,
  partBytes = PART_BYTES,
): LoweredImages {
  const { concat, pad, slice } = engine;
  const { rows, columns } = window;
  const [batch = 1, height = 1, , channels = 1] = images.shape;
  const [top, bottom] = rows.padding;
  const below = Math.max(bottom, rowsApart(window) - top);
  const widest = Math.max(columns.kernel * channels, rows.kernel * outputs);
  const sampleBytes = ELEMENT_BYTES * (top + height + below) * columns.outputs * widest;
  const parts = ranges(batch, Math.max(1, Math.floor(partBytes / sampleBytes))).map(({ begin, size }) =>
    engine.scope(() => {
      const samples = size === batch ? images : slice(images, 0, begin, size);
      const padded = pad(samples, [[0, 0], [top, below], columns.padding, [0, 0]]);
      return concat(columnViews(engine, columns, padded), 3);
    }),
  );
  return { window, height, top, parts };
}

/** Σ a aᵀ over all patches of all samples, [n, n]. */
export function patchesGram(engine: Engine, lowered: LoweredImages): Tensor {
  const { add, concat, subtract, transpose } = engine;
  const { window, height, top, parts } = lowered;
  const { kernel, dilation, outputs } = window.rows;
  return engine.scope(() => {
    /** Σ z_q z_{q+shift}ᵀ over rows q in [begin, end) of every sample; null for no rows. */
    const overRows = (begin: number, end: number, shift: number): Tensor | null =>
      begin >= end ? null : parts.map((part) => rowsProduct(engine, part, begin, end, shift)).reduce(add);
    const blocks = new Map<string, Tensor>();
    for (let apart = 0; apart < kernel; apart++) {
      const shift = apart * dilation;
      const everywhere = parts.map((part) => shiftedProduct(engine, part, shift)).reduce(add);
      // Where neither row is padding.
      const [first, last] = [top, top + height - shift];
      for (let i = 0; i + apart < kernel; i++) {
        const begin = i * dilation;
        const before = overRows(first, Math.min(begin, last), shift);
        const behind = overRows(Math.max(begin + outputs, first), last, shift);
        const block = [before, behind].reduce<Tensor>(
          (rest, outside) => (outside === null ? rest : subtract(rest, outside)),
          everywhere,
        );
        blocks.set(`${String(i)} ${String(i + apart)}`, block);
        if (apart > 0) blocks.set(`${String(i + apart)} ${String(i)}`, transpose(block, [1, 0]));
      }
    }
    const indices = Array.from({ length: kernel }, (_, index) => index);
    const block = (i: number, j: number): Tensor => {
      const found = blocks.get(`${String(i)} ${String(j)}`);
      if (found === undefined) throw new RangeError(`no block ${String(i)}, ${String(j)}`);
      return found;
    };
    return concat(indices.map((i) => concat(indices.map((j) => block(i, j)), 1)), 0); // prettier-ignore
  });
}

/** Σ z_q z_{q+shift}ᵀ over all rows of all samples, [kw·C, kw·C]. Between two samples at least one row of every pair is zero. */
function shiftedProduct(engine: Engine, part: Tensor, shift: number): Tensor {
  const { matMul, reshape, slice } = engine;
  const [, , places = 1, width = 1] = part.shape;
  const count = elementCount(part.shape) / width;
  const length = count - shift * places;
  return engine.scope(() => {
    const flat = reshape(part, [count, width]);
    if (shift === 0) return matMul(flat, flat, { transposeLeft: true });
    return matMul(slice(flat, 0, 0, length), slice(flat, 0, count - length, length), { transposeLeft: true });
  });
}

/** The same over rows q in [begin, end) alone. */
function rowsProduct(engine: Engine, part: Tensor, begin: number, end: number, shift: number): Tensor {
  const { matMul, reshape, slice } = engine;
  const [samples = 1, , places = 1, width = 1] = part.shape;
  return engine.scope(() => {
    const from = (row: number): Tensor =>
      reshape(slice(part, 1, row, end - begin), [samples * (end - begin) * places, width]);
    return matMul(from(begin), from(begin + shift), { transposeLeft: true });
  });
}

/**
 * Per-sample gradients of the kernel, [R, c, n].
 *
 * @param gradients in the outputs, [R, P, c]
 */
export function loweredGradients(engine: Engine, { window, parts }: LoweredImages, gradients: Tensor): Tensor {
  const { concat, matMul, pad, reshape, slice, transpose } = engine;
  const { rows, columns } = window;
  const batch = parts.reduce((sum, { shape }) => sum + (shape[0] ?? 0), 0);
  const [rowCount = 1, , outputs = 1] = gradients.shape;
  const r = rowCount / batch;
  let begin = 0;
  const results = parts.map((part) => {
    const [samples = 1, height = 1, places = 1, width = 1] = part.shape;
    const from = begin;
    begin += samples;
    return engine.scope(() => {
      const own = slice(gradients, 0, from * r, samples * r);
      const bySample = reshape(own, [samples, r, rows.outputs, columns.outputs, outputs]);
      // The columns of a sample side by side, so that one product serves them all.
      const aligned = reshape(r === 1 ? bySample : transpose(bySample, [0, 2, 3, 1, 4]), [
        samples,
        rows.outputs,
        columns.outputs,
        r * outputs,
      ]);
      const shifted = Array.from({ length: rows.kernel }, (_, i) => {
        const above = i * rows.dilation;
        return pad(aligned, [[0, 0], [above, height - rows.outputs - above], [0, 0], [0, 0]]); // prettier-ignore
      });
      const product = matMul(
        reshape(concat(shifted, 3), [samples, height * places, rows.kernel * r * outputs]),
        reshape(part, [samples, height * places, width]),
        { transposeLeft: true },
      );
      const byOutput = transpose(reshape(product, [samples, rows.kernel, r * outputs, width]), [0, 2, 1, 3]);
      return reshape(byOutput, [samples * r, outputs, rows.kernel * width]);
    });
  });
  return concat(results, 0);
}

/** [0, length) in ranges of at most so many. */
function ranges(length: number, most: number): { readonly begin: number; readonly size: number }[] {
  return Array.from({ length: Math.ceil(length / most) }, (_, index) => {
    const begin = index * most;
    return { begin, size: Math.min(most, length - begin) };
  });
}
