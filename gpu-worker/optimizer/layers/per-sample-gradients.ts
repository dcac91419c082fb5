/**
 * Per-sample gradients of one parameter block W [n, c]: row i·r + ρ is the gradient of column ρ of sample i.
 *
 * Axes: B samples; r columns per sample; R = B·r rows, sample by sample; P positions at which a sample uses the parameters;
 * n inputs, the bias counted; c outputs. A row's gradient is Σ_p a_ip ⊗ g_rp, an n×c matrix. It is kept in factors as long as
 * possible, since a row of a dense layer then takes n + c numbers instead of n·c.
 */
import { EXPLICIT_BLOCK_BYTES } from '../../../shared/cost.ts';
import { elementCount } from '../../../shared/shape.ts';
import type { Engine, Tensor } from '../../tensor/engine.ts';
import { timesTransform, transformTimes, type Transform } from './transform.ts';
import { patches } from '../../tensor/windows.ts';
import { loweredGradients, patchesGram, type LoweredImages } from './compact-lowering.ts';

export type PerSampleGradients =
  /** One position: a [B, n] and g [R, c]. */
  | { readonly kind: 'outer'; readonly input: Tensor; readonly output: Tensor }
  /** Several positions: a [B, P, n] and g [R, P, c]. */
  | { readonly kind: 'positions'; readonly input: Tensor; readonly output: Tensor }
  /** The positions of a convolution: images [B, H, W, C] whose patches a [B, P, n] are not made, and g [R, P, c]. */
  | {
      readonly kind: 'convolution';
      readonly images: Tensor;
      readonly lowered: LoweredImages;
      readonly output: Tensor;
      readonly bias: boolean;
    }
  /** The gradients themselves, output by output, [R, c, n]. */
  | { readonly kind: 'explicit'; readonly gradients: Tensor };

const ELEMENT_BYTES = 4;

function size(tensor: Tensor, axis: number): number {
  return tensor.shape.at(axis) ?? 1;
}

/** n and c of the parameter block. */
function blockShape(gradients: PerSampleGradients): readonly [number, number] {
  switch (gradients.kind) {
    case 'outer':
    case 'positions':
      return [size(gradients.input, -1), size(gradients.output, -1)];
    case 'convolution': {
      const { rows, columns } = gradients.lowered.window;
      const inputs = rows.kernel * columns.kernel * size(gradients.images, -1);
      return [gradients.bias ? inputs + 1 : inputs, size(gradients.output, -1)];
    }
    case 'explicit':
      return [size(gradients.gradients, 2), size(gradients.gradients, 1)];
  }
}

/** Repeats every sample's slice for its r columns: [B, …] → [R, …]. */
export function repeatColumns(engine: Engine, perSample: Tensor, rows: number): Tensor {
  const [batch = 1, ...rest] = perSample.shape;
  if (batch === rows) return perSample;
  const ones = engine.tensor(new Float32Array(rows / batch).fill(1), [1, rows / batch, ...rest.map(() => 1)]);
  return engine.reshape(engine.multiply(engine.reshape(perSample, [batch, 1, ...rest]), ones), [rows, ...rest]);
}

/** Adds up every sample's r columns: [R, …] → [B, …]. */
function sumColumns(engine: Engine, perRow: Tensor, batch: number): Tensor {
  const [rows = 1, ...rest] = perRow.shape;
  if (batch === rows) return perRow;
  return engine.sum(engine.reshape(perRow, [batch, rows / batch, ...rest]), 1);
}

/** A matrix applied to the last axis: [..., n] · [n, k] → [..., k], or transposed first. */
export function timesLastAxis(
  engine: Engine,
  tensor: Tensor,
  matrix: Tensor,
  product: { readonly transposeRight?: boolean } = {},
): Tensor {
  return alongLastAxis(engine, tensor, (rows) => engine.matMul(rows, matrix, product));
}

function transformLastAxis(engine: Engine, tensor: Tensor, transform: Transform): Tensor {
  return alongLastAxis(engine, tensor, (rows) => timesTransform(engine, rows, transform));
}

