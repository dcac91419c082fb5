/**
 * Binary cross-entropy of every output on its logit x:
 *
 *     φ = Σ_k ω_k (log(1 + e^x_k) − y_k x_k),   ∂φ/∂x = ω (σ(x) − y),   ∂²φ/∂x² = diag(ω σ(x)(1 − σ(x)))
 */
import type { Logistic } from '../../../shared/loss.ts';
import type { Engine, Tensor } from '../../tensor/engine.ts';
import { diagonals, randomMatrix, type LossExpansion } from './expansion.ts';

/**
 * @param output x_T, [B, C]
 * @param targets y from 0 to 1, [B, C]
 */
export function logistic(engine: Engine, { classWeights }: Logistic, output: Tensor, targets: Tensor): LossExpansion {
  const { isPositive, multiply, sigmoid, softplus, sqrt, subtract, sum, tensor } = engine;
  const [, outputs = 1] = output.shape;
  const omega = tensor(classWeights ?? new Float32Array(outputs).fill(1), [1, outputs]);
  const p = sigmoid(output);
  // 1 − σ(x) as σ(−x), which keeps its digits where σ(x) is close to 1.
  const deviation = sqrt(multiply(p, sigmoid(multiply(output, -1))));
  return {
    values: sum(multiply(omega, subtract(softplus(output), multiply(targets, output))), 1),
    gradient: multiply(omega, subtract(p, targets)),
    factor: () => diagonals(engine, multiply(sqrt(omega), deviation)),
    sampledGradient: (random) => {
      const uniform = randomMatrix(engine, output.shape, random);
      const drawn = isPositive(subtract(p, uniform));
      return multiply(sqrt(omega), subtract(p, drawn));
    },
  };
}
