/**
 * Max-Mahalanobis-centre loss: squared distance to the label's centre, φ = ½ ‖x − μ_y‖². Pang et al., "Rethinking Softmax
 * Cross-Entropy Loss for Adversarial Robustness", ICLR 2020: centres of one length whose pairwise angles are as wide as L points
 * allow, ⟨μ_i, μ_j⟩ = −C_MM²/(L − 1).
 */
import type { MaxMahalanobisCentre } from '../../../shared/loss.ts';
import type { Engine, Tensor } from '../../tensor/engine.ts';
import type { LossExpansion } from './expansion.ts';
import { squaredError } from './squared-error.ts';

/**
 * @param output x_T, [B, d]
 * @param labels one-hot, [B, L]
 */
export function maxMahalanobisCentre(
  engine: Engine,
  loss: MaxMahalanobisCentre,
  output: Tensor,
  labels: Tensor,
): LossExpansion {
  const [, features = 1] = output.shape;
  const centres = engine.tensor(centresOf(loss, features), [loss.classes, features]);
  return squaredError(engine, output, engine.matMul(labels, centres));
}

/** Made once for every loss, since they do not change while it trains. */
const known = new WeakMap<MaxMahalanobisCentre, Float64Array>();

function centresOf(loss: MaxMahalanobisCentre, features: number): Float64Array {
  const centres = known.get(loss);
  if (centres?.length === loss.classes * features) return centres;
  const made = maxMahalanobisCentres(loss.classes, features, loss.scale);
  known.set(loss, made);
  return made;
}

/**
 * μ, [L, d] row-major: the paper's Algorithm 1, which needs L ≤ d + 1. Each centre is fixed by its inner products with those
 * before it and by its length.
 */
export function maxMahalanobisCentres(classes: number, features: number, scale: number): Float64Array {
  if (classes > features + 1) {
    throw new RangeError(`${String(classes)} centres do not fit into ${String(features)} dimensions`);
  }
  const centres = new Float64Array(classes * features);
  const at = (i: number, j: number): number => centres[i * features + j] ?? Number.NaN;
  for (let i = 0; i < classes; i++) {
    let squaredLength = 0;
    for (let j = 0; j < Math.min(i, features); j++) {
      let inner = 0;
      for (let k = 0; k < j; k++) inner += at(i, k) * at(j, k);
      const value = -(1 / (classes - 1) + inner) / at(j, j);
      centres[i * features + j] = value;
      squaredLength += value ** 2;
    }
    // With L = d + 1 the last centre has its length already.
    if (i < features) centres[i * features + i] = Math.sqrt(Math.max(1 - squaredLength, 0));
  }
  return centres.map((value) => scale * value);
}
