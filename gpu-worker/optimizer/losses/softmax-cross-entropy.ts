/**
 * Softmax cross-entropy with label smoothing (Szegedy et al., "Rethinking the Inception Architecture", 2016):
 *
 *     φ = log Σ_k e^x_k − Σ_k t_k x_k,   t = (1 − ε)·label + ε/C
 *     ∂φ/∂x = p − t,   ∂²φ/∂x² = diag(p) − p pᵀ = S Sᵀ,   S = diag(√p) − p √pᵀ
 */
import type { SoftmaxCrossEntropy } from '../../../shared/loss.ts';
import type { Random } from '../../../shared/random.ts';
import type { Engine, Tensor } from '../../tensor/engine.ts';
import { diagonals, outerProducts, sumOutputs, type LossExpansion } from './expansion.ts';

/**
 * @param output x_T, [B, C]
 * @param labels one-hot, [B, C]
 */
export function softmaxCrossEntropy(
  engine: Engine,
  { labelSmoothing }: SoftmaxCrossEntropy,
  output: Tensor,
  labels: Tensor,
): LossExpansion {
  const { add, divide, exp, largest, log, multiply, reshape, sqrt, subtract, sum } = engine;
  const [batch = 1, classes = 1] = output.shape;
  const shifted = subtract(output, reshape(largest(output, 1), [batch, 1]));
  const exponentials = exp(shifted);
  const total = sumOutputs(engine, exponentials);
  const p = divide(exponentials, total);
  const t = add(multiply(labels, 1 - labelSmoothing), labelSmoothing / classes);
  return {
    values: sum(multiply(t, subtract(log(total), shifted)), 1),
    gradient: subtract(p, t),
    factor: () => {
      const root = sqrt(p);
      return subtract(diagonals(engine, root), outerProducts(engine, p, root));
    },
    // Labels as they are, not smoothed: then E[(p − y)(p − y)ᵀ] = diag(p) − p pᵀ.
    sampledGradient: (random) => subtract(p, drawLabels(engine, p, random)),
  };
}

/** One-hot labels drawn with probabilities p, [B, C]. */
function drawLabels(engine: Engine, p: Tensor, random: Random): Tensor {
  const [batch = 0, classes = 0] = p.shape;
  const probabilities = engine.read(p);
  const labels = new Float32Array(batch * classes);
  for (let i = 0; i < batch; i++) {
    let rest = random();
    let label = 0;
    for (; label < classes - 1; label++) {
      rest -= probabilities[i * classes + label] ?? 0;
      if (rest < 0) break;
    }
    labels[i * classes + label] = 1;
  }
  return engine.tensor(labels, [batch, classes]);
}
