/**
 * Diagonal control metrics.
 *
 * rmsprop: P = diag(√v + ε), v the moving average of the squared mean gradient (Tieleman & Hinton, 2012). adam: the same with
 * bias correction (Kingma & Ba, 2015; its first moment is a matter of momentum). The diagonal Fisher P = diag(v + γ),
 * v = E[h J²], stands in for the Kronecker factors of blocks that have none.
 */
import type { AdamMetric, RmspropMetric } from '../../../shared/optimizer.ts';
import type { Engine, Tensor } from '../../tensor/engine.ts';
import { secondMoment, weightedSum, type PerSampleGradients } from '../layers/per-sample-gradients.ts';
import type { DiagonalState } from '../state.ts';
import { biasCorrectedAverage, movingAverage } from './moving-average.ts';

/**
 * @param lossGradients D: one row per sample
 * @param count batches averaged before this one
 */
export function updateAdaptive(
  engine: Engine,
  metric: RmspropMetric | AdamMetric,
  state: DiagonalState | null,
  lossGradients: PerSampleGradients,
  batch: number,
  count: number,
): DiagonalState {
  const { add, divide, multiply, sqrt, square } = engine;
  const mean = weightedSum(engine, lossGradients, engine.tensor(new Float64Array(batch).fill(1 / batch), [batch]));
  const squared = square(mean);
  const average =
    metric.kind === 'adam'
      ? biasCorrectedAverage(engine, state?.secondMoment, squared, metric.decay, count)
      : movingAverage(engine, state?.secondMoment ?? multiply(squared, 0), squared, metric.decay);
  return diagonalState(average, divide(1, add(sqrt(average), metric.epsilon)));
}

/**
 * @param columns J: r rows per sample
 * @param rowWeights h of every row, [R]
 */
export function updateDiagonalFisher(
  engine: Engine,
  metric: { readonly decay: number; readonly damping: number },
  state: DiagonalState | null,
  columns: PerSampleGradients,
  rowWeights: Tensor,
  batch: number,
  count: number,
): DiagonalState {
  const value = secondMoment(engine, columns, rowWeights, batch);
  const average = biasCorrectedAverage(engine, state?.secondMoment, value, metric.decay, count);
  return diagonalState(average, engine.divide(1, engine.add(average, metric.damping)));
}

function diagonalState(average: Tensor, weights: Tensor): DiagonalState {
  return { kind: 'diagonal', secondMoment: average, inverse: { input: null, output: null, weights } };
}
