/**
 * Bellman's recursion for the shared control, closed in sample space (batch-exact form, terminal curvature with one column).
 *
 *     N_t = J_t R_t⁻¹ J_tᵀ                     [B, B]  a preconditioned tangent kernel
 *     S_t = B·H⁻¹ + Σ_{τ ≥ t} N_τ              [B, B]  symmetric positive definite, always
 *     V_xx,t = G_t S_t⁻¹ G_tᵀ                          the value function's curvature; never formed
 *
 * It equals the dense recursion Q_uu = R + f_uᵀV'_xx f_u, V_xx = Q_xx − Q_uxᵀQ_uu⁻¹Q_ux of Liu, Chen & Theodorou (2021) on the
 * stacked batch; nothing larger than B×B is ever factorised.
 */
import type { Coupling } from '../../../shared/optimizer.ts';
import type { Engine, Tensor } from '../../tensor/engine.ts';
import { gram, type FactoredGradients } from '../layers/dense.ts';

/** One stage of the recursion. */
export interface StageExpansion {
  /** J_t: per-sample gradients. */
  readonly gradients: FactoredGradients;
  /** R_t⁻¹J_t. */
  readonly preconditioned: FactoredGradients;
}

/**
 * Cholesky factors of S_t, one per stage in forward order, [B, B] each; NaN where S_t overflowed.
 *
 * @param stages in forward order
 * @param terminalWeights h, [B]
 * @param coupling `layerwise` leaves the other stages out of S_t
 */
export function valueRecursion(
  engine: Engine,
  stages: readonly StageExpansion[],
  terminalWeights: Tensor,
  coupling: Coupling,
): Tensor[] {
  const { add, cholesky, diagonal, divide } = engine;
  const [batch = 0] = terminalWeights.shape;
  const terminal = diagonal(divide(batch, terminalWeights)); // B·H⁻¹
  const factors: Tensor[] = [];
  let laterStages = terminal; // B·H⁻¹ + Σ_{τ > t} N_τ
  for (const { gradients, preconditioned } of stages.toReversed()) {
    const N = gram(engine, gradients, preconditioned);
    const S = add(coupling === 'layerwise' ? terminal : laterStages, N);
    factors.unshift(cholesky(S));
    laterStages = S;
  }
  return factors;
}
