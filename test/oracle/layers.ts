/**
 * Layers of every kind as plain loops over one sample, their explicit parameter gradients, and the step of differential dynamic
 * programming in parameter space: explicit m×m control metrics, explicit Jacobians, dense solves (Liu, Chen, Theodorou,
 * "DDPNOpt: Differential Dynamic Programming Neural Optimizer", ICLR 2021, arXiv 2002.08809).
 *
 * A step sees of a layer its inputs and the gradients in its outputs, so the layers of a problem need not form a network.
 *
 * Axes: B samples; r columns of terminal curvature per sample; R = B·r rows, row i·r + ρ being column ρ of sample i;
 * P positions at which a sample uses the parameters; m parameters, in the order of the layer's tensors (weight before bias, scale
 * before shift), each row-major. Activations of one sample are flat, row-major.
 */
import {
  add,
  at,
  blockDiagonal,
  build,
  columnVector,
  diagonal,
  hadamard,
  identity,
  kron,
  multiply,
  scale,
  solve,
  stackColumns,
  stackRows,
  transpose,
  zeros,
} from './matrix.ts';
import type { Matrix } from './matrix.ts';
import { dampedFactors } from './metric.ts';
import { element } from './network.ts';

/** y_p = [x_p, 1] W at every position; x [P, n], y [P, c], weight [n, c], bias [c]. */
export interface DenseOracle {
  readonly kind: 'dense';
  readonly positions: number;
  readonly inputs: number;
  readonly outputs: number;
  readonly bias: boolean;
}

/** x [height, width, C], y [rows, columns, c], weight [kh, kw, C/groups, c], bias [c]. */
export interface Conv2dOracle {
  readonly kind: 'conv2d';
  readonly height: number;
  readonly width: number;
  readonly inputs: number;
  readonly outputs: number;
  readonly kernel: readonly [number, number];
  readonly strides: readonly [number, number];
  readonly dilations: readonly [number, number];
  /** Zeros above, below; left, right. */
  readonly padding: readonly [readonly [number, number], readonly [number, number]];
  readonly groups: number;
  readonly bias: boolean;
}

/** y_p = scale ∘ x_p + shift; x and y [P, features]. */
export interface ScaleShiftOracle {
  readonly kind: 'scale-shift';
  readonly positions: number;
  readonly features: number;
  readonly shift: boolean;
}

/** y_p = row x_p of the weight [vocabulary, c]; x [P]. */
export interface EmbeddingOracle {
  readonly kind: 'embedding';
  readonly positions: number;
  readonly vocabulary: number;
  readonly outputs: number;
}

/** A layer of which only the parameter gradients are known. */
export interface GenericOracle {
  readonly kind: 'generic';
  readonly parameters: number;
}

/** A layer that is linear in its parameters. */
export type LinearLayer = DenseOracle | Conv2dOracle | ScaleShiftOracle | EmbeddingOracle;
export type LayerOracle = LinearLayer | GenericOracle;

type Values = Float64Array;

function valueAt(values: ArrayLike<number>, index: number): number {
  return element(values, index);
}

function accumulate(values: Values, index: number, term: number): void {
  values[index] = element(values, index) + term;
}

/** Sizes of the parameter tensors, in order. */
export function parameterSizes(layer: LayerOracle): number[] {
  switch (layer.kind) {
    case 'dense':
      return [layer.inputs * layer.outputs, ...(layer.bias ? [layer.outputs] : [])];
    case 'conv2d': {
      const weight = layer.kernel[0] * layer.kernel[1] * (layer.inputs / layer.groups) * layer.outputs;
      return [weight, ...(layer.bias ? [layer.outputs] : [])];
    }
    case 'scale-shift':
      return [layer.features, ...(layer.shift ? [layer.features] : [])];
    case 'embedding':
      return [layer.vocabulary * layer.outputs];
    case 'generic':
      return [layer.parameters];
  }
}

/** m. */
export function parameterCount(layer: LayerOracle): number {
  return parameterSizes(layer).reduce((sum, size) => sum + size, 0);
}

