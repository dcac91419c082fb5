/**
 * Diagonal control metrics.
 *
 * rmsprop: P = diag(√v + ε), v the moving average of the squared mean gradient (Tieleman & Hinton, 2012), or of the mean of the
 * samples' squared gradients. adam: the same with bias correction (Kingma & Ba, 2015; its first moment is a matter of momentum). The diagonal Fisher P = diag(v + γ),
 * v = E[h J²], stands in for the Kronecker factors of blocks that have none.
 */
import type { AdamMetric, RmspropMetric } from '../../../shared/optimizer.ts';
import type { Engine, Tensor } from '../../tensor/engine.ts';
import { secondMoment, weightedSum } from '../layers/per-sample-gradients.ts';
import type { DiagonalState } from '../state.ts';
import type { BlockStatistics } from './block-statistics.ts';
import { biasCorrectedAverage, movingAverage } from './moving-average.ts';

/** @param count batches averaged before this one */
export function updateAdaptive(
  engine: Engine,
  metric: RmspropMetric | AdamMetric,
  state: DiagonalState | null,
  statistics: BlockStatistics,
  count: number,
): DiagonalState {
  const { add, divide, multiply, sqrt } = engine;
  const squared = batchSquare(engine, metric.secondMoment, statistics);
  const average =
    metric.kind === 'adam'
      ? biasCorrectedAverage(engine, state?.secondMoment, squared, metric.decay, count)
      : movingAverage(engine, state?.secondMoment ?? multiply(squared, 0), squared, metric.decay);
  return diagonalState(average, divide(1, add(sqrt(average), metric.epsilon)));
}

/** (E_i g_i)² or E_i[g_i²] of the samples' gradients g_i = ν_i D_i + ℓ_u, [n, c]. */
function batchSquare(
  engine: Engine,
  kind: RmspropMetric['secondMoment'],
  { lossGradients, gradientWeights, costGradient, batch }: BlockStatistics,
): Tensor {
  const { add, divide, multiply, square, tensor } = engine;
  const weights = gradientWeights ?? tensor(new Float64Array(batch).fill(1), [batch]);
  const mean = (): Tensor => weightedSum(engine, lossGradients, divide(weights, batch));
  switch (kind) {
    case 'mean-gradient':
      return square(costGradient === null ? mean() : add(mean(), costGradient));
    case 'per-sample': {
      const ofLoss = secondMoment(engine, lossGradients, square(weights), batch);
      // E[(νD + ℓ)²] = E[(νD)²] + ℓ ∘ (2E[νD] + ℓ), which rounding can bring below 0.
      if (costGradient === null) return ofLoss;
      const mixed = multiply(costGradient, add(multiply(mean(), 2), costGradient));
      return engine.maximum(add(ofLoss, mixed), 0);
    }
  }
}

export function updateDiagonalFisher(
  engine: Engine,
  metric: { readonly decay: number; readonly damping: number },
  state: DiagonalState | null,
  { columns, rowWeights, batch }: BlockStatistics,
  count: number,
): DiagonalState {
  const value = secondMoment(engine, columns, rowWeights, batch);
  const average = biasCorrectedAverage(engine, state?.secondMoment, value, metric.decay, count);
  return diagonalState(average, engine.divide(1, engine.add(average, metric.damping)));
}

function diagonalState(average: Tensor, weights: Tensor): DiagonalState {
  return { kind: 'diagonal', secondMoment: average, inverse: { input: null, output: null, weights } };
}
