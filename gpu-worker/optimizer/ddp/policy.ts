/**
 * The feedback policy of one stage:
 *
 *     δu_t(s_t) = −R_t⁻¹ (D_tᵀ 1/B + ℓ_u + J_tᵀ κ_t),   S_t κ_t = target_t + s_t
 *
 * where the loss gradients are the columns (D = J) without D_tᵀ 1/B, and ℓ_u the gradient of the running cost.
 *
 * s_t = G_tᵀ(x̂_t − x_t) is the change of each column's output that the layers before t have just caused, to first order. With a
 * second forward pass it is known when that pass reaches the stage; without one it is 0 or predicted linearly.
 */
import type { Engine, Tensor } from '../../tensor/engine.ts';
import { scalarProduct, type Scalar } from '../../tensor/scalar.ts';
import { preconditionedSum, type Preconditioner } from '../curvature/inverse-metric.ts';
import { timesChange } from '../layers/per-sample-gradients.ts';
import { timesTransform, type Transform } from '../layers/transform.ts';
import { coefficients, type CoefficientSolver } from './coefficients.ts';
import type { BlockExpansion } from './stage.ts';

/** One parameter block of a policy. */
export interface PolicyBlock extends BlockExpansion {
  readonly inverse: Preconditioner;
  /** λ(η/η_peak)u of decoupled weight decay, [n, c], no part of δu_t(s_t); null for none. */
  readonly decoupledDecay: Tensor | null;
}

export interface Policy {
  readonly blocks: readonly PolicyBlock[];
  readonly solver: CoefficientSolver;
  readonly learningRate: Scalar;
}

/**
 * δu_t, per parameter block a matrix [n, c].
 *
 * @param predictedChange s_t, [R]; null for 0
 */
export function controlChange(engine: Engine, policy: Policy, predictedChange: Tensor | null): Tensor[] {
  return engine.scope(() => {
    const kappa = coefficients(engine, policy.solver, predictedChange);
    return policy.blocks.map(({ transformed, inverse, plainStep }) => {
      const correction = preconditionedSum(engine, inverse, transformed, kappa); // P⁻¹Jᵀκ
      const change = engine.multiply(correction, scalarProduct(engine, policy.learningRate, -1));
      return plainStep === null ? change : engine.subtract(change, plainStep);
    });
  });
}

/** Changes of a stage's blocks less its decoupled weight decay. */
export function lessDecay(engine: Engine, { blocks }: Pick<Policy, 'blocks'>, changes: readonly Tensor[]): Tensor[] {
  return changes.map((change, block) => {
    const decay = blocks[block]?.decoupledDecay ?? null;
    return decay === null ? change : engine.subtract(change, decay);
  });
}

/** What a stage's change is beside −R_t⁻¹J_tᵀκ_t, whatever s_t: minus plain step and decoupled decay; null where it has neither. */
export function fixedChange(engine: Engine, { blocks }: Pick<Policy, 'blocks'>): Tensor[] | null {
  const changes = blocks.flatMap(({ plainStep, decoupledDecay }) => {
    const steps = [plainStep, decoupledDecay].filter((step) => step !== null);
    return steps.length === 0 ? [] : [engine.multiply(steps.reduce((sum, step) => engine.add(sum, step)), -1)]; // prettier-ignore
  });
  return changes.length === 0 ? null : changes;
}

/**
 * The changes of all stages without a second forward pass.
 *
 * @param predict `none`: s_t = 0 at every stage. `linear`: s_t = Σ_{τ<t} J_τ δu_τ, which makes the changes of all stages together
 *   the damped Gauss–Newton step
 */
export function openLoopChanges(engine: Engine, policies: readonly Policy[], predict: 'none' | 'linear'): Tensor[][] {
  let predictedChange: Tensor | null = null;
  return policies.map((policy) => {
    const changes = controlChange(engine, policy, predictedChange);
    if (predict === 'linear') predictedChange = plusPrediction(engine, predictedChange, policy.blocks, changes);
    return changes;
  });
}

/** s + J δu. */
function plusPrediction(
  engine: Engine,
  predictedChange: Tensor | null,
  blocks: readonly BlockExpansion[],
  changes: readonly Tensor[],
): Tensor | null {
  return blocks.reduce((sum, { columns }, block) => {
    const change = changes[block];
    if (change === undefined) throw new RangeError(`no change for block ${String(block)}`);
    const prediction = timesChange(engine, columns, change);
    return sum === null ? prediction : engine.add(sum, prediction);
  }, predictedChange);
}

/**
 * What the policy of a dense layer does with κ, as sample factors: R_t⁻¹J_tᵀκ = ãᵀ diag(κ) g̃ with ã = a T_a T_aᵀ [B, n] and
 * g̃ = η g T_g T_gᵀ [B, c].
 *
 * @throws TypeError if the layer or its metric has no such factors
 */
export function metricWeighted(engine: Engine, { blocks, learningRate }: Policy): { input: Tensor; output: Tensor } {
  const [block, ...others] = blocks;
  if (block?.transformed.kind !== 'outer' || block.weights !== null || others.length > 0) {
    throw new TypeError('this policy has no sample factors');
  }
  const { input, output } = block.transformed;
  const back = (tensor: Tensor, transform: Transform | null): Tensor =>
    transform === null ? tensor : timesTransform(engine, tensor, transform, { transposeRight: true });
  return {
    input: back(input, block.inverse.input),
    output: engine.multiply(back(output, block.inverse.output), learningRate),
  };
}
