/** What a session and a step take, so that neither can ask for more than a worker can give. */
import { elementCount } from './shape.ts';
import { convolutionGeometry } from './convolution.ts';
import type { Layer } from './layer.ts';
import { LIMITS } from './limits.ts';
import type { Model } from './model.ts';
import { placeLayers, type PlacedLayer } from './model-shapes.ts';
import { flattened } from './model-stages.ts';
import { sentColumns, type LearningRate, type Optimizer } from './optimizer.ts';

/** One parameter block of a layer: a matrix [inputs, outputs], the bias counted as an input. */
export interface Block {
  readonly inputs: number;
  readonly outputs: number;
  /** Whether its per-sample gradients are sums of outer products, which gives it Kronecker factors. */
  readonly isFactored: boolean;
  /** Whether one outer product is all, so that its tangent kernel needs no explicit gradients. */
  readonly isOuter: boolean;
  /** Times the layer has it. */
  readonly count: number;
}

/** A layer's parameter blocks, which are all of one shape. */
export function blocksOf(layer: Layer): Block {
  switch (layer.kind) {
    case 'dense': {
      const inputs = layer.bias ? layer.inputs + 1 : layer.inputs;
      return { inputs, outputs: layer.outputs, isFactored: true, isOuter: !layer.sequence, count: 1 };
    }
    case 'conv2d': {
      const patch = layer.kernel[0] * layer.kernel[1] * (layer.inputs / layer.groups);
      const inputs = layer.bias ? patch + 1 : patch;
      return { inputs, outputs: layer.outputs / layer.groups, isFactored: true, isOuter: false, count: layer.groups };
    }
    case 'embedding':
      return { inputs: layer.inputs, outputs: layer.outputs, isFactored: true, isOuter: false, count: 1 };
    case 'scale-shift':
      return { inputs: layer.shift ? 2 : 1, outputs: layer.features, isFactored: false, isOuter: false, count: 1 };
    case 'generic':
      return { inputs: 1, outputs: layer.parameters, isFactored: false, isOuter: false, count: 1 };
  }
}

/** Inputs, the bias counted, and outputs of a layer's parameter block. */
export function layerSizes(layer: Layer): { readonly inputs: number; readonly outputs: number } {
  const { inputs, outputs } = blocksOf(layer);
  return { inputs, outputs };
}

interface Definition {
  readonly layers: readonly Layer[];
  readonly optimizer: Optimizer;
}

function sumOverLayers(layers: readonly Layer[], term: (block: Block) => number): number {
  return layers.reduce((sum, layer) => {
    const block = blocksOf(layer);
    return sum + block.count * term(block);
  }, 0);
}

/** Parameters of all layers together. */
export function parameterCount(layers: readonly Layer[]): number {
  return sumOverLayers(layers, ({ inputs, outputs }) => inputs * outputs);
}

/**
 * Bytes of the optimizer's state when it is largest, in float32. Lookahead holds nothing right after a synchronisation, and a
 * truncated first factor takes less once it is frozen.
 */
export function optimizerStateBytes(definition: Definition): number {
  const { metric, momentum, lookahead, learningRate } = definition.optimizer;
  const parameters = 4 * parameterCount(definition.layers);
  const velocities = momentum > 0 ? parameters : 0;
  const displacement = lookahead === null ? 0 : parameters;
  const metrics = sumOverLayers(definition.layers, ({ inputs: n, outputs: c, isFactored }) => {
    const factors = n ** 2 + c ** 2;
    const moments = 2 * n * c;
    switch (metric.kind) {
      case 'identity':
        return 0;
      case 'rmsprop':
      case 'adam':
        return 4 * moments;
      case 'kronecker': {
        // A refresh under way holds the factors as they were when it began, or what came of them.
        const pending = metric.refreshLag > 0 ? factors : 0;
        return 4 * (isFactored ? 2 * factors + pending : moments);
      }
      case 'ekfac':
        return 4 * (isFactored ? 2 * factors + moments : moments);
    }
  });
  return metrics + velocities + displacement + learningRateBytes(learningRate);
}

/** Bytes of what a rule for the learning rate remembers: the average leverage, or the change that the last step predicted. */
export function learningRateBytes({ kind }: LearningRate): number {
  return kind === 'leverage' || kind === 'levenberg-marquardt' ? 4 : 0;
}

/** An eigendecomposition takes about this many times the work of an inverse. */
const EIGENDECOMPOSITION_WORK = 10;

