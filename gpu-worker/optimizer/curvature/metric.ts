/** The control metric R_t = P_t/η: what a change of a layer's parameters costs. One place chooses among its kinds. */
import { ProblemError } from '../../../shared/errors.ts';
import type { ControlMetric, KroneckerMetric } from '../../../shared/optimizer.ts';
import { allFinite, type Engine, type Tensor } from '../../tensor/engine.ts';
import type { PerSampleGradients } from '../layers/per-sample-gradients.ts';
import type { DiagonalState, EkfacState, KroneckerState, MetricState } from '../state.ts';
import { updateAdaptive, updateDiagonalFisher } from './diagonal.ts';
import { updateEkfac } from './ekfac.ts';
import type { Transform } from '../layers/transform.ts';
import { IDENTITY_METRIC, type InverseMetric, type Preconditioner } from './inverse-metric.ts';
import { updateKronecker, type FactoredGradients, type FrozenInputFactor } from './kronecker.ts';

/** The statistics of one batch for one parameter block. */
export interface BlockStatistics {
  /** D: gradients of each sample's loss, one row per sample. */
  readonly lossGradients: PerSampleGradients;
  /** J: gradients of the terminal curvature's columns, r rows per sample. */
  readonly columns: PerSampleGradients;
  /** h of every row of J, [R]. */
  readonly rowWeights: Tensor;
  /** B. */
  readonly batch: number;
  /** Whether the layer's inputs are the data. */
  readonly isFirstLayer: boolean;
}

export interface MetricUpdate {
  readonly state: MetricState;
  /** Whether a due refresh failed and the last good factorisation was kept. */
  readonly refreshFailed: boolean;
}

/**
 * The metric's state after one more batch.
 *
 * @param state of this block; null before the first step
 * @param step sequence number of this step, which is also the number of earlier batches
 * @throws ProblemError `numerical_failure` if the very first factorisation fails, since there is none to keep
 */
export function updateMetric(
  engine: Engine,
  metric: ControlMetric,
  state: MetricState | null,
  statistics: BlockStatistics,
  step: number,
  layerName: string,
): MetricUpdate {
  return engine.scope(() => {
    if (metric.kind === 'kronecker' || metric.kind === 'ekfac') {
      const { columns } = statistics;
      if (columns.kind !== 'explicit') {
        return updateFactored(engine, metric, factoredState(state), columns, statistics, step, layerName);
      }
    }
    return { state: updateUnfactored(engine, metric, state, statistics, step), refreshFailed: false };
  });
}

function updateUnfactored(
  engine: Engine,
  metric: ControlMetric,
  state: MetricState | null,
  { lossGradients, columns, rowWeights, batch }: BlockStatistics,
  step: number,
): MetricState {
  const previous: DiagonalState | null = state?.kind === 'diagonal' ? state : null;
  switch (metric.kind) {
    case 'identity':
      return { kind: 'identity' };
    case 'rmsprop':
    case 'adam':
      return updateAdaptive(engine, metric, previous, lossGradients, batch, step);
    case 'kronecker':
    case 'ekfac':
      return updateDiagonalFisher(engine, metric, previous, columns, rowWeights, batch, step);
  }
}

function factoredState(state: MetricState | null): KroneckerState | EkfacState | null {
  return state?.kind === 'kronecker' || state?.kind === 'ekfac' ? state : null;
}

function updateFactored(
  engine: Engine,
  metric: Extract<ControlMetric, { kind: 'kronecker' | 'ekfac' }>,
  previous: KroneckerState | EkfacState | null,
  columns: FactoredGradients,
  { rowWeights, batch, isFirstLayer }: BlockStatistics,
  step: number,
  layerName: string,
): MetricUpdate {
  const update = (refresh: boolean): KroneckerState | EkfacState => {
    if (metric.kind === 'kronecker') {
      const state = previous?.kind === 'kronecker' ? previous : null;
      return updateKronecker(
        engine,
        metric,
        state,
        columns,
        rowWeights,
        step,
        refresh,
        frozenFactor(metric, isFirstLayer),
      );
    }
    const state = previous?.kind === 'ekfac' ? previous : null;
    return updateEkfac(engine, metric, state, columns, rowWeights, batch, step, refresh);
  };
  const freezes = metric.kind === 'kronecker' && frozenFactor(metric, isFirstLayer)?.batches === step + 1;
  const due = refreshes(metric, step) || freezes;
  const updated = update(due);
  if (due) engine.evaluate(updated);
  const isGood = !due || allFinite(engine, inverseTensors(updated.inverse));
  if (isGood) return { state: updated, refreshFailed: false };
  if (previous === null) {
    throw new ProblemError('numerical_failure', {
      param: `layers.${layerName}`,
      detail: `The Kronecker factors of layer ${layerName} have no factorisation in floating point.`,
      remedy: 'Check the scale of its inputs and output gradients, or raise metric.damping.',
    });
  }
  return { state: update(false), refreshFailed: true };
}

function frozenFactor({ firstInputFactor }: KroneckerMetric, isFirstLayer: boolean): FrozenInputFactor | null {
  return isFirstLayer && firstInputFactor.kind === 'frozen' ? firstInputFactor : null;
}

/** Whether the step with this sequence number refreshes the metric's factorisations. */
export function refreshes(metric: ControlMetric, step: number): boolean {
  return (metric.kind === 'kronecker' || metric.kind === 'ekfac') && step % metric.refreshEvery === 0;
}

/** P⁻¹ of one block, as the state after this step has it. */
export function preconditioner(metric: ControlMetric, state: MetricState, isFirstLayer: boolean): Preconditioner {
  const { input, output, weights } = inverseMetric(state);
  const isKronecker = metric.kind === 'kronecker' && state.kind === 'kronecker';
  const transform = (matrix: Tensor | null, isUpperTriangular: boolean): Transform | null =>
    matrix === null ? null : { matrix, isUpperTriangular };
  return {
    // A frozen factor's root has eigenvectors for columns.
    input: transform(input, isKronecker && frozenFactor(metric, isFirstLayer) === null),
    output: transform(output, isKronecker),
    weights,
  };
}

/**
 * How many times the inverses that a step uses have been made anew, if no refresh failed: a version of theirs. A failed refresh counts
 * as well, which repeats the inverses it kept.
 */
export function inverseVersion(metric: KroneckerMetric, isFirstLayer: boolean, step: number): number {
  if (step < 0) return 0;
  const frozen = frozenFactor(metric, isFirstLayer);
  const freezes = frozen !== null && step >= frozen.batches - 1 ? 1 : 0;
  return 1 + Math.floor(step / metric.refreshEvery) + freezes;
}

/** P⁻¹ of one block. */
export function inverseMetric(state: MetricState): InverseMetric {
  return state.kind === 'identity' ? IDENTITY_METRIC : state.inverse;
}

function inverseTensors({ input, output, weights }: InverseMetric): Tensor[] {
  return [input, output, weights].filter((tensor) => tensor !== null);
}
