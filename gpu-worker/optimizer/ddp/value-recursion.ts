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
import type { BatchCoupling, Coupling, TerminalCurvature } from '../../../shared/optimizer.ts';
import type { Engine, Tensor } from '../../tensor/engine.ts';
import { gram, gramDiagonal, timesChange, type PerSampleGradients } from '../layers/per-sample-gradients.ts';

/** One parameter block of a stage. */
export interface BlockExpansion {
  /** J: r rows per sample. */
  readonly columns: PerSampleGradients;
  /** J (T_a ⊗ T_g): in the coordinates of the metric. */
  readonly transformed: PerSampleGradients;
  /** w of the metric, or null for ones. */
  readonly weights: Tensor | null;
  /** R⁻¹ (Dᵀ 1/B + ℓ_u), [n, c]: D left out where D = J, ℓ_u where the stage has no running cost; null without both. */
  readonly plainStep: Tensor | null;
}

/** One stage: a layer with its parameter blocks. */
export interface StageExpansion {
  readonly blocks: readonly BlockExpansion[];
  /** η_t of R_t = P_t/η_t. */
  readonly learningRate: number;
}

/** One stage of which only its tangent kernel is known. */
export interface StageKernel {
  /** N_t at η_t = 1: [R, R], or its diagonal [R] where cross-sample terms are dropped. */
  readonly kernel: Tensor;
  /** J_t R_t⁻¹ Dᵀ 1/B, [R]; null where D = J. */
  readonly plainPrediction: Tensor | null;
  readonly learningRate: number;
}

type Stage = StageExpansion | StageKernel;

export interface RecursionOptions {
  readonly terminalCurvature: TerminalCurvature;
  readonly coupling: Coupling;
  readonly batchCoupling: BatchCoupling;
  /** ε: adds ε G Gᵀ to V_xx wherever a stage uses it. */
  readonly valueRegularization: number;
}

/** What the coefficients κ_t of a stage solve. */
export type StageSystem =
  /** S_t κ_t = target_t + s_t; S [R, R]. */
  | { readonly kind: 'full'; readonly S: Tensor; readonly target: Tensor }
  /** κ_t = offset_t + gain_t ∘ s_t, sample by sample, all [R]. */
  | { readonly kind: 'diagonal'; readonly gain: Tensor; readonly offset: Tensor };

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
      return paperRecursion(engine, stages, rowWeights, batch, options);
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

/** N_t = J_t R_t⁻¹ J_tᵀ, [R, R]. */
function tangentKernel(engine: Engine, stage: Stage): Tensor {
  if ('kernel' in stage) return engine.multiply(stage.kernel, stage.learningRate);
  const { blocks, learningRate } = stage;
  const kernels = blocks.map(({ transformed, weights }) => gram(engine, transformed, weights));
  return engine.multiply(sum(engine, kernels), learningRate);
}

/** The diagonal of N_t, [R]. */
function tangentKernelDiagonal(engine: Engine, stage: Stage): Tensor {
  if ('kernel' in stage) {
    const { kernel, learningRate } = stage;
    return engine.multiply(kernel.shape.length === 1 ? kernel : engine.diagonalOf(kernel), learningRate);
  }
  const { blocks, learningRate } = stage;
  return engine.scope(() => {
    const diagonals = blocks.map(({ transformed, weights }) => gramDiagonal(engine, transformed, weights));
    return engine.multiply(sum(engine, diagonals), learningRate);
  });
}

/** Σ_t diag(N_t), [R]. */
export function summedKernelDiagonal(engine: Engine, stages: readonly Stage[]): Tensor {
  return sum(
    engine,
    stages.map((stage) => tangentKernelDiagonal(engine, stage)),
  );
}

/** target − J_t R_t⁻¹ (D_tᵀ 1/B + ℓ_u), [R]: the plain step has done that much already. */
function lessPlainPrediction(engine: Engine, target: Tensor, stage: Stage): Tensor {
  if ('kernel' in stage) {
    return stage.plainPrediction === null ? target : engine.subtract(target, stage.plainPrediction);
  }
  return stage.blocks.reduce(
    (rest, { columns, plainStep }) =>
      plainStep === null ? rest : engine.subtract(rest, timesChange(engine, columns, plainStep)),
    target,
  );
}

function sum(engine: Engine, [first, ...rest]: readonly Tensor[]): Tensor {
  if (first === undefined) throw new RangeError('a stage without parameters');
  return rest.reduce((total, tensor) => engine.add(total, tensor), first);
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

/**
 * The paper's recursion, sample by sample, kept for comparison; D = J. Q_uu is R alone; V_xx,i = ζ_i² G_i G_iᵀ with
 * ζ_i² ← ζ_i² (1 − ζ_i² N_ii/B), and V_x,i = ν_i G_i with ν ← ν − ζ² ∘ (N ν/B + J R⁻¹ℓ_u); the policy is
 * δu = −R⁻¹ (ℓ_u + Σ_i J_i (ν_i + ζ_i² s_i)/B).
 *
 * The 1/B is what sharing the control over the batch requires; without it most ζ_i would be imaginary. Where even so
 * ζ_i² N_ii > B, that sample's curvature is exhausted and ζ_i becomes 0.
 */
function paperRecursion(
  engine: Engine,
  stages: readonly Stage[],
  rowWeights: Tensor,
  batch: number,
  { coupling }: RecursionOptions,
): StageSystem[] {
  const { add, diagonalOf, divide, matMul, maximum, multiply, reshape, subtract } = engine;
  const rows = rowWeights.shape[0] ?? 0;
  const terminal = { curvature: rowWeights, gradient: add(multiply(rowWeights, 0), 1) }; // ζ², ν
  const systems: StageSystem[] = [];
  let later = terminal;
  for (const stage of stages.toReversed()) {
    const { curvature, gradient } = coupling === 'layerwise' ? terminal : later;
    systems.unshift({ kind: 'diagonal', gain: divide(curvature, batch), offset: divide(gradient, batch) });
    const N = tangentKernel(engine, stage);
    const predictedByGradient = reshape(matMul(N, reshape(divide(gradient, batch), [rows, 1])), [rows]);
    const change = lessPlainPrediction(engine, multiply(predictedByGradient, -1), stage);
    const used = divide(multiply(curvature, diagonalOf(N)), batch);
    later = {
      curvature: multiply(curvature, maximum(subtract(1, used), 0)),
      gradient: add(gradient, multiply(curvature, change)),
    };
  }
  return systems;
}
