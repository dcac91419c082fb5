/**
 * The optimizer's state as named tensors and numbers, and back, bit for bit.
 *
 * `optimizer.<layer>.<block>.<field>`: of every parameter block, a matrix [n, c] with the bias among its inputs.
 */
import { at } from '../../shared/at.ts';
import type { SavedOptimizer } from '../../shared/checkpoint.ts';
import { blocksOf } from '../../shared/cost.ts';
import type { Layer } from '../../shared/layer.ts';
import type { NamedTensor } from '../../shared/safetensors.ts';
import { inverseVersion } from '../optimizer/curvature/metric.ts';
import type { MetricState, OptimizerState, PendingRefresh } from '../optimizer/state.ts';
import type { Engine, Tensor } from '../tensor/engine.ts';
import { readScalar } from '../tensor/scalar.ts';
import { contradiction, PREDICTED_CHANGE, type SavedTensors } from './saved-tensors.ts';

type BlockField =
  | 'input_factor'
  | 'output_factor'
  | 'input_basis'
  | 'output_basis'
  | 'second_moment'
  | 'inverse.input'
  | 'inverse.output'
  | 'inverse.weights'
  | 'pending_inverse.input'
  | 'pending_inverse.output'
  | 'velocity'
  | 'displacement';

function blockTensor(layer: Layer, block: number, field: BlockField): string {
  return `optimizer.${layer.name}.${String(block)}.${field}`;
}

type BlockFields = readonly (readonly [BlockField, Tensor | null])[];

/** @param state whose refreshes that are under way have been computed: `settleRefreshes` */
export function saveOptimizer(
  engine: Engine,
  layers: readonly Layer[],
  state: OptimizerState,
): { readonly numbers: SavedOptimizer; readonly tensors: readonly NamedTensor[] } {
  const tensors: NamedTensor[] = [];
  const save = (name: string, tensor: Tensor): void => {
    tensors.push({ name, shape: tensor.shape, values: engine.read(tensor) });
  };
  for (const [t, layer] of layers.entries()) {
    const { count } = blocksOf(layer);
    for (let block = 0; block < count; block++) {
      const metric = state.metrics?.[t]?.[block];
      const fields: BlockFields = [
        ...(metric === undefined ? [] : metricFields(metric)),
        ['velocity', state.velocities?.[t]?.[block] ?? null],
        ['displacement', state.displacement?.[t]?.[block] ?? null],
      ];
      for (const [field, tensor] of fields) if (tensor !== null) save(blockTensor(layer, block, field), tensor);
    }
  }
  if (state.predictedChange !== null) save(PREDICTED_CHANGE, state.predictedChange);
  const numbers = {
    metrics: state.metrics?.map((blocks) => blocks.map(({ kind }) => kind)) ?? null,
    pendingRefreshes: state.metrics?.map((blocks) => blocks.map(savedRefresh)) ?? null,
    inverseVersions: state.metrics?.map(inverseVersion) ?? null,
    hasVelocities: state.velocities !== null,
    hasDisplacement: state.displacement !== null,
    hasPredictedChange: state.predictedChange !== null,
    leverage: state.leverage === null ? null : readScalar(engine, state.leverage),
    learningRate: state.learningRate,
    failedFactorizations: state.failedFactorizations,
  };
  return { numbers, tensors };
}

function savedRefresh(metric: MetricState): { begun: number; failed: boolean } | null {
  if (metric.kind !== 'kronecker' || metric.pending === null) return null;
  const { begun, outcome } = metric.pending;
  if (outcome.kind === 'factors') throw new TypeError('a refresh that is still to be computed cannot be saved');
  return { begun, failed: outcome.kind === 'failed' };
}

function metricFields(metric: MetricState): BlockFields {
  switch (metric.kind) {
    case 'identity':
      return [];
    case 'diagonal':
      return [
        ['second_moment', metric.secondMoment],
        ['inverse.weights', metric.inverse.weights],
      ];
    case 'kronecker':
      return [
        ['input_factor', metric.inputFactor],
        ['output_factor', metric.outputFactor],
        ['inverse.input', metric.inverse.input],
        ['inverse.output', metric.inverse.output],
        ...pendingFields(metric.pending),
      ];
    case 'ekfac':
      // Its inverse stands on the bases.
      return [
        ['input_factor', metric.inputFactor],
        ['output_factor', metric.outputFactor],
        ['input_basis', metric.inputBasis],
        ['output_basis', metric.outputBasis],
        ['second_moment', metric.secondMoment],
        ['inverse.weights', metric.inverse.weights],
      ];
  }
}