/** Output rows and columns of a convolution: as many as there are places where the whole kernel lies on the padded input. */
export function outputExtent(layer: Conv2dOracle): readonly [number, number] {
  const along = (axis: 0 | 1, length: number): number => {
    const last = length + layer.padding[axis][0] + layer.padding[axis][1] - 1;
    let places = 0;
    while (places * layer.strides[axis] + (layer.kernel[axis] - 1) * layer.dilations[axis] <= last) places++;
    return places;
  };
  return [along(0, layer.height), along(1, layer.width)];
}

/** The output of one sample. */
export function forwardLayer(layer: LinearLayer, x: Values, u: Values): Values {
  switch (layer.kind) {
    case 'dense':
      return denseForward(layer, x, u);
    case 'conv2d':
      return convolve(layer, x, u);
    case 'scale-shift': {
      const { positions, features, shift } = layer;
      const y = new Float64Array(positions * features);
      for (let p = 0; p < positions; p++) {
        for (let j = 0; j < features; j++) {
          y[p * features + j] = valueAt(u, j) * valueAt(x, p * features + j) + (shift ? valueAt(u, features + j) : 0);
        }
      }
      return y;
    }
    case 'embedding': {
      const { positions, outputs } = layer;
      const y = new Float64Array(positions * outputs);
      for (let p = 0; p < positions; p++) {
        for (let j = 0; j < outputs; j++) y[p * outputs + j] = valueAt(u, valueAt(x, p) * outputs + j);
      }
      return y;
    }
  }
}

function denseForward({ positions, inputs, outputs, bias }: DenseOracle, x: Values, u: Values): Values {
  const y = new Float64Array(positions * outputs);
  for (let p = 0; p < positions; p++) {
    for (let o = 0; o < outputs; o++) {
      let sum = bias ? valueAt(u, inputs * outputs + o) : 0;
      for (let k = 0; k < inputs; k++) sum += valueAt(x, p * inputs + k) * valueAt(u, k * outputs + o);
      y[p * outputs + o] = sum;
    }
  }
  return y;
}

function convolve(layer: Conv2dOracle, x: Values, u: Values): Values {
  const { height, width, inputs, outputs, kernel, strides, dilations, padding, groups, bias } = layer;
  const [rows, columns] = outputExtent(layer);
  const perGroup = inputs / groups;
  const y = new Float64Array(rows * columns * outputs);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      for (let o = 0; o < outputs; o++) {
        const group = Math.floor(o / (outputs / groups));
        let sum = bias ? valueAt(u, kernel[0] * kernel[1] * perGroup * outputs + o) : 0;
        for (let i = 0; i < kernel[0]; i++) {
          for (let j = 0; j < kernel[1]; j++) {
            const top = row * strides[0] + i * dilations[0] - padding[0][0];
            const left = column * strides[1] + j * dilations[1] - padding[1][0];
            if (top < 0 || top >= height || left < 0 || left >= width) continue;
            for (let k = 0; k < perGroup; k++) {
              const input = valueAt(x, (top * width + left) * inputs + group * perGroup + k);
              sum += input * valueAt(u, ((i * kernel[1] + j) * perGroup + k) * outputs + o);
            }
          }
        }
        y[(row * columns + column) * outputs + o] = sum;
      }
    }
  }
  return y;
}

/** One batch as a layer sees it. */
export interface LayerBatchOracle {
  /** x_i, B of them; none for a generic layer. */
  readonly inputs: readonly Values[];
  /** Gradients of each sample's loss in the outputs (generic: in the parameters), B of them. */
  readonly lossGradients: readonly Values[];
  /** The same for the columns of the terminal curvature, R of them; null where they are the loss gradients. */
  readonly columnGradients: readonly Values[] | null;
}

/**
 * J, [R, m]: row i is d⟨g_i, f(x_i, u)⟩/du. f is linear in u, so its derivative along a parameter is its value at the unit vector
 * of that parameter.
 *
 * @param gradients [R] output gradients, r in a row for every input
 */
