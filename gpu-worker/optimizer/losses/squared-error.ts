/**
 * Squared error: φ = ½ ‖x − y‖², ∂φ/∂x = x − y, ∂²φ/∂x² = I. As a likelihood it is that of y = x + standard normal noise, so the
 * gradient for a target drawn from the prediction is the noise itself.
 */
import { gaussian } from '../../../shared/random.ts';
import type { Engine, Tensor } from '../../tensor/engine.ts';
import { diagonals, randomMatrix, type LossExpansion } from './expansion.ts';

/**
 * @param output x_T, [B, C]
 * @param targets y, [B, C]
 */
export function squaredError(engine: Engine, output: Tensor, targets: Tensor): LossExpansion {
  const { add, multiply, square, subtract, sum } = engine;
  const residual = subtract(output, targets);
  return {
    values: multiply(sum(square(residual), 1), 0.5),
    gradient: residual,
    factor: () => diagonals(engine, add(multiply(output, 0), 1)),
    sampledGradient: (random) => randomMatrix(engine, output.shape, () => gaussian(random)),
  };
}
