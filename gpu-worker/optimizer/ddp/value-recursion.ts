/**
 * Bellman's recursion for the shared control, closed in sample space (batch-exact form).
 *
 *     N_t = J_t R_t⁻¹ J_tᵀ                     [R, R]  a preconditioned tangent kernel
 *     S_t = B·H⁻¹ + Σ_{τ ≥ t} N_τ              [R, R]  symmetric positive definite, always
 *     V_xx,t = G_t S_t⁻¹ G_tᵀ                          the value function's curvature; never formed
 *
 * and the policy's coefficients solve S_t κ_t = target_t + s_t. With the loss gradients themselves as columns (D = J) the target
 * starts as 1/h. With other columns it starts as 0, and the policy has the plain step −R⁻¹Dᵀ1/B as well. A running cost ℓ_t with
 * gradient ℓ_u adds −R⁻¹ℓ_u to the plain step in either case. κ_t is the correction to the plain steps p_τ:
 * target_t = (1/h or 0) + Σ_{τ ≥ t} J_τ p_τ.
 *
 * This equals the dense recursion Q_uu = R + f_uᵀV'_xx f_u, V_xx = Q_xx − Q_uxᵀQ_uu⁻¹Q_ux of Liu, Chen & Theodorou (2021) on the
 * stacked batch; nothing larger than R×R is ever factorised (R = B·r, with r columns of terminal curvature per sample).
 */
import { at } from '../../../shared/at.ts';
import type { BatchCoupling, Coupling, TerminalCurvature } from '../../../shared/optimizer.ts';
import type { Engine, Tensor } from '../../tensor/engine.ts';
import { paperRecursion } from './paper-recursion.ts';
import { lessPlainPrediction, tangentKernel, tangentKernelDiagonal, type Stage, type StageSystem } from './stage.ts';

export interface RecursionOptions {
  readonly terminalCurvature: TerminalCurvature;
  readonly coupling: Coupling;
  readonly batchCoupling: BatchCoupling;
  /** ε: adds ε G Gᵀ to V_xx wherever a stage uses it. */
  readonly valueRegularization: number;
}

/** The value function in sample space: S [R, R] or its diagonal [R], and the target [R]. */
interface Value {
  readonly S: Tensor;
  readonly target: Tensor;
}

/**
 * The systems of all stages, in forward order.
 *
 * @param stages in forward order
 * @param rowWeights h of every row, [R]
 * @param batch B
 */
export function valueRecursion(
  engine: Engine,
  stages: readonly Stage[],
  rowWeights: Tensor,
  batch: number,
  options: RecursionOptions,
): StageSystem[] {
  switch (options.batchCoupling) {
    case 'full':
      return fullRecursion(engine, stages, rowWeights, batch, options);
    case 'diagonal':
      return diagonalRecursion(engine, stages, rowWeights, batch, options);
    case 'paper-faithful':
    case 'paper-averaged':
      return paperRecursion(engine, stages.length, rowWeights, batch, options, (t) => ({ stage: at(stages, t) })).map(
        ({ system }) => system,
      );
  }
}

function fullRecursion(
  engine: Engine,
  stages: readonly Stage[],
  rowWeights: Tensor,
  batch: number,
  { terminalCurvature, coupling, valueRegularization }: RecursionOptions,
): StageSystem[] {
  const { add, diagonal, divide, multiply } = engine;
  const terminal: Value = {
    S: diagonal(divide(batch, rowWeights)), // B·H⁻¹
    target: terminalCurvature.kind === 'gradient' ? divide(1, rowWeights) : multiply(rowWeights, 0),
  };
  const systems: StageSystem[] = [];
  let later = terminal;
  for (const stage of stages.toReversed()) {
    // A scope of its own: what leads to S is several matrices of its size.
    later = engine.scope((): Value => {
      const value = regularise(engine, coupling === 'layerwise' ? terminal : later, valueRegularization);
      const S = add(value.S, tangentKernel(engine, stage));
      return { S, target: lessPlainPrediction(engine, value.target, stage) };
    });
    systems.unshift({ kind: 'full', ...later });
  }
  return systems;
}

/**
 * V_xx + ε G Gᵀ, which in sample space is S⁻¹ + εI: S ← (S⁻¹ + εI)⁻¹ and target ← (I + εS)⁻¹ target; V_x stays as it is.
 *
 * With S = L Lᵀ the new S is W Wᵀ, W = L C⁻ᵀ and I + ε LᵀL = C Cᵀ: symmetric and positive as computed, and without the
 * cancellation of (I + εS)⁻¹S, where a tiny factor meets a huge one.
 */
function regularise(engine: Engine, value: Value, epsilon: number): Value {
  if (epsilon === 0) return value;
  const { add, cholesky, choleskySolve, inverseCholesky, matMul, multiply } = engine;
  const identity = engine.identity(value.target.shape[0] ?? 0);
  const L = cholesky(value.S);
  const inverseC = inverseCholesky(add(identity, multiply(matMul(L, L, { transposeLeft: true }), epsilon)));
  const W = matMul(L, inverseC, { transposeRight: true });
  return {
    S: matMul(W, W, { transposeRight: true }),
    target: choleskySolve(cholesky(add(identity, multiply(value.S, epsilon))), value.target),
  };
}

/** The same recursion with the cross-sample terms of N dropped: κ_i = (target_i + s_i) / S_ii. O(B) instead of O(B²); D = J. */
function diagonalRecursion(
  engine: Engine,
  stages: readonly Stage[],
  rowWeights: Tensor,
  batch: number,
  { coupling, valueRegularization }: RecursionOptions,
): StageSystem[] {
  const { add, divide, multiply } = engine;
  const terminal: Value = { S: divide(batch, rowWeights), target: divide(1, rowWeights) };
  const systems: StageSystem[] = [];
  let later = terminal;
  for (const stage of stages.toReversed()) {
    const value = coupling === 'layerwise' ? terminal : later;
    const damped = add(1, multiply(value.S, valueRegularization));
    const S = add(divide(value.S, damped), tangentKernelDiagonal(engine, stage));
    const target = lessPlainPrediction(engine, divide(value.target, damped), stage);
    systems.unshift({ kind: 'diagonal', gain: divide(1, S), offset: divide(target, S) });
    later = { S, target };
  }
  return systems;
}
