/** One stage of the recursion: its expansion, what the control does to the samples' outputs, and what its coefficients solve. */
import type { Engine, Tensor } from '../../tensor/engine.ts';
import type { Scalar } from '../../tensor/scalar.ts';
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
  readonly learningRate: Scalar;
}

/** One stage of which only its tangent kernel is known. */
export interface StageKernel {
  /** N_t at η_t = 1: [R, R], or its diagonal [R] where cross-sample terms are dropped. */
  readonly kernel: Tensor;
  /** J_t R_t⁻¹ Dᵀ 1/B, [R]; null where D = J. */
  readonly plainPrediction: Tensor | null;
  readonly learningRate: Scalar;
}

export type Stage = StageExpansion | StageKernel;

/** What the coefficients κ_t of a stage solve. */
export type StageSystem =
  /** S_t κ_t = target_t + s_t; S [R, R]. */
  | { readonly kind: 'full'; readonly S: Tensor; readonly target: Tensor }
  /** κ_t = offset_t + gain_t ∘ s_t, sample by sample, all [R]. */
  | { readonly kind: 'diagonal'; readonly gain: Tensor; readonly offset: Tensor };

/** N_t = J_t R_t⁻¹ J_tᵀ, [R, R]. */
export function tangentKernel(engine: Engine, stage: Stage): Tensor {
  if ('kernel' in stage) return engine.multiply(stage.kernel, stage.learningRate);
  const { blocks, learningRate } = stage;
  const kernels = blocks.map(({ transformed, weights }) => gram(engine, transformed, weights));
  return engine.multiply(sum(engine, kernels), learningRate);
}

/** The diagonal of N_t, [R]. */
export function tangentKernelDiagonal(engine: Engine, stage: Stage): Tensor {
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
export function lessPlainPrediction(engine: Engine, target: Tensor, stage: Stage): Tensor {
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
