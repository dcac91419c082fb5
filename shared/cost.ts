/** What a session and a step take, so that neither can ask for more than a worker can give. */
import { convolutionGeometry } from './convolution.ts';
import type { Layer } from './layer.ts';
import { sentColumns, type Optimizer } from './optimizer.ts';

/** One parameter block of a layer: a matrix [inputs, outputs], the bias counted as an input. */
interface Block {
  readonly inputs: number;
  readonly outputs: number;
  /** Whether its per-sample gradients are sums of outer products, which gives it Kronecker factors. */
  readonly isFactored: boolean;
  /** Whether one outer product is all, so that its tangent kernel needs no explicit gradients. */
  readonly isOuter: boolean;
  /** Times the layer has it. */
  readonly count: number;
}

function blocksOf(layer: Layer): Block {
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

interface Definition {
  readonly layers: readonly Layer[];
  readonly optimizer: Optimizer;
}

function sumOverLayers({ layers }: Definition, term: (block: Block) => number): number {
  return layers.reduce((sum, layer) => {
    const block = blocksOf(layer);
    return sum + block.count * term(block);
  }, 0);
}

/** Bytes of a session's state, in float32. */
export function stateBytes(definition: Definition): number {
  const { metric, momentum, lookahead } = definition.optimizer;
  const parameters = sumOverLayers(definition, ({ inputs, outputs }) => 4 * inputs * outputs);
  const velocities = momentum > 0 ? parameters : 0;
  const displacement = lookahead === null ? 0 : parameters;
  const metrics = sumOverLayers(definition, ({ inputs: n, outputs: c, isFactored }) => {
    const factors = n ** 2 + c ** 2;
    const moments = 2 * n * c;
    switch (metric.kind) {
      case 'identity':
        return 0;
      case 'rmsprop':
      case 'adam':
        return 4 * moments;
      case 'kronecker':
        return 4 * (isFactored ? 2 * factors : moments);
      case 'ekfac':
        return 4 * (isFactored ? 2 * factors + moments : moments);
    }
  });
  return metrics + velocities + displacement;
}

/** An eigendecomposition takes about this many times the work of an inverse. */
const EIGENDECOMPOSITION_WORK = 10;

/** Multiply-adds of one refresh of the metric, up to a factor: Σ n³ + c³. */
export function refreshWork(definition: Definition): number {
  const { metric } = definition.optimizer;
  if (metric.kind !== 'kronecker' && metric.kind !== 'ekfac') return 0;
  const factor = metric.kind === 'ekfac' ? EIGENDECOMPOSITION_WORK : 1;
  return sumOverLayers(definition, ({ inputs, outputs, isFactored }) =>
    isFactored ? factor * (inputs ** 3 + outputs ** 3) : 0,
  );
}

/** What one step on a batch of B samples takes. */
export interface StepCost {
  /** Rows of the batch's systems, R = B·r. */
  readonly rows: number;
  /** Multiply-adds of the batch's factorisations, up to a factor: L·R³. */
  readonly batchWork: number;
  /** Bytes of the batch's factors, in float32: L·R². */
  readonly batchFactorBytes: number;
  /** Multiply-adds of tangent kernels from explicit per-sample gradients: Σ R²·n·c. */
  readonly gramWork: number;
  /** Bytes of the largest layer's inputs as the step needs them, in float32: a convolution's patches, an embedding's one-hot rows. */
  readonly inputBytes: number;
}

/** @param positions of the layers with an axis of positions, by name; 1 where it is not known yet */
export function stepCost(
  definition: Definition,
  batch: number,
  positions: ReadonlyMap<string, number> = new Map(),
): StepCost {
  const { layers, optimizer } = definition;
  const rows = batch * Math.max(1, sentColumns(optimizer.terminalCurvature));
  const isWeighted = optimizer.metric.kind !== 'identity' && optimizer.metric.kind !== 'kronecker';
  const gramWork = sumOverLayers(definition, ({ inputs, outputs, isOuter }) =>
    isOuter && !isWeighted ? 0 : rows ** 2 * inputs * outputs,
  );
  const inputBytes = layers.map((layer) => {
    if (layer.kind === 'embedding') return 4 * batch * (positions.get(layer.name) ?? 1) * layer.inputs;
    if (layer.kind !== 'conv2d') return 0;
    const geometry = convolutionGeometry(layer);
    return 4 * batch * geometry.rows.outputs * geometry.columns.outputs * blocksOf(layer).inputs * layer.groups;
  });
  return {
    rows,
    batchWork: layers.length * rows ** 3,
    batchFactorBytes: 4 * layers.length * rows ** 2,
    gramWork,
    inputBytes: Math.max(...inputBytes),
  };
}