export function parameterGradients(
  layer: LayerOracle,
  inputs: readonly Values[],
  gradients: readonly Values[],
): Matrix {
  const m = parameterCount(layer);
  if (layer.kind === 'generic') return build(gradients.length, m, (i, k) => valueAt(element(gradients, i), k));
  const r = gradients.length / inputs.length;
  const responses = inputs.map((x) =>
    Array.from({ length: m }, (_, k) => {
      const unit = new Float64Array(m);
      unit[k] = 1;
      return forwardLayer(layer, x, unit);
    }),
  );
  return build(gradients.length, m, (i, k) =>
    dot(element(gradients, i), element(element(responses, Math.floor(i / r)), k)),
  );
}

function dot(a: Values, b: Values): number {
  if (a.length !== b.length) throw new RangeError(`lengths differ: ${a.length} and ${b.length}`);
  return a.reduce((sum, value, i) => sum + value * valueAt(b, i), 0);
}

/** Parameters that form a matrix [n, c] to which a sample contributes Σ_p a_p g_pᵀ. */
interface FactoredBlock {
  /** n. */
  readonly inputs: number;
  /** c. */
  readonly outputs: number;
  /** Where entry (k, o) of the matrix stands among the layer's parameters. */
  readonly parameter: (k: number, o: number) => number;
  /** a_p of one sample at every position, [n] each. */
  readonly inputVectors: (x: Values) => Values[];
  /** g_p of one row at every position, [c] each. */
  readonly outputVectors: (g: Values) => Values[];
}

/** The factored blocks of a layer, one per group of a convolution; none where the parameters form no such matrix. */
function factoredBlocks(layer: LayerOracle): FactoredBlock[] {
  switch (layer.kind) {
    case 'dense': {
      const { positions, inputs, outputs, bias } = layer;
      return [
        {
          inputs: inputs + (bias ? 1 : 0),
          outputs,
          parameter: (k, o) => k * outputs + o,
          inputVectors: (x) => chunks(x, positions, inputs).map((a) => (bias ? Float64Array.of(...a, 1) : a)),
          outputVectors: (g) => chunks(g, positions, outputs),
        },
      ];
    }
    case 'embedding': {
      const { positions, vocabulary, outputs } = layer;
      return [
        {
          inputs: vocabulary,
          outputs,
          parameter: (k, o) => k * outputs + o,
          inputVectors: (x) =>
            Array.from(x, (token) => Float64Array.from({ length: vocabulary }, (_, k) => (k === token ? 1 : 0))),
          outputVectors: (g) => chunks(g, positions, outputs),
        },
      ];
    }
    case 'conv2d':
      return Array.from({ length: layer.groups }, (_, group) => convolutionBlock(layer, group));
    case 'scale-shift':
    case 'generic':
      return [];
  }
}

function chunks(values: Values, count: number, length: number): Values[] {
  return Array.from({ length: count }, (_, p) => values.slice(p * length, (p + 1) * length));
}

function convolutionBlock(layer: Conv2dOracle, group: number): FactoredBlock {
  const { kernel, groups, inputs, outputs, bias } = layer;
  const perGroup = inputs / groups;
  const outputsPerGroup = outputs / groups;
  const patch = kernel[0] * kernel[1] * perGroup;
  const [rows, columns] = outputExtent(layer);
  return {
    inputs: patch + (bias ? 1 : 0),
    outputs: outputsPerGroup,
    // The bias follows the kernel, so it stands where one more row of the kernel's matrix would.
    parameter: (k, o) => k * outputs + group * outputsPerGroup + o,
    inputVectors: (x) => {
      const vectors: Values[] = [];
      for (let row = 0; row < rows; row++) {
        for (let column = 0; column < columns; column++) vectors.push(patchAt(layer, x, group, row, column));
      }
      return vectors;
    },
    outputVectors: (g) =>
      chunks(g, rows * columns, outputs).map((all) =>
        all.slice(group * outputsPerGroup, (group + 1) * outputsPerGroup),
      ),
  };
}