/** A function of matrices [rows, n] → [rows, k] on the last axis: [..., n] → [..., k]. */
function alongLastAxis(engine: Engine, tensor: Tensor, apply: (rows: Tensor) => Tensor): Tensor {
  const result = apply(flatRows(engine, tensor));
  return engine.reshape(result, [...tensor.shape.slice(0, -1), size(result, -1)]);
}

/** A tensor [R] shaped to multiply the rows of a tensor of the given rank. */
function perRow(engine: Engine, values: Tensor, rank: number): Tensor {
  return engine.reshape(values, [size(values, 0), ...new Array<number>(rank - 1).fill(1)]);
}

/** Numbers that are added up one by one; longer sums are made of such sums, since float32 would lose their digits. */
const LONGEST_SUM = 1024;

/** Sum over every axis but the first. */
function rowSums(engine: Engine, tensor: Tensor): Tensor {
  const { add, reshape, slice, sum } = engine;
  const [rows = 1, ...rest] = tensor.shape;
  const length = elementCount(rest);
  const flat = reshape(tensor, [rows, length]);
  const parts = Math.floor(length / LONGEST_SUM);
  if (parts < 2) return sum(flat, 1);
  const whole = parts * LONGEST_SUM;
  const head = whole === length ? flat : slice(flat, 1, 0, whole);
  const total = sum(sum(reshape(head, [rows, parts, LONGEST_SUM]), 2), 1);
  return whole === length ? total : add(total, sum(slice(flat, 1, whole, length - whole), 1));
}

/**
 * T_aᵀ J T_g, row by row: the gradients in other coordinates of the block.
 *
 * @param inputTransform T_a, [n, n'], or null for I
 * @param outputTransform T_g, [c, c'], or null for I
 */
export function transformGradients(
  engine: Engine,
  gradients: PerSampleGradients,
  inputTransform: Transform | null,
  outputTransform: Transform | null,
): PerSampleGradients {
  if (gradients.kind === 'convolution') {
    return transformExplicit(engine, gradients, inputTransform, outputTransform);
  }
  if (inputTransform === null && outputTransform === null) return gradients;
  if (gradients.kind === 'explicit') throw new TypeError('explicit gradients have no factors to transform');
  if (gradients.kind === 'positions' && isSmallerExplicit(sizesOf(gradients))) {
    return transformExplicit(engine, gradients, inputTransform, outputTransform);
  }
  const along = (tensor: Tensor, transform: Transform | null): Tensor =>
    transform === null ? tensor : transformLastAxis(engine, tensor, transform);
  return {
    kind: gradients.kind,
    input: along(gradients.input, inputTransform),
    output: along(gradients.output, outputTransform),
  };
}

/** Sizes of gradients that are sums over positions. */
export interface PositionSizes {
  readonly batch: number;
  readonly rows: number;
  readonly positions: number;
  readonly inputs: number;
  readonly outputs: number;
}

/**
 * Whether a row takes fewer numbers than its factors, as those of a convolution with many positions do: then it is less work to
 * multiply the factors first and to transform their product.
 */
export function isSmallerExplicit({ batch, rows, positions, inputs, outputs }: PositionSizes): boolean {
  return rows * inputs * outputs < positions * (batch * inputs + rows * outputs);
}

function sizesOf(gradients: Products): PositionSizes {
  const [inputs, outputs] = blockShape(gradients);
  const [batch, rows] = [size(gradients.input, 0), size(gradients.output, 0)];
  return { batch, rows, positions: positionsOf(gradients), inputs, outputs };
}

/** The output's transform meets the factor that it is about, the input's the rows. */
function transformExplicit(
  engine: Engine,
  gradients: Factored,
  inputTransform: Transform | null,
  outputTransform: Transform | null,
): Explicit {
  const { output } = gradients;
  const transformed = outputTransform === null ? output : transformLastAxis(engine, output, outputTransform);
  const { gradients: rows } = explicitGradients(engine, { ...gradients, output: transformed });
  return {
    kind: 'explicit',
    gradients: inputTransform === null ? rows : transformLastAxis(engine, rows, inputTransform),
  };
}

