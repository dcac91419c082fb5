/** The control metric R_t = P_t/η: what a change of a layer's parameters costs. One place chooses among its kinds. */
import type { ControlMetric } from '../../../shared/optimizer.ts';
import type { Engine, Tensor } from '../../tensor/engine.ts';
import type { FactoredGradients } from '../layers/dense.ts';
import type { MetricState } from '../state.ts';
import { isRefreshDue, preconditionKronecker, updateKronecker } from './kronecker.ts';

export interface MetricUpdate {
  readonly state: MetricState;
  /** Whether a due refresh failed and the last good inverses were kept. */
  readonly refreshFailed: boolean;
}

/**
 * The metric's state after one more batch.
 *
 * @param state of this layer; null before the first step
 * @param step sequence number of this step, which is also the number of earlier batches
 */
export function updateMetric(
  engine: Engine,
  metric: ControlMetric,
  state: MetricState | null,
  gradients: FactoredGradients,
  terminalWeights: Tensor,
  step: number,
  layerName: string,
): MetricUpdate {
  switch (metric.kind) {
    case 'identity':
      return { state: { kind: 'identity' }, refreshFailed: false };
    case 'kronecker': {
      const previous = state?.kind === 'kronecker' ? state : null;
      return updateKronecker(engine, metric, previous, gradients, terminalWeights, step, layerName);
    }
  }
}

/** Whether the step with this sequence number refreshes the metric's factorisations. */
export function refreshes(metric: ControlMetric, step: number): boolean {
  return metric.kind === 'kronecker' && isRefreshDue(metric, step);
}

/** R⁻¹J = ηP⁻¹J, row by row, with η in the output gradients. */
export function precondition(
  engine: Engine,
  state: MetricState,
  gradients: FactoredGradients,
  learningRate: number,
): FactoredGradients {
  const { input, outputGradient } =
    state.kind === 'kronecker' ? preconditionKronecker(engine, state, gradients) : gradients;
  return { input, outputGradient: engine.multiply(outputGradient, learningRate) };
}
