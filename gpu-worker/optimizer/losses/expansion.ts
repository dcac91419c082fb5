/**
 * A loss expanded at the network's output x_T, sample by sample.
 *
 * Axes: B samples, C outputs, r columns of curvature per sample (r = C for every loss here).
 */
import { elementCount } from '../../../shared/shape.ts';
import type { Random } from '../../../shared/random.ts';
import type { Engine, Tensor } from '../../tensor/engine.ts';

export interface LossExpansion {
  /** φ_i, [B]. */
  readonly values: Tensor;
  /** ∂φ_i/∂x_T, [B, C]. */
  readonly gradient: Tensor;
  /** S, [B, C, r], with S_i S_iᵀ = ∂²φ_i/∂x_T² exactly. */
  readonly factor: () => Tensor;
  /**
   * s, [B, C], with E[s_i s_iᵀ] = ∂²φ_i/∂x_T²: the loss gradient for a label or target drawn from the network's own prediction,
   * where the loss is a likelihood.
   */
  readonly sampledGradient: (random: Random) => Tensor;
}

/** [B, C] of numbers from a stream, one sample after the other. */
export function randomMatrix(engine: Engine, shape: readonly number[], draw: () => number): Tensor {
  const size = elementCount(shape);
  return engine.tensor(Float64Array.from({ length: size }, draw), shape);
}

/** diag(v_i) for every row v_i: [B, C] → [B, C, C]. */
export function diagonals(engine: Engine, rows: Tensor): Tensor {
  const [batch = 1, outputs = 1] = rows.shape;
  const identity = engine.reshape(engine.identity(outputs), [1, outputs, outputs]);
  return engine.multiply(engine.reshape(rows, [batch, outputs, 1]), identity);
}

/** u_i v_iᵀ for every pair of rows: [B, C], [B, C] → [B, C, C]. */
export function outerProducts(engine: Engine, left: Tensor, right: Tensor): Tensor {
  const [batch = 1, outputs = 1] = left.shape;
  return engine.multiply(engine.reshape(left, [batch, outputs, 1]), engine.reshape(right, [batch, 1, outputs]));
}

/** Sums over the outputs: [B, C] → [B, 1]. */
export function sumOutputs(engine: Engine, tensor: Tensor): Tensor {
  return engine.reshape(engine.sum(tensor, 1), [tensor.shape[0] ?? 1, 1]);
}