/** What the kernel of a group sees at one output position, [kh·kw·C/groups], and a 1 for the bias. */
function patchAt(layer: Conv2dOracle, x: Values, group: number, row: number, column: number): Values {
  const perGroup = layer.inputs / layer.groups;
  const patch: number[] = [];
  for (let i = 0; i < layer.kernel[0]; i++) {
    for (let j = 0; j < layer.kernel[1]; j++) {
      const top = row * layer.strides[0] + i * layer.dilations[0] - layer.padding[0][0];
      const left = column * layer.strides[1] + j * layer.dilations[1] - layer.padding[1][0];
      const isInside = top >= 0 && top < layer.height && left >= 0 && left < layer.width;
      for (let k = 0; k < perGroup; k++) {
        patch.push(isInside ? valueAt(x, (top * layer.width + left) * layer.inputs + group * perGroup + k) : 0);
      }
    }
  }
  if (layer.bias) patch.push(1);
  return Float64Array.from(patch);
}

/** A and Γ of one batch. */
interface Factors {
  /** A = E_i[Σ_p a aᵀ], n × n. */
  readonly A: Matrix;
  /** Γ = E_i[(1/P) Σ_p h g gᵀ], the columns of a sample added up, c × c. */
  readonly Gamma: Matrix;
}

function batchFactors(block: FactoredBlock, { layer: batch, h }: WeightedBatch): Factors {
  const B = batch.inputs.length;
  const columns = batch.columnGradients ?? batch.lossGradients;
  const r = columns.length / B;
  const A = new Float64Array(block.inputs ** 2);
  for (const x of batch.inputs) for (const a of block.inputVectors(x)) addOuter(A, a, 1 / B);
  const Gamma = new Float64Array(block.outputs ** 2);
  for (const [i, gradient] of columns.entries()) {
    const vectors = block.outputVectors(gradient);
    for (const g of vectors) addOuter(Gamma, g, valueAt(h, Math.floor(i / r)) / (B * vectors.length));
  }
  return {
    A: { rows: block.inputs, cols: block.inputs, data: A },
    Gamma: { rows: block.outputs, cols: block.outputs, data: Gamma },
  };
}

/** sum ← sum + weight · v vᵀ. */
function addOuter(sum: Values, v: Values, weight: number): void {
  for (let i = 0; i < v.length; i++) {
    for (let j = 0; j < v.length; j++) accumulate(sum, i * v.length + j, weight * valueAt(v, i) * valueAt(v, j));
  }
}

export type MetricOracle =
  /** P = I. */
  | { readonly kind: 'identity' }
  /** P = diag(√v + ε), v ← decay v + (1 − decay) mean² from 0; adam: v as a bias-corrected average. */
  | { readonly kind: 'rmsprop' | 'adam'; readonly decay: number; readonly epsilon: number }
  /** P = (A + πγ^½ I) ⊗ (Γ + γ^½/π I); diag(E[h J²] + γ) where there is no such block. */
  | { readonly kind: 'kronecker'; readonly decay: number; readonly damping: number }
  /**
   * P = (U_A ⊗ U_Γ) diag(s + γ) (U_A ⊗ U_Γ)ᵀ with bases of the latest factors and s one step of the moving average from the
   * products of their eigenvalues to E[h (J in that basis)²]; diag(E[h J²] + γ) where there is no such block.
   */
  | { readonly kind: 'ekfac'; readonly decay: number; readonly damping: number };

interface WeightedBatch {
  readonly layer: LayerBatchOracle;
  /** h_i, [B]. */
  readonly h: ArrayLike<number>;
}

