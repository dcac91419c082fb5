/**
 * The feedback policy of one stage: δu_t(s_t) = −R_t⁻¹J_tᵀ κ_t with S_t κ_t = 1/h + s_t.
 *
 * s_t = G_tᵀ(x̂_t − x_t) is the change of each sample's loss that the layers before t have just caused, to first order. It is
 * known only in the second forward pass, so the policy is handed out in the form of its factors.
 */
import type { Engine, Tensor } from '../../tensor/engine.ts';
import { weightedSum, type FactoredGradients } from '../layers/dense.ts';

export interface Policy {
  /** R_t⁻¹J_t. */
  readonly preconditioned: FactoredGradients;
  /** Lower Cholesky factor of S_t, [B, B]. */
  readonly choleskyFactor: Tensor;
}

/** 1/h, [B]: what the coefficients' equation has on its right-hand side where no earlier layer has changed. */
export function policyTarget(engine: Engine, terminalWeights: Tensor): Tensor {
  return engine.divide(1, terminalWeights);
}

/** δu_t for s_t = 0, as a matrix [n, c]: the policy of a client without a second forward pass. */
export function openLoopUpdate(engine: Engine, policy: Policy, target: Tensor): Tensor {
  const kappa = engine.choleskySolve(policy.choleskyFactor, target); // κ = S⁻¹(1/h)
  return engine.multiply(weightedSum(engine, policy.preconditioned, kappa), -1);
}
