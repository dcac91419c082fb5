/**
 * Multi-class hinge: v_k = m − x_y + x_k, and over the k ≠ y with v_k > 0
 *
 *     φ = (1/C) Σ v_k^p,   ∂φ/∂x = (p/C) Σ v_k^(p−1) (e_k − e_y),   ∂²φ/∂x² = (2/C) Σ (e_k − e_y)(e_k − e_y)ᵀ for p = 2
 *
 * For p = 1 the Hessian is 0 wherever it exists, and S is that 0. The loss is no likelihood: nothing can be drawn from its
 * prediction, so its sampled gradient is S with random signs, which has the same mean outer product.
 */
import type { MultiMargin } from '../../../shared/loss.ts';
import type { Engine, Tensor } from '../../tensor/engine.ts';
import { diagonals, outerProducts, randomMatrix, sumOutputs, type LossExpansion } from './expansion.ts';

/**
 * @param output x_T, [B, C]
 * @param labels one-hot, [B, C]
 */
export function multiMargin(
  engine: Engine,
  { margin, power }: MultiMargin,
  output: Tensor,
  labels: Tensor,
): LossExpansion {
  const { add, isPositive, maximum, multiply, square, subtract, sum } = engine;
  const [, classes = 1] = output.shape;
  const ofLabel = sumOutputs(engine, multiply(output, labels)); // x_y
  const others = subtract(1, labels);
  const v = multiply(others, maximum(add(subtract(output, ofLabel), margin), 0));
  const active = isPositive(v);
  const slopes = multiply(power === 1 ? active : v, power / classes);
  const factorScale = power === 1 ? 0 : Math.sqrt(2 / classes);
  return {
    values: multiply(sum(power === 1 ? v : square(v), 1), 1 / classes),
    gradient: subtract(slopes, multiply(labels, sumOutputs(engine, slopes))),
    factor: () => multiply(subtract(diagonals(engine, active), outerProducts(engine, labels, active)), factorScale),
    sampledGradient: (random) => {
      const signs = randomMatrix(engine, output.shape, () => (random() < 0.5 ? -1 : 1));
      const signed = multiply(multiply(active, signs), factorScale);
      return subtract(signed, multiply(labels, sumOutputs(engine, signed)));
    },
  };
}