/** The rows themselves, all at once. */
function explicitGradients(engine: Engine, gradients: Factored): Explicit {
  const [inputs, outputs] = blockShape(gradients);
  const rows = size(gradients.output, 0);
  if (gradients.kind !== 'convolution') {
    const matrix = explicitMatrix(engine, gradients, { begin: 0, width: outputs });
    return { kind: 'explicit', gradients: engine.reshape(matrix, [rows, outputs, inputs]) };
  }
  const { lowered, output, bias } = gradients;
  const kernel = loweredGradients(engine, lowered, output);
  if (!bias) return { kind: 'explicit', gradients: kernel };
  const biases = engine.reshape(engine.sum(output, 1), [rows, outputs, 1]);
  return { kind: 'explicit', gradients: engine.concat([kernel, biases], 2) };
}

/** What is added up range by range: a convolution's rows are smaller than what they are made of, and are made at once. */
function inRanges(engine: Engine, gradients: PerSampleGradients): Products | Explicit {
  return gradients.kind === 'convolution' ? explicitGradients(engine, gradients) : gradients;
}

/** Outputs [begin, begin + width) of the block. */
interface OutputRange {
  readonly begin: number;
  readonly width: number;
}

/** The outputs in ranges whose explicit gradients fit into the budget. */
function outputRanges(gradients: Products | Explicit): OutputRange[] {
  const [n, c] = blockShape(gradients);
  if (gradients.kind === 'explicit') return [{ begin: 0, width: c }];
  const widest = Math.max(1, Math.floor(EXPLICIT_BLOCK_BYTES / (ELEMENT_BYTES * size(gradients.output, 0) * n)));
  return Array.from({ length: Math.ceil(c / widest) }, (_, index) => {
    const begin = index * widest;
    return { begin, width: Math.min(widest, c - begin) };
  });
}

/** The rows as an explicit matrix, [R, width · n], for a range of outputs. */
function explicitMatrix(engine: Engine, gradients: Products | Explicit, { begin, width }: OutputRange): Tensor {
  const { matMul, reshape, slice, transpose } = engine;
  const [n, c] = blockShape(gradients);
  if (gradients.kind === 'explicit') return reshape(gradients.gradients, [size(gradients.gradients, 0), n * width]);
  const { input, output } = gradients;
  const rows = size(output, 0);
  const batch = size(input, 0);
  const columns = rows / batch;
  const positions = positionsOf(gradients);
  const range = width === c ? output : slice(output, output.shape.length - 1, begin, width);
  // [B, r, P, width] → [B, P, r·width], so that one product per sample serves all its columns.
  const byColumn = reshape(range, [batch, columns, positions, width]);
  const perSample = reshape(columns === 1 ? byColumn : transpose(byColumn, [0, 2, 1, 3]), [
    batch,
    positions,
    columns * width,
  ]);
  const product = matMul(perSample, reshape(input, [batch, positions, n]), { transposeLeft: true });
  return reshape(product, [rows, width * n]);
}

/** The weights of a range of outputs, [1, width · n]. */
function rangeWeights(engine: Engine, weights: Tensor, { begin, width }: OutputRange): Tensor {
  const { reshape, slice, transpose } = engine;
  return reshape(transpose(slice(weights, 1, begin, width), [1, 0]), [1, width * size(weights, 0)]);
}