/** Multiply-adds of one refresh of the metric, up to a factor: Σ n³ + c³. */
export function refreshWork(definition: Definition): number {
  const { metric } = definition.optimizer;
  if (metric.kind !== 'kronecker' && metric.kind !== 'ekfac') return 0;
  const factor = metric.kind === 'ekfac' ? EIGENDECOMPOSITION_WORK : 1;
  return sumOverLayers(definition.layers, ({ inputs, outputs, isFactored }) =>
    isFactored ? factor * (inputs ** 3 + outputs ** 3) : 0,
  );
}

/** What is too much about refreshing the metric of these layers, in words; null if nothing. */
export function refreshExcess(definition: Definition): string | null {
  const work = refreshWork(definition);
  if (work <= LIMITS.refreshWork) return null;
  return `${excessiveRefresh(definition.optimizer.metric.kind, work)}. Use metric "identity", or narrower layers`;
}

function excessiveRefresh(metric: string, work: number): string {
  return (
    `refreshing the ${metric} metric of these layers takes ${work.toExponential(1)} operations (inputs³ + outputs³, added up); ` +
    `at most ${LIMITS.refreshWork.toExponential(1)} are taken`
  );
}

/** Layers of which the service knows the Kronecker factors alone, or nothing. */
type FactoredLayers = readonly {
  readonly factors: { readonly inputs: number; readonly outputs: number; readonly groups: number } | null;
}[];

/** As {@link refreshWork}, in kernel mode. */
export function kernelRefreshWork(layers: FactoredLayers): number {
  return layers.reduce(
    (sum, { factors }) =>
      factors === null ? sum : sum + factors.groups * (factors.inputs ** 3 + factors.outputs ** 3),
    0,
  );
}

/** As {@link refreshExcess}, in kernel mode. */
export function kernelRefreshExcess(layers: FactoredLayers): string | null {
  const work = kernelRefreshWork(layers);
  if (work <= LIMITS.refreshWork) return null;
  return `${excessiveRefresh('kronecker', work)}. Leave out the factors of wide layers, or use metric "client"`;
}

/** Bytes of a kernel session's factors and their inverses, in float32. */
export function kernelStateBytes(layers: FactoredLayers): number {
  return layers.reduce(
    (sum, { factors }) =>
      factors === null ? sum : sum + 8 * factors.groups * (factors.inputs ** 2 + factors.outputs ** 2),
    0,
  );
}

/** The systems of one batch, one per layer. */
export interface BatchSystems {
  /** L. */
  readonly layers: number;
  readonly optimizer: Pick<Optimizer, 'terminalCurvature' | 'batchCoupling' | 'solver'>;
  /** Whether the reply has Cholesky factors, which are then made of systems of any size. */
  readonly handsOutFactors: boolean;
  /** Whether matrices of these sizes travel: the factors, or the Gram matrices that a client has computed. */
  readonly carriesMatrices: boolean;
}

/** What they take. */
export interface BatchCost {
  /** Rows, R = B·r. */
  readonly rows: number;
  /** How they are solved; without cross-sample terms there is nothing to solve. */
  readonly solution: 'cholesky' | 'conjugate-gradient' | 'diagonal';
  /** Multiply-adds, up to a factor: L·R³ of factorisations, L·R² times the iterations of conjugate gradients. */
  readonly batchWork: number;
  /** Bytes of the matrices that travel, in float32: L·R². */
  readonly batchFactorBytes: number;
}

export function batchCost({ layers, optimizer, ...travelling }: BatchSystems, batch: number): BatchCost {
  const { terminalCurvature, batchCoupling, solver } = optimizer;
  const rows = batch * Math.max(1, sentColumns(terminalCurvature));
  const batchFactorBytes = travelling.carriesMatrices ? 4 * layers * rows ** 2 : 0;
  if (batchCoupling !== 'full') return { rows, solution: 'diagonal', batchWork: 0, batchFactorBytes };
  const isFactorised = travelling.handsOutFactors || rows <= solver.choleskyRows;
  return {
    rows,
    solution: isFactorised ? 'cholesky' : 'conjugate-gradient',
    batchWork: layers * rows ** 2 * (isFactorised ? rows : solver.iterations),
    batchFactorBytes,
  };
}

/** What one step on a batch of B samples takes. */
export interface StepCost extends BatchCost {
  /** Multiply-adds of tangent kernels from explicit per-sample gradients: Σ R²·n·c. */
  readonly gramWork: number;
}

