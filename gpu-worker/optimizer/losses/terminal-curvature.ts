/**
 * Terminal curvature φ_xx of each sample, as h_i S_i S_iᵀ with r columns S_i and a weight h_i > 0.
 *
 * `gradient`: one column, S_i = ∂φ_i/∂x_T, the paper's outer-product choice with h_i = 1. Weighed by the loss,
 * h_i = clamp(1/(2φ_i), floor, ceiling), it is Gauss–Newton on √(2φ) as the floor goes to 0. `gauss-newton`: r columns with
 * S_i S_iᵀ the Hessian of the loss in the network's output. `sampled-fisher`: one column, the loss gradient for a label drawn
 * from the network's own prediction. Both have h_i = 1.
 */
import type { TerminalCurvature } from '../../../shared/optimizer.ts';
import type { Engine, Tensor } from '../../tensor/engine.ts';

/**
 * The terminal weights h, [B].
 *
 * @param losses per-sample losses φ, [B]; a loss at or below 1/(2·ceiling), zero and negative ones included, gets the ceiling
 */
export function terminalWeights(engine: Engine, curvature: TerminalCurvature, losses: Tensor): Tensor {
  const { add, divide, maximum, multiply } = engine;
  if (curvature.kind !== 'gradient' || curvature.lossScale === null) return add(multiply(losses, 0), 1);
  const { floor, ceiling } = curvature.lossScale;
  return maximum(floor, divide(0.5, maximum(losses, 0.5 / ceiling)));
}