/** J diag(w) Jᵀ, [R, R]; w [n, c], or null for ones. */
export function gram(engine: Engine, gradients: PerSampleGradients, weights: Tensor | null): Tensor {
  const { matMul, multiply, reshape } = engine;
  if (gradients.kind === 'outer' && weights === null) {
    // (a aᵀ) ∘ (g gᵀ): two small products and one Hadamard product.
    const inputGram = matMul(gradients.input, gradients.input, { transposeRight: true });
    const outputGram = matMul(gradients.output, gradients.output, { transposeRight: true });
    const rows = size(gradients.output, 0);
    const batch = size(gradients.input, 0);
    if (rows === batch) return multiply(inputGram, outputGram);
    const columns = rows / batch;
    const bySample = reshape(outputGram, [batch, columns, batch, columns]);
    return reshape(multiply(reshape(inputGram, [batch, 1, batch, 1]), bySample), [rows, rows]);
  }
  return sumOverOutputs(engine, gradients, (matrix, range) => {
    const weighted = weights === null ? matrix : multiply(matrix, rangeWeights(engine, weights, range));
    return matMul(weighted, matrix, { transposeRight: true });
  });
}

/** The diagonal of J diag(w) Jᵀ, [R]; w [n, c], or null for ones. */
export function gramDiagonal(engine: Engine, gradients: PerSampleGradients, weights: Tensor | null): Tensor {
  const { matMul, multiply, square } = engine;
  if (gradients.kind === 'outer') {
    const squaredInput = square(gradients.input);
    const squaredOutput = square(gradients.output);
    const rows = size(squaredOutput, 0);
    if (weights === null) {
      return multiply(repeatColumns(engine, rowSums(engine, squaredInput), rows), rowSums(engine, squaredOutput));
    }
    return rowSums(engine, multiply(repeatColumns(engine, matMul(squaredInput, weights), rows), squaredOutput));
  }
  return sumOverOutputs(engine, gradients, (matrix, range) => {
    const squared = square(matrix);
    return rowSums(engine, weights === null ? squared : multiply(squared, rangeWeights(engine, weights, range)));
  });
}

/** Adds up a term over ranges of outputs; no more than one range's explicit gradients exist at a time. */
function sumOverOutputs(
  engine: Engine,
  gradients: PerSampleGradients,
  term: (matrix: Tensor, range: OutputRange) => Tensor,
): Tensor {
  const rows = inRanges(engine, gradients);
  let sum: Tensor | null = null;
  for (const range of outputRanges(rows)) {
    const before: Tensor | null = sum;
    sum = engine.scope(() => {
      const value = term(explicitMatrix(engine, rows, range), range);
      return before === null ? value : engine.add(before, value);
    });
    if (before !== null) engine.dispose([before]);
  }
  if (sum === null) throw new RangeError('gradients without outputs');
  return sum;
}

/** J vec(M) for a change M [n, c] of the block, [R]: what it does to every column's output. */
export function timesChange(engine: Engine, gradients: PerSampleGradients, change: Tensor): Tensor {
  const { multiply, reshape, transpose } = engine;
  const [n, c] = blockShape(gradients);
  if (gradients.kind === 'explicit') {
    return rowSums(engine, multiply(gradients.gradients, reshape(transpose(change, [1, 0]), [1, c, n])));
  }
  const preActivation =
    gradients.kind === 'convolution'
      ? convolved(engine, gradients, change)
      : timesLastAxis(engine, gradients.input, change);
  return rowSums(engine, multiply(repeatColumns(engine, preActivation, size(gradients.output, 0)), gradients.output));
}

/** What a matrix [n, c] as kernel and bias makes of the images, [B, P, c]. */
function convolved(engine: Engine, { images, lowered, bias, output }: Convolution, matrix: Tensor): Tensor {
  const { add, convolution, reshape, slice } = engine;
  const { rows, columns } = lowered.window;
  const [batch, channels, outputs] = [size(images, 0), size(images, -1), size(output, -1)];
  const inputs = rows.kernel * columns.kernel * channels;
  const kernel = reshape(slice(matrix, 0, 0, inputs), [rows.kernel, columns.kernel, channels, outputs]);
  const result = reshape(convolution(images, kernel, lowered.window), [batch, size(output, 1), outputs]);
  return bias ? add(result, slice(matrix, 0, inputs, 1)) : result;
}