/** @param handsOutFactors whether the reply is a policy */
export function stepCost(definition: Definition, batch: number, handsOutFactors: boolean): StepCost {
  const { layers, optimizer } = definition;
  const carriesMatrices = handsOutFactors && optimizer.batchCoupling === 'full';
  const systems = batchCost({ layers: layers.length, optimizer, handsOutFactors, carriesMatrices }, batch);
  const { rows } = systems;
  const isWeighted = optimizer.metric.kind !== 'identity' && optimizer.metric.kind !== 'kronecker';
  const gramWork = sumOverLayers(definition.layers, ({ inputs, outputs, isOuter }) =>
    isOuter && !isWeighted ? 0 : rows ** 2 * inputs * outputs,
  );
  return {
    ...systems,
    gramWork,
  };
}

/** What a layer's part of a batch consists of. */
interface BlockBatch extends Block {
  /** B. */
  readonly batch: number;
  /** R = B·r. */
  readonly rows: number;
  /** P. */
  readonly positions: number;
  /** Numbers that are held for one position's inputs: fewer than inputs where the patches of a convolution overlap row by row. */
  readonly heldInputs: number;
  /** Whether the columns of the terminal curvature come beside the loss gradients. */
  readonly hasColumns: boolean;
}

/** Bytes that explicit per-sample gradients may take at a time; beyond that they are made for a range of outputs at a time. */
export const EXPLICIT_BLOCK_BYTES = 64 * 2 ** 20;

/**
 * Bytes that the optimizer's part of a step takes beside the state, in float32: the tensors that may be alive together. Those of
 * the batch, as the client sent them or a hosted model's passes made them, are not among them.
 *
 * @param positions of the layers with an axis of positions, by name; 1 where it is not known yet
 */
export function optimizerStepBytes(
  definition: Definition,
  batch: number,
  positions: ReadonlyMap<string, number> = new Map(),
): number {
  const { layers, optimizer } = definition;
  const sent = sentColumns(optimizer.terminalCurvature);
  const rows = batch * Math.max(1, sent);
  const blocks = layers.map((layer): BlockBatch => {
    const block = blocksOf(layer);
    const isLowered = layer.kind === 'conv2d' && layer.strides[0] === 1;
    const heldInputs = isLowered ? block.inputs / layer.kernel[0] : block.inputs;
    return { ...block, batch, rows, positions: positionsOf(layer, positions), heldInputs, hasColumns: sent > 0 };
  });
  const kept = blocks.reduce((sum, block) => sum + block.count * keptBytes(block, optimizer), 0);
  const largest = Math.max(...blocks.map((block) => temporaryBytes(block, optimizer)));
  const kernels = optimizer.batchCoupling === 'diagonal' ? 0 : kernelBytes(rows, layers.length, optimizer);
  // The next state stands beside the one before it until the step has succeeded.
  return kept + largest + kernels + optimizerStateBytes(definition);
}

function positionsOf(layer: Layer, positions: ReadonlyMap<string, number>): number {
  if (layer.kind !== 'conv2d') return positions.get(layer.name) ?? 1;
  const { rows, columns } = convolutionGeometry(layer);
  return rows.outputs * columns.outputs;
}

/** Of a parameter block, to the end of the step. */
function keptBytes(block: BlockBatch, { metric }: Optimizer): number {
  const { inputs: n, outputs: c, batch, rows, positions, heldInputs, isFactored, hasColumns } = block;
  const explicit = rows * n * c;
  const gradients = hasColumns ? 2 : 1;
  const factors = batch * positions * heldInputs + rows * positions * c;
  const given = isFactored ? gradients * factors : explicit;
  const isTransformed = isFactored && (metric.kind === 'kronecker' || metric.kind === 'ekfac');
  const transformed = isTransformed ? (positions > 1 ? Math.min(factors, explicit) : factors) : 0;
  // The change, its predecessors in other coordinates, and what the parameters become.
  const changes = 3 * n * c;
  return 4 * (given + transformed + changes);
}

