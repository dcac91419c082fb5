/**
 * The paper's own recursion, sample by sample, kept for comparison with the batch-exact form: Liu, Chen & Theodorou (2021), their
 * algorithm 3 with the outer-product factorisation. Q_uu is the control metric R alone, and D = J.
 *
 *     V_xx,i = ζ_i² G_i G_iᵀ,   V_x,i = ν_i G_i,   δu = −R⁻¹ (ℓ_u + (1/B) Σ_i J_i (ν_i + ζ_i² s_i))
 *
 * with ζ² = h and ν = 1 at the last state. R is made from Q_u,i = ℓ_u + ν_i J_i, and so belongs to the backward pass.
 *
 * `paper-faithful` is the algorithm to the letter: every sample has the control to itself, n_i = N_ii,
 *
 *     ν ← ν − ζ² ∘ (n ∘ ν + J R⁻¹ℓ_u),   ζ² ← ζ² ∘ (1 − ζ² ∘ n)
 *
 * A sample with ζ_i² n_i > 1 has no real ζ_i; it counts as 1, so that nothing of this sample's cost is left for earlier stages.
 *
 * `paper-averaged` lets the samples share the control, which changes by the mean of their changes:
 *
 *     ν ← ν − ζ² ∘ (N ν/B + J R⁻¹ℓ_u),   ζ² ← ζ² ∘ max(0, 1 − ζ² ∘ n/B)
 */
import type { BatchCoupling, Coupling } from '../../../shared/optimizer.ts';
import type { Engine, Tensor } from '../../tensor/engine.ts';
import { lessPlainPrediction, tangentKernel, tangentKernelDiagonal, type Stage, type StageSystem } from './stage.ts';

/** ζ² and ν, [B]. */
interface Value {
  readonly curvature: Tensor;
  readonly gradient: Tensor;
}

interface Recursion {
  readonly coupling: Coupling;
  readonly batchCoupling: BatchCoupling;
}

/**
 * The systems of all stages beside what they were made from, in forward order.
 *
 * @param count of stages
 * @param rowWeights h of every row, [B]
 * @param batch B
 * @param expand makes stage t, given ν of its output; called from the last stage to the first
 */
export function paperRecursion<Expanded extends { readonly stage: Stage }>(
  engine: Engine,
  count: number,
  rowWeights: Tensor,
  batch: number,
  { coupling, batchCoupling }: Recursion,
  expand: (t: number, gradientWeights: Tensor) => Expanded,
): (Expanded & { readonly system: StageSystem })[] {
  const { add, divide, multiply } = engine;
  const expansions: (Expanded & { readonly system: StageSystem })[] = [];
  let value: Value = { curvature: rowWeights, gradient: add(multiply(rowWeights, 0), 1) };
  for (let t = count - 1; t >= 0; t--) {
    const { curvature, gradient } = value;
    const expanded = expand(t, gradient);
    const system = { kind: 'diagonal', gain: divide(curvature, batch), offset: divide(gradient, batch) } as const;
    expansions.unshift({ ...expanded, system });
    if (coupling === 'layerwise' || t === 0) continue;
    value =
      batchCoupling === 'paper-averaged'
        ? averagedValue(engine, expanded.stage, value, batch)
        : ownValue(engine, expanded.stage, value);
  }
  return expansions;
}

/** V of the state before the stage, every sample with the control to itself. */
function ownValue(engine: Engine, stage: Stage, { curvature, gradient }: Value): Value {
  const { add, divide, maximum, minimum, multiply, subtract } = engine;
  const n = tangentKernelDiagonal(engine, stage);
  const kept = subtract(1, minimum(multiply(curvature, n), 1));
  // ζ², or less where ζ² n would exceed 1.
  const gain = minimum(curvature, divide(1, maximum(n, SMALLEST)));
  const ofCost = lessPlainPrediction(engine, multiply(n, 0), stage);
  return {
    curvature: multiply(curvature, kept),
    gradient: add(multiply(gradient, kept), multiply(gain, ofCost)),
  };
}

/** V of the state before the stage, where the control changes by the mean of the samples' changes. */
function averagedValue(engine: Engine, stage: Stage, { curvature, gradient }: Value, batch: number): Value {
  const { add, diagonalOf, divide, matMul, maximum, multiply, reshape, subtract } = engine;
  const [rows = 0] = curvature.shape;
  const N = tangentKernel(engine, stage);
  const predicted = reshape(matMul(N, reshape(divide(gradient, batch), [rows, 1])), [rows]);
  const change = lessPlainPrediction(engine, multiply(predicted, -1), stage);
  const used = divide(multiply(curvature, diagonalOf(N)), batch);
  return {
    curvature: multiply(curvature, maximum(subtract(1, used), 0)),
    gradient: add(gradient, multiply(curvature, change)),
  };
}

/** In place of N_ii = 0, for a quotient that is then not used. */
const SMALLEST = 1e-30;