/** P, m × m, after the batches, oldest first. */
export function metricOf(layer: LayerOracle, batches: readonly WeightedBatch[], metric: MetricOracle): Matrix {
  const m = parameterCount(layer);
  switch (metric.kind) {
    case 'identity':
      return identity(m);
    case 'rmsprop':
    case 'adam': {
      const squares = batches.map(({ layer: batch }) => {
        const mean = meanGradient(parameterGradients(layer, batch.inputs, batch.lossGradients));
        return hadamard(mean, mean);
      });
      const v = metric.kind === 'adam' ? correctedAverage(squares, metric.decay) : plainAverage(squares, metric.decay);
      return diagonal(v.data.map((value) => Math.sqrt(value) + metric.epsilon));
    }
    case 'kronecker':
    case 'ekfac': {
      const blocks = factoredBlocks(layer);
      if (blocks.length > 0) return factoredMetric(layer, blocks, batches, metric);
      const moments = batches.map((batch) => secondMoments(columnRows(layer, batch), rowWeights(batch)));
      return diagonal(correctedAverage(moments, metric.decay).data.map((value) => value + metric.damping));
    }
  }
}

function factoredMetric(
  layer: LayerOracle,
  blocks: readonly FactoredBlock[],
  batches: readonly WeightedBatch[],
  metric: Extract<MetricOracle, { damping: number }>,
): Matrix {
  const m = parameterCount(layer);
  const P = zeros(m, m).data;
  for (const block of blocks) {
    const perBatch = batches.map((batch) => batchFactors(block, batch));
    const factors: Factors = {
      A: correctedAverage(perBatch.map(({ A }) => A), metric.decay), // prettier-ignore
      Gamma: correctedAverage(perBatch.map(({ Gamma }) => Gamma), metric.decay), // prettier-ignore
    };
    const latest = element(batches, batches.length - 1);
    const blockMetric =
      metric.kind === 'kronecker'
        ? dampedKronecker(factors, metric.damping)
        : eigenMetric(factors, blockRows(block, columnRows(layer, latest)), rowWeights(latest), metric);
    const order = Array.from({ length: block.inputs * block.outputs }, (_, index) =>
      block.parameter(Math.floor(index / block.outputs), index % block.outputs),
    );
    for (const [i, row] of order.entries()) {
      for (const [j, column] of order.entries()) P[row * m + column] = at(blockMetric, i, j);
    }
  }
  return { rows: m, cols: m, data: P };
}

function dampedKronecker(factors: Factors, damping: number): Matrix {
  const { A, Gamma } = dampedFactors(factors, damping);
  return kron(A, Gamma);
}

function eigenMetric(
  { A, Gamma }: Factors,
  rows: Matrix,
  weights: ArrayLike<number>,
  { decay, damping }: { readonly decay: number; readonly damping: number },
): Matrix {
  const input = eigenvectors(A);
  const output = eigenvectors(Gamma);
  const basis = kron(input.vectors, output.vectors);
  const observed = secondMoments(multiply(rows, basis), weights);
  const implied = kron(columnVector(input.values), columnVector(output.values));
  const s = implied.data.map((value, j) => decay * value + (1 - decay) * at(observed, j, 0));
  return multiply(basis, diagonal(s.map((value) => value + damping)), transpose(basis));
}

/** Eigenvalues and eigenvectors (columns) of a symmetric matrix, by Jacobi's cyclic rotations. */
export function eigenvectors(matrix: Matrix): { readonly values: Values; readonly vectors: Matrix } {
  const n = matrix.rows;
  const a = matrix.data.slice();
  const vectors = identity(n).data;
  const tiny = 1e-16 * Math.max(...a.map(Math.abs));
  for (let sweep = 0, isDiagonal = false; !isDiagonal; sweep++) {
    if (sweep === 50) throw new RangeError(`no convergence on a ${n}×${n} matrix`);
    isDiagonal = true;
    for (let p = 0; p < n; p++) {
      for (let q = p + 1; q < n; q++) {
        const coupling = valueAt(a, p * n + q);
        if (Math.abs(coupling) <= tiny) continue;
        isDiagonal = false;
        const difference = valueAt(a, q * n + q) - valueAt(a, p * n + p);
        const angle = difference === 0 ? Math.PI / 4 : 0.5 * Math.atan((2 * coupling) / difference);
        turn(a, p, q, n, n, angle);
        turn(a, p * n, q * n, 1, n, angle);
        a[p * n + q] = 0;
        a[q * n + p] = 0;
        turn(vectors, p, q, n, n, angle);
      }
    }
  }
  return {
    values: Float64Array.from({ length: n }, (_, i) => valueAt(a, i * n + i)),
    vectors: { rows: n, cols: n, data: vectors },
  };
}

