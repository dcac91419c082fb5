/**
 * Differentiable maps: a value and its vector–Jacobian product.
 *
 * Axes: B samples; R = B·r rows, r per sample and sample by sample, so that the same product serves loss gradients (r = 1) and
 * the columns of the terminal curvature.
 */
import { elementCount } from '../../shared/shape.ts';
import type { Engine, Tensor } from '../tensor/engine.ts';

/** Row by row, f_xᵀ g: [R, …output] → [R, …input]. */
export type Pullback = (rows: Tensor) => Tensor;

export interface Differentiable {
  /** [B, …]. */
  readonly value: Tensor;
  readonly pullback: Pullback;
}

/** Each row times its sample's values, elementwise: [R, …] ∘ [B, …] → [R, …]. */
export function timesPerSample(engine: Engine, rows: Tensor, perSample: Tensor): Tensor {
  const { multiply, reshape } = engine;
  const [rowCount = 1] = rows.shape;
  const [batch = 1, ...rest] = perSample.shape;
  if (rowCount === batch) return multiply(rows, perSample);
  const size = elementCount(rest);
  const bySample = reshape(rows, [batch, rowCount / batch, size]);
  return reshape(multiply(bySample, reshape(perSample, [batch, 1, size])), rows.shape);
}

/** ⟨g, v⟩ of each row g with its sample's v: [R, …], [B, …] → [R]. */
export function rowDots(engine: Engine, rows: Tensor, perSample: Tensor): Tensor {
  const [rowCount = 1, ...rest] = rows.shape;
  const size = elementCount(rest);
  return engine.sum(engine.reshape(timesPerSample(engine, rows, perSample), [rowCount, size]), 1);
}
