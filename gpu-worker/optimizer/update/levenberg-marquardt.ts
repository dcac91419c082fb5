/**
 * The Levenberg–Marquardt rule for η, the inverse of the damping, with its judgement made on other data than the step: the model
 * predicts the change of the mean loss of the step's own batch, and what is compared with it is the change of the next batch's.
 *
 *     M = mean_i(Σ_t D_t δu_t + ½ Σ_columns h (Σ_t J_t δu_t)²)
 *     ρ = (mean loss of the next batch after the step − before it) / M
 *
 * ρ above `high`: η × factor; ρ below `low`: η / factor (Marquardt, 1963; on mini-batches Martens & Grosse, 2015).
 */
import type { LevenbergMarquardt } from '../../../shared/optimizer.ts';
import type { Engine, Tensor } from '../../tensor/engine.ts';

/**
 * M of a step, a scalar.
 *
 * @param linear Σ_t D_t δu_t, [B]
 * @param columns Σ_t J_t δu_t, [R]
 * @param rowWeights h of every row of J, [R]
 */
export function modelChange(engine: Engine, linear: Tensor, columns: Tensor, rowWeights: Tensor): Tensor {
  const { add, divide, multiply, square, sum } = engine;
  const curvature = divide(sum(multiply(rowWeights, square(columns)), 0), 2);
  return divide(add(sum(linear, 0), curvature), linear.shape[0] ?? 1);
}

/**
 * η after a judgement. A step that predicted no decrease, or overflowed its prediction, is not judged.
 *
 * @param predicted M of the last step
 * @param actual change of the mean loss on another batch
 */
export function judgedLearningRate(
  { low, high, factor, minimum, maximum }: LevenbergMarquardt,
  learningRate: number,
  predicted: number,
  actual: number,
): number {
  if (!(Number.isFinite(predicted) && predicted < 0)) return learningRate;
  const ratio = actual / predicted;
  if (ratio > high) return Math.min(maximum, learningRate * factor);
  if (ratio < low) return Math.max(minimum, learningRate / factor);
  return learningRate;
}