/** Turns two lines of numbers, each `count` long with the given stride, into each other. */
function turn(values: Values, p: number, q: number, stride: number, count: number, angle: number): void {
  for (let i = 0; i < count; i++) {
    const x = valueAt(values, p + i * stride);
    const y = valueAt(values, q + i * stride);
    values[p + i * stride] = Math.cos(angle) * x - Math.sin(angle) * y;
    values[q + i * stride] = Math.sin(angle) * x + Math.cos(angle) * y;
  }
}

function blockRows(block: FactoredBlock, rows: Matrix): Matrix {
  return build(rows.rows, block.inputs * block.outputs, (i, index) =>
    at(rows, i, block.parameter(Math.floor(index / block.outputs), index % block.outputs)),
  );
}

function columnRows(layer: LayerOracle, { layer: batch }: WeightedBatch): Matrix {
  return parameterGradients(layer, batch.inputs, batch.columnGradients ?? batch.lossGradients);
}

/** h of every row of J, divided by B: weights of a mean over samples of sums over columns. */
function rowWeights({ layer, h }: WeightedBatch): Values {
  const rows = (layer.columnGradients ?? layer.lossGradients).length;
  const B = layer.lossGradients.length;
  return Float64Array.from({ length: rows }, (_, i) => valueAt(h, Math.floor(i / (rows / B))) / B);
}

/** Σ_i w_i J_i², m × 1. */
function secondMoments(rows: Matrix, weights: ArrayLike<number>): Matrix {
  return build(rows.cols, 1, (j) => {
    let sum = 0;
    for (let i = 0; i < rows.rows; i++) sum += valueAt(weights, i) * at(rows, i, j) ** 2;
    return sum;
  });
}

/** The mean of the rows, m × 1. */
function meanGradient(rows: Matrix): Matrix {
  return build(rows.cols, 1, (j) => {
    let sum = 0;
    for (let i = 0; i < rows.rows; i++) sum += at(rows, i, j);
    return sum / rows.rows;
  });
}

/** v ← decay v + (1 − decay) value, from v = 0. */
function plainAverage(values: readonly Matrix[], decay: number): Matrix {
  const first = element(values, 0);
  return values.reduce((v, value) => add(scale(v, decay), scale(value, 1 - decay)), zeros(first.rows, first.cols));
}

/** The same, divided by 1 − decay^K after K values. */
function correctedAverage(values: readonly Matrix[], decay: number): Matrix {
  return scale(plainAverage(values, decay), 1 / (1 - decay ** values.length));
}

export type CouplingOracle = 'layerwise' | 'value' | 'gauss-newton-step';

/** A stage of the control problem: a quadratic cost of its control, and what the control does to the outputs. */
export interface StageOracle {
  /** R_t, m × m. */
  readonly R: Matrix;
  /** J_t, R × m. */
  readonly J: Matrix;
  /** D_t, B × m. */
  readonly D: Matrix;
  /** ℓ_u of a running cost, m × 1; 0 unless given. */
  readonly costGradient?: Matrix;
}

/** The stages of a stack of layers, with metrics averaged over all batches and the expansion of the last. */
export function stagesOf(
  layers: readonly LayerOracle[],
  batches: readonly { readonly layers: readonly LayerBatchOracle[]; readonly h: ArrayLike<number> }[],
  metric: MetricOracle,
  eta: number,
): StageOracle[] {
  return layers.map((layer, t) => {
    const seen = batches.map(({ layers: stack, h }): WeightedBatch => ({ layer: element(stack, t), h }));
    const latest = element(seen, seen.length - 1);
    return {
      R: scale(metricOf(layer, seen, metric), 1 / eta),
      J: columnRows(layer, latest),
      D: parameterGradients(layer, latest.layer.inputs, latest.layer.lossGradients),
    };
  });
}