function pendingFields(pending: PendingRefresh | null): BlockFields {
  if (pending?.outcome.kind !== 'inverse') return [];
  const { input, output } = pending.outcome.inverse;
  return [
    ['pending_inverse.input', input],
    ['pending_inverse.output', output],
  ];
}

/** @throws ProblemError `invalid_checkpoint` if the numbers are of other layers; `missing_tensor`, `shape_mismatch` */
export function restoreOptimizer(
  layers: readonly Layer[],
  step: number,
  numbers: SavedOptimizer,
  tensors: SavedTensors,
): OptimizerState {
  const { metrics } = numbers;
  if ((metrics === null) !== (step === 0)) {
    throw contradiction(`the metric’s state is ${metrics === null ? 'missing' : 'there'} at step ${String(step)}`);
  }
  if (metrics !== null && metrics.length !== layers.length) {
    throw contradiction(`metrics has ${String(metrics.length)} entries for ${String(layers.length)} layers`);
  }
  const perBlock = <Item>(restore: (layer: Layer, t: number, block: number) => Item): Item[][] =>
    layers.map((layer, t) => Array.from({ length: blocksOf(layer).count }, (_, block) => restore(layer, t, block)));
  const matrices = (field: BlockField): Tensor[][] =>
    perBlock((layer, _, block) => {
      const { inputs, outputs } = blocksOf(layer);
      return tensors.take(blockTensor(layer, block, field), [inputs, outputs]);
    });
  return {
    step,
    metrics:
      metrics === null
        ? null
        : perBlock((layer, t, block) => {
            const kind = at(metrics, t)[block];
            if (kind === undefined) throw contradiction(`metrics[${String(t)}] lacks block ${String(block)}`);
            const pending = numbers.pendingRefreshes?.[t]?.[block] ?? null;
            // A checkpoint that does not say: no client can hold a newer one, since a step makes at most one.
            const version = numbers.inverseVersions?.[t] ?? step + 1;
            return restoreMetric(layer, block, kind, { pending, version }, tensors);
          }),
    velocities: numbers.hasVelocities ? matrices('velocity') : null,
    displacement: numbers.hasDisplacement ? matrices('displacement') : null,
    leverage: tensors.scalar(numbers.leverage),
    learningRate: numbers.learningRate,
    predictedChange: numbers.hasPredictedChange ? tensors.take(PREDICTED_CHANGE, []) : null,
    failedFactorizations: numbers.failedFactorizations,
  };
}

interface SavedRefreshes {
  readonly pending: { readonly begun: number; readonly failed: boolean } | null;
  readonly version: number;
}

function restoreMetric(
  layer: Layer,
  block: number,
  kind: MetricState['kind'],
  { pending, version }: SavedRefreshes,
  tensors: SavedTensors,
): MetricState {
  const { inputs: n, outputs: c } = blocksOf(layer);
  const take = (field: BlockField, shape: readonly (number | null)[]): Tensor =>
    tensors.take(blockTensor(layer, block, field), shape);
  switch (kind) {
    case 'identity':
      return { kind };
    case 'diagonal':
      return {
        kind,
        secondMoment: take('second_moment', [n, c]),
        inverse: { input: null, output: null, weights: take('inverse.weights', [n, c]) },
      };
    case 'kronecker':
      return {
        kind,
        inputFactor: take('input_factor', [n, n]),
        outputFactor: take('output_factor', [c, c]),
        // A truncated input factor has fewer columns.
        inverse: { input: take('inverse.input', [n, null]), output: take('inverse.output', [c, c]), weights: null },
        pending:
          pending === null ? null : { begun: pending.begun, outcome: restoreOutcome(pending.failed, n, c, take) },
        version,
      };
    case 'ekfac': {
      const inputBasis = take('input_basis', [n, n]);
      const outputBasis = take('output_basis', [c, c]);
      return {
        kind,
        inputFactor: take('input_factor', [n, n]),
        outputFactor: take('output_factor', [c, c]),
        inputBasis,
        outputBasis,
        secondMoment: take('second_moment', [n, c]),
        inverse: { input: inputBasis, output: outputBasis, weights: take('inverse.weights', [n, c]) },
      };
    }
  }
}

function restoreOutcome(
  failed: boolean,
  n: number,
  c: number,
  take: (field: BlockField, shape: readonly (number | null)[]) => Tensor,
): PendingRefresh['outcome'] {
  if (failed) return { kind: 'failed' };
  const input = take('pending_inverse.input', [n, null]);
  return { kind: 'inverse', inverse: { input, output: take('pending_inverse.output', [c, c]), weights: null } };
}