/** Jᵀκ as a matrix [n, c]: one re-weighted weight-gradient product, aᵀ diag(κ) g. */
export function weightedSum(engine: Engine, gradients: PerSampleGradients, weights: Tensor): Tensor {
  const { matMul, reshape, transpose } = engine;
  if (gradients.kind === 'explicit' || gradients.kind === 'convolution') {
    const [n, c] = blockShape(gradients);
    const matrix = explicitMatrix(engine, inRanges(engine, gradients), { begin: 0, width: c });
    return transpose(reshape(matMul(reshape(weights, [1, size(weights, 0)]), matrix), [c, n]), [1, 0]);
  }
  return matMul(flatInput(engine, gradients), weightedOutput(engine, gradients, weights), {
    transposeLeft: true,
  });
}

/**
 * L (Jᵀκ) Rᵀ for matrices L [m, n] and R [k, c], or null for I, in the order of products that takes least work: each is applied to
 * the B·P inputs or outputs, or to the matrix that their product is.
 */
export function transformedWeightedSum(
  engine: Engine,
  gradients: Products,
  weights: Tensor,
  left: Transform | null,
  right: Transform | null,
): Tensor {
  let input = flatInput(engine, gradients);
  let output = weightedOutput(engine, gradients, weights);
  const order = cheapestOrder([size(input, 0), size(input, 1), size(output, 1)], left, right);
  if (left !== null && order.left === 'inputs') input = timesTransform(engine, input, left, { transposeRight: true });
  if (right !== null && order.right === 'outputs') {
    output = timesTransform(engine, output, right, { transposeRight: true });
  }
  let result = engine.matMul(input, output, { transposeLeft: true });
  if (right !== null && order.right === 'product') {
    result = timesTransform(engine, result, right, { transposeRight: true });
  }
  if (left !== null && order.left === 'product') result = transformTimes(engine, left, result);
  if (right !== null && order.right === 'last') {
    result = timesTransform(engine, result, right, { transposeRight: true });
  }
  return result;
}

/** What L and R are multiplied with; R `last`: with the product, after L. */
interface ProductOrder {
  readonly left: 'inputs' | 'product';
  readonly right: 'outputs' | 'product' | 'last';
}

/** @param sizes samples and positions; n; c */
function cheapestOrder(
  [rows, n, c]: readonly [number, number, number],
  left: Transform | null,
  right: Transform | null,
): ProductOrder {
  const [m, k] = [left?.matrix.shape[0] ?? n, right?.matrix.shape[0] ?? c];
  // A product with a triangular matrix is half the work.
  const share = (transform: Transform | null): number =>
    transform === null ? 0 : transform.isUpperTriangular ? 0.5 : 1;
  const work = (order: ProductOrder): number => {
    const inputs = order.left === 'inputs' ? m : n;
    const outputs = order.right === 'outputs' ? k : c;
    const leftMeets = order.left === 'inputs' ? rows : order.right === 'last' ? c : k;
    const rightMeets = order.right === 'outputs' ? rows : order.right === 'last' ? m : inputs;
    return rows * inputs * outputs + share(left) * m * n * leftMeets + share(right) * k * c * rightMeets;
  };
  return ORDERS.reduce((best, order) => (work(order) < work(best) ? order : best));
}

const ORDERS: readonly [ProductOrder, ...ProductOrder[]] = [
  { left: 'product', right: 'product' },
  { left: 'product', right: 'last' },
  { left: 'product', right: 'outputs' },
  { left: 'inputs', right: 'product' },
  { left: 'inputs', right: 'outputs' },
];

/** a, [B·P, n]. */
function flatInput(engine: Engine, { input }: Products): Tensor {
  return flatRows(engine, input);
}

/** diag(κ) g with the columns of a sample added up, [B·P, c]. */
function weightedOutput(engine: Engine, { input, output }: Products, weights: Tensor): Tensor {
  const weighted = engine.multiply(output, perRow(engine, weights, output.shape.length));
  return flatRows(engine, sumColumns(engine, weighted, size(input, 0)));
}

