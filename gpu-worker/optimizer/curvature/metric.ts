/** The control metric R_t = P_t/η: what a change of a layer's parameters costs. One place chooses among its kinds. */
import { ProblemError } from '../../../shared/errors.ts';
import type { ControlMetric, KroneckerMetric } from '../../../shared/optimizer.ts';
import { allFinite, type Engine, type Tensor } from '../../tensor/engine.ts';
import type { DiagonalState, EkfacState, KroneckerState, MetricState, PendingRefresh } from '../state.ts';
import type { BlockStatistics } from './block-statistics.ts';
import { updateAdaptive, updateDiagonalFisher } from './diagonal.ts';
import { updateEkfac } from './ekfac.ts';
import type { Transform } from '../layers/transform.ts';
import { IDENTITY_METRIC, type InverseMetric, type Preconditioner } from './inverse-metric.ts';
import {
  averagedFactors,
  freezesAt,
  isFrozenBy,
  refreshedInverse,
  type FactoredGradients,
  type FrozenInputFactor,
} from './kronecker.ts';

export interface MetricUpdate {
  readonly state: MetricState;
  /** Whether this step is the first to use refreshed factorisations, or would be, had the refresh not failed. */
  readonly refreshed: boolean;
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
    return {
      state: updateUnfactored(engine, metric, state, statistics, step),
      refreshed: false,
      refreshFailed: false,
    };
  });
}

