/** Moving averages of a metric's statistics. */
import type { Engine, Tensor } from '../../tensor/engine.ts';

/** average ← decay · average + (1 − decay) · value. */
export function movingAverage(engine: Engine, average: Tensor, value: Tensor, decay: number): Tensor {
  return engine.add(engine.multiply(average, decay), engine.multiply(value, 1 - decay));
}

/** The share of a new value in a bias-corrected average of `count` earlier ones. */
export function biasCorrectedShare(decay: number, count: number): number {
  return (1 - decay) / (1 - decay ** (count + 1));
}

/**
 * Bias-corrected exponential moving average after `count` earlier values:
 * Σ_k decay^(count−k) (1 − decay) F_k / (1 − decay^(count+1)), as a running mean.
 */
export function biasCorrectedAverage(
  engine: Engine,
  average: Tensor | undefined,
  value: Tensor,
  decay: number,
  count: number,
): Tensor {
  if (average === undefined) return value;
  return movingAverage(engine, average, value, 1 - biasCorrectedShare(decay, count));
}