/** [..., n] → [rows, n]. */
function flatRows(engine: Engine, tensor: Tensor): Tensor {
  const rows = elementCount(tensor.shape.slice(0, -1));
  return engine.reshape(tensor, [rows, size(tensor, -1)]);
}

/** Σ_r h_r J_r² / B, elementwise, as a matrix [n, c]. */
export function secondMoment(engine: Engine, gradients: PerSampleGradients, rowWeights: Tensor, batch: number): Tensor {
  const { concat, divide, matMul, multiply, reshape, square, sum, transpose } = engine;
  const [n] = blockShape(gradients);
  if (gradients.kind === 'outer') {
    const weighted = multiply(square(gradients.output), perRow(engine, rowWeights, 2));
    return divide(
      matMul(square(gradients.input), sumColumns(engine, weighted, size(gradients.input, 0)), { transposeLeft: true }),
      batch,
    );
  }
  const rows = inRanges(engine, gradients);
  const blocks = outputRanges(rows).map((range) =>
    engine.scope(() => {
      const squared = square(explicitMatrix(engine, rows, range));
      return reshape(sum(multiply(squared, perRow(engine, rowWeights, 2)), 0), [range.width, n]);
    }),
  );
  return divide(transpose(concat(blocks, 0), [1, 0]), batch);
}

type Explicit = Extract<PerSampleGradients, { kind: 'explicit' }>;
type Convolution = Extract<PerSampleGradients, { kind: 'convolution' }>;
/** Gradients whose rows are sums of outer products. */
type Factored = Exclude<PerSampleGradients, Explicit>;
/** Gradients with both factors. */
export type Products = Exclude<Factored, Convolution>;

/** Kronecker factors of one batch: A = E[Σ_p a aᵀ] and Γ = E[(1/P) Σ_p h g gᵀ], with the columns of a sample added up. */
export function kroneckerFactors(
  engine: Engine,
  gradients: Factored,
  rowWeights: Tensor,
): { readonly inputFactor: Tensor; readonly outputFactor: Tensor } {
  const { divide } = engine;
  return {
    inputFactor: divide(inputGram(engine, gradients), batchOf(gradients)),
    outputFactor: outputFactorOf(engine, gradients, rowWeights),
  };
}

/** Σ a aᵀ over samples and positions, [n, n]. */
function inputGram(engine: Engine, gradients: Factored): Tensor {
  const { concat, matMul, reshape, sum, tensor, transpose } = engine;
  if (gradients.kind !== 'convolution') {
    const a = flatInput(engine, gradients);
    return matMul(a, a, { transposeLeft: true });
  }
  const { images, lowered, bias } = gradients;
  const ofKernel = patchesGram(engine, lowered);
  if (!bias) return ofKernel;
  const allSamples = reshape(sum(images, 0), [1, ...images.shape.slice(1)]);
  const sums = sum(patches(engine, lowered.window, allSamples), 1); // [1, n − 1]
  const count = tensor([batchOf(gradients) * positionsOf(gradients)], [1, 1]);
  return concat([concat([ofKernel, transpose(sums, [1, 0])], 1), concat([sums, count], 1)], 0);
}

/** Γ of one batch. */
export function outputFactorOf(engine: Engine, gradients: Factored, rowWeights: Tensor): Tensor {
  const { divide, matMul, multiply, reshape, sqrt } = engine;
  const { output } = gradients;
  const positions = positionsOf(gradients);
  // The weights' roots on both sides: a matrix times its own transpose, of which an engine may compute one half.
  const scaled = multiply(output, perRow(engine, sqrt(rowWeights), output.shape.length));
  const g = reshape(scaled, [size(output, 0) * positions, size(output, -1)]);
  return divide(matMul(g, g, { transposeLeft: true }), batchOf(gradients) * positions);
}

/** P. */
function positionsOf(gradients: Factored): number {
  return gradients.kind === 'outer' ? 1 : size(gradients.output, 1);
}

/** B. */
function batchOf(gradients: Factored): number {
  return size(gradients.kind === 'convolution' ? gradients.images : gradients.input, 0);
}
