/** The terminal weights of a batch, for whoever computes them in plain numbers: clients, and the edge. */
import type { TerminalCurvature } from './optimizer.ts';

/**
 * h_i = clamp(1/(2φ_i), floor, ceiling), or 1 where the losses do not weigh; [B].
 *
 * @param losses φ, [B]; a loss at or below 1/(2·ceiling), zero and negative ones included, gets the ceiling
 */
export function terminalWeights(losses: ArrayLike<number>, curvature: TerminalCurvature): Float64Array {
  if (curvature.kind !== 'gradient' || curvature.lossScale === null) return new Float64Array(losses.length).fill(1);
  const { floor, ceiling } = curvature.lossScale;
  return Float64Array.from(losses, (loss) => Math.max(floor, 0.5 / Math.max(loss, 0.5 / ceiling)));
}