/** Of a parameter block, while its metric and its tangent kernel are computed. */
function temporaryBytes(block: BlockBatch, { metric }: Optimizer): number {
  const { inputs: n, outputs: c, batch, rows, positions, heldInputs, isFactored, isOuter } = block;
  const isWeighted = metric.kind !== 'identity' && metric.kind !== 'kronecker';
  // One block, weighted and transposed for its product, and what it is put together from.
  const explicit = isOuter && !isWeighted ? 0 : 5 * Math.min(4 * rows * n * c, EXPLICIT_BLOCK_BYTES);
  // A transposed copy; where there are positions their inputs are put together from others, besides.
  const inputs = isFactored ? (positions > 1 ? 3 : 1) * 4 * batch * positions * heldInputs : 0;
  // Averages in float32; factorisations are in float64, with the blocks that an inverse is put together from.
  const factorised = isFactored && (metric.kind === 'kronecker' || metric.kind === 'ekfac') ? n ** 2 + c ** 2 : 0;
  return explicit + inputs + (4 * 3 + 8 * 6) * factorised;
}

/** Of L systems of order R. */
function kernelBytes(rows: number, layers: number, { solver, batchCoupling }: Optimizer): number {
  // Both Gram matrices of a layer, the system, and its factor where it is factorised, for which one at a time is in float64.
  const isFactorised = batchCoupling === 'full' && rows <= solver.choleskyRows;
  return 4 * rows ** 2 * (layers * (isFactorised ? 4 : 3) + (isFactorised ? 4 : 0));
}

/** Passes through a hosted model whose activations or gradients are held at once. */
export interface Passes {
  readonly forward: number;
  /** One for the loss, and one per column of the terminal curvature that is not the loss. */
  readonly backward: number;
}

export const PREDICTION_PASSES: Passes = { forward: 1, backward: 0 };

/** Of one step: the last step's judgement and lookahead's interpolation take a third forward pass. */
export function trainingPasses({ learningRate, lookahead, terminalCurvature }: Optimizer): Passes {
  const hasThird = learningRate.kind === 'levenberg-marquardt' || lookahead !== null;
  return { forward: hasThird ? 3 : 2, backward: 1 + sentColumns(terminalCurvature) };
}

/** What passes through a hosted model take. */
export interface PassCost {
  /** Bytes of activations and of their gradients, in float32; and what the layer that takes most holds besides while it is computed. */
  readonly activationBytes: number;
  /** Multiplications of one forward pass, and additions of windows back to where they were taken from. */
  readonly forwardWork: number;
}

export function passCost(model: Model, { forward, backward }: Passes, batch: number): PassCost {
  const placed = placeLayers(model.input, model.layers);
  const layers = flattened(placed);
  const sum = (term: (layer: PlacedLayer) => number): number => layers.reduce((total, layer) => total + term(layer), 0);
  const residuals = placed.reduce(
    (total, { kind, output }) => total + (kind === 'residual' ? elementCount(output) : 0),
    0,
  );
  const kept = elementCount(model.input) + sum(keptElements) + residuals;
  const besides = Math.max(...layers.map((layer) => temporaryElements(layer, backward)));
  return {
    activationBytes: 4 * batch * ((forward + backward) * kept + besides),
    forwardWork: batch * sum(layerWork),
  };
}

/** What one pass keeps of a layer: its output, and of dropout what is dropped. */
function keptElements({ layer, output }: PlacedLayer): number {
  return layer.kind === 'dropout' ? 2 * elementCount(output) : elementCount(output);
}

/** What a layer holds for one sample while its output or its gradient is computed. */
function temporaryElements({ layer, output }: PlacedLayer, columns: number): number {
  switch (layer.kind) {
    case 'max-pooling':
    case 'average-pooling':
      // What every element of the window sees, the largest so far, and the gradients of each.
      return layer.window[0] * layer.window[1] * elementCount(output) * (2 + columns);
    default:
      // gelu, which has most: the error function and the density, step by step.
      return elementCount(output) * (5 + columns);
  }
}

/** Multiplications of one sample's way through a layer. */
function layerWork({ layer, input, output }: PlacedLayer): number {
  switch (layer.kind) {
    case 'dense':
      return elementCount(output) * (input.at(-1) ?? 1);
    case 'conv2d':
      return (
        (elementCount(output) * layer.kernel[0] * layer.kernel[1] * (input.at(-1) ?? 1)) / layer.groups +
        layer.kernel[0] * layer.kernel[1] * elementCount(input)
      );
    case 'max-pooling':
    case 'average-pooling':
      return layer.window[0] * layer.window[1] * (elementCount(output) + elementCount(input));
    default:
      return elementCount(output);
  }
}