function updateUnfactored(
  engine: Engine,
  metric: ControlMetric,
  state: MetricState | null,
  statistics: BlockStatistics,
  step: number,
): MetricState {
  const previous: DiagonalState | null = state?.kind === 'diagonal' ? state : null;
  switch (metric.kind) {
    case 'identity':
      return { kind: 'identity' };
    case 'rmsprop':
    case 'adam':
      return updateAdaptive(engine, metric, previous, statistics, step);
    case 'kronecker':
    case 'ekfac':
      return updateDiagonalFisher(engine, metric, previous, statistics, step);
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
  statistics: BlockStatistics,
  step: number,
  layerName: string,
): MetricUpdate {
  if (metric.kind === 'kronecker') {
    const state = previous?.kind === 'kronecker' ? previous : null;
    return updateKronecker(engine, metric, state, columns, statistics, step, layerName);
  }
  const { rowWeights, batch } = statistics;
  const state = previous?.kind === 'ekfac' ? previous : null;
  const update = (refresh: boolean): EkfacState =>
    updateEkfac(engine, metric, state, columns, rowWeights, batch, step, refresh);
  const refreshed = refreshes(metric, step);
  const updated = update(refreshed);
  if (!refreshed || isGood(engine, updated, updated.inverse))
    return { state: updated, refreshed, refreshFailed: false };
  if (state === null) throw noFactorization(layerName);
  return { state: update(false), refreshed, refreshFailed: true };
}

/** Averages the factors; begins a refresh where one is due, and ends the one whose turn it is. */
function updateKronecker(
  engine: Engine,
  metric: KroneckerMetric,
  previous: KroneckerState | null,
  columns: FactoredGradients,
  { rowWeights, isFirstLayer }: BlockStatistics,
  step: number,
  layerName: string,
): MetricUpdate {
  const frozen = frozenFactor(metric, isFirstLayer);
  const isFrozen = isFrozenBy(frozen, step);
  const factors = averagedFactors(engine, metric, previous, columns, rowWeights, step, isFrozen);
  if (previous === null) {
    const inverse = refreshedInverse(engine, metric, factors, step, frozen, null);
    if (!isGood(engine, factors, inverse)) throw noFactorization(layerName);
    const state: KroneckerState = { kind: 'kronecker', ...factors, inverse, pending: null, version: 1 };
    return { state, refreshed: true, refreshFailed: false };
  }
  // The refresh whose turn it is ends before the next one begins; without a lag one does both.
  let { inverse, pending, version } = previous;
  let refreshFailed = false;
  const end = (refresh: PendingRefresh): void => {
    const { outcome } = factorised(engine, metric, frozen, refresh, inverse);
    version++;
    if (outcome.kind === 'inverse') inverse = outcome.inverse;
    else refreshFailed = true;
  };
  if (pending !== null && step >= pending.begun + metric.refreshLag) {
    end(pending);
    pending = null;
  }
  if (begins(metric, frozen, pending, step)) {
    const refresh: PendingRefresh = { begun: step, outcome: { kind: 'factors', ...factors } };
    if (metric.refreshLag === 0) end(refresh);
    else pending = refresh;
  }
  const refreshed = version !== previous.version;
  return { state: { kind: 'kronecker', ...factors, inverse, pending, version }, refreshed, refreshFailed };
}

/** Whether a refresh begins with this step: every `refreshEvery` steps, and when the input factor is frozen. */
function begins(
  metric: KroneckerMetric,
  frozen: FrozenInputFactor | null,
  pending: PendingRefresh | null,
  step: number,
): boolean {
  if (freezesAt(frozen, step)) return true;
  // What freezes the input factor is not given up for the next refresh.
  return step % metric.refreshEvery === 0 && !(pending !== null && freezesAt(frozen, pending.begun));
}

/** A refresh with its outcome, computed if it has not been. */
function factorised(
  engine: Engine,
  metric: KroneckerMetric,
  frozen: FrozenInputFactor | null,
  pending: PendingRefresh,
  current: InverseMetric,
): PendingRefresh & { readonly outcome: { readonly kind: 'inverse' | 'failed' } } {
  const { begun, outcome } = pending;
  if (outcome.kind !== 'factors') return { begun, outcome };
  const inverse = refreshedInverse(engine, metric, outcome, begun, frozen, current);
  return { begun, outcome: isGood(engine, outcome, inverse) ? { kind: 'inverse', inverse } : { kind: 'failed' } };
}

/**
 * The state with the refresh that is under way, if any, computed. The steps that follow are the same with and without it: it only
 * spares the one that needs the outcome the work.
 */
export function settleRefresh(
  engine: Engine,
  metric: ControlMetric,
  state: MetricState,
  isFirstLayer: boolean,
): MetricState {
  if (metric.kind !== 'kronecker' || state.kind !== 'kronecker' || state.pending === null) return state;
  return {
    ...state,
    pending: factorised(engine, metric, frozenFactor(metric, isFirstLayer), state.pending, state.inverse),
  };
}

/** Whether a factorisation exists; computes what it stands on, once. */
function isGood(engine: Engine, statistics: unknown, inverse: InverseMetric): boolean {
  engine.evaluate([statistics, inverse]);
  return allFinite(engine, inverseTensors(inverse));
}

function noFactorization(layerName: string): ProblemError {
  return new ProblemError('numerical_failure', {
    param: `layers.${layerName}`,
    detail: `The Kronecker factors of layer ${layerName} have no factorisation in floating point.`,
    remedy: 'Check the scale of its inputs and output gradients, or raise metric.damping.',
  });
}

function frozenFactor({ firstInputFactor }: KroneckerMetric, isFirstLayer: boolean): FrozenInputFactor | null {
  return isFirstLayer && firstInputFactor.kind === 'frozen' ? firstInputFactor : null;
}

/** Whether, with options that stay as they are, the step with this sequence number is the first to use refreshed factorisations. */
export function refreshes(metric: ControlMetric, step: number): boolean {
  if (metric.kind !== 'kronecker' && metric.kind !== 'ekfac') return false;
  const lag = metric.kind === 'kronecker' ? metric.refreshLag : 0;
  return step === 0 || (step > lag && (step - lag) % metric.refreshEvery === 0);
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

/** The version of a layer's inverses; 0 before the first, and for a layer that has none. All its blocks are refreshed together. */
export function inverseVersion(blocks: readonly MetricState[]): number {
  const [first] = blocks;
  return first?.kind === 'kronecker' ? first.version : 0;
}

/** P⁻¹ of one block. */
export function inverseMetric(state: MetricState): InverseMetric {
  return state.kind === 'identity' ? IDENTITY_METRIC : state.inverse;
}

function inverseTensors({ input, output, weights }: InverseMetric): Tensor[] {
  return [input, output, weights].filter((tensor) => tensor !== null);
}