/**
 * δu_t, m_t × 1 each. The problem from stage t on, with δx_t = 0, is one damped least-squares problem in its controls,
 *
 *     (blockdiag(R_t, …) + (1/B) 𝒥ᵀ H 𝒥) (δu_t; …) = −ℓ_u − (1/B) 𝒟ᵀ 1,    𝒥 = [J_t, …, J_{T−1}],  𝒟 = [D_t, …, D_{T−1}]
 *
 * and by Bellman's principle its first block is the policy of stage t at δx_t = 0. `gauss-newton-step`: all blocks of the problem
 * from stage 0 on. `value`: for every stage the first block of the problem that begins there. `layerwise`: for every stage the
 * problem that consists of it alone.
 */
export function exactStep(stages: readonly StageOracle[], h: ArrayLike<number>, coupling: CouplingOracle): Matrix[] {
  switch (coupling) {
    case 'layerwise':
      return stages.flatMap((stage) => solveJointly([stage], h));
    case 'value':
      return stages.map((_, t) => element(solveJointly(stages.slice(t), h), 0));
    case 'gauss-newton-step':
      return solveJointly(stages, h);
  }
}

function solveJointly(stages: readonly StageOracle[], h: ArrayLike<number>): Matrix[] {
  const J = stackColumns(stages.map((stage) => stage.J));
  const gradient = stackRows(
    stages.map(({ D, costGradient = zeros(D.cols, 1) }) => add(costGradient, meanGradient(D))),
  );
  const curvature = multiply(transpose(J), weighRows(J, h, h.length));
  const Q = add(blockDiagonal(stages.map(({ R }) => R)), curvature);
  const changes = scale(solve(Q, gradient), -1);
  let begin = 0;
  return stages.map(({ J: { cols } }) => {
    const first = begin;
    begin += cols;
    return build(cols, 1, (j) => at(changes, first + j, 0));
  });
}

/** (1/B) H J: rows of J times h of their samples over B. */
function weighRows(J: Matrix, h: ArrayLike<number>, B: number): Matrix {
  return build(J.rows, J.cols, (i, j) => (valueAt(h, Math.floor(i / (J.rows / B))) / B) * at(J, i, j));
}

/**
 * The same in sample space, for D = J:
 *
 *     δu_t = −R_t⁻¹ J_tᵀ κ_t,   S_t κ_t = 1/h + s_t,   S_t = B·H⁻¹ + Σ_τ J_τ R_τ⁻¹ J_τᵀ
 *
 * with τ = t alone (`layerwise`) or τ ≥ t, and s_t = Σ_{τ<t} J_τ δu_τ (`gauss-newton-step`) or 0. `diagonal` drops the
 * cross-sample terms of S_t; `full` keeps them and must equal {@link exactStep}.
 */
export function sampleSpaceStep(
  stages: readonly StageOracle[],
  h: ArrayLike<number>,
  coupling: CouplingOracle,
  batchCoupling: 'full' | 'diagonal',
): Matrix[] {
  const weighted = stages.map(({ R, J }) => solve(R, transpose(J)));
  const kernels = stages.map(({ J }, t) => multiply(J, element(weighted, t)));
  const B = h.length;
  let s = zeros(B, 1);
  return stages.map(({ J }, t) => {
    const tail = coupling === 'layerwise' ? [element(kernels, t)] : kernels.slice(t);
    const full = tail.reduce((sum, kernel) => add(sum, kernel), diagonal(Array.from(h, (weight) => B / weight)));
    const S = batchCoupling === 'full' ? full : build(B, B, (i, j) => (i === j ? at(full, i, j) : 0));
    const target = columnVector(Array.from(h, (weight) => 1 / weight));
    const kappa = solve(S, coupling === 'gauss-newton-step' ? add(target, s) : target);
    const change = scale(multiply(element(weighted, t), kappa), -1);
    s = add(s, multiply(J, change));
    return change;
  });
}
