/**
 * Kronecker-factored control metric (K-FAC): P = (A + πγ^½ I) ⊗ (Γ + γ^½/π I) with A = E[a aᵀ], Γ = E[h g gᵀ].
 *
 * Martens & Grosse, "Optimizing Neural Networks with Kronecker-factored Approximate Curvature", 2015: factors, moving averages,
 * and the π split of the damping γ (section 6.3).
 */
import { ProblemError } from '../../../shared/errors.ts';
import type { KroneckerMetric } from '../../../shared/optimizer.ts';
import type { Engine, Tensor } from '../../tensor/engine.ts';
import type { FactoredGradients } from '../layers/dense.ts';
import type { KroneckerState } from '../state.ts';

interface Factors {
  readonly inputFactor: Tensor;
  readonly outputFactor: Tensor;
}

/** A and Γ of one batch. */
function batchFactors(engine: Engine, { input, outputGradient }: FactoredGradients, terminalWeights: Tensor): Factors {
  const { divide, matMul, multiply, reshape } = engine;
  const batch = input.shape[0] ?? 0;
  const weighted = multiply(reshape(terminalWeights, [batch, 1]), outputGradient);
  return {
    inputFactor: divide(matMul(input, input, { transposeLeft: true }), batch),
    outputFactor: divide(matMul(weighted, outputGradient, { transposeLeft: true }), batch),
  };
}

/**
 * Bias-corrected exponential moving average after `count` earlier batches:
 * Σ_k decay^(count−k) (1 − decay) F_k / (1 − decay^(count+1)), as a running mean.
 */
function movingAverage(engine: Engine, average: Tensor, value: Tensor, decay: number, count: number): Tensor {
  const share = (1 - decay) / (1 - decay ** (count + 1));
  return engine.add(engine.multiply(average, 1 - share), engine.multiply(value, share));
}

/** (A + πγ^½ I)⁻¹ and (Γ + γ^½/π I)⁻¹ with π² = (tr A / dim A) / (tr Γ / dim Γ); NaN where a factorisation fails. */
function invertFactors(engine: Engine, { inputFactor, outputFactor }: Factors, damping: number): [Tensor, Tensor] {
  const { add, divide, maximum, multiply, sqrt, trace, inverseSpd } = engine;
  const root = Math.sqrt(damping);
  // A factor that is zero, as Γ is when no sample has a gradient, would send π to 0 or infinity: keep both traces positive.
  const smallest = 1e-30;
  const inputMean = maximum(divide(trace(inputFactor), inputFactor.shape[0] ?? 1), smallest);
  const outputMean = maximum(divide(trace(outputFactor), outputFactor.shape[0] ?? 1), smallest);
  const pi = divide(sqrt(inputMean), sqrt(outputMean));
  return [
    inverseSpd(add(inputFactor, scaledIdentity(engine, inputFactor, multiply(pi, root)))),
    inverseSpd(add(outputFactor, scaledIdentity(engine, outputFactor, divide(root, pi)))),
  ];
}

function scaledIdentity(engine: Engine, like: Tensor, scale: Tensor): Tensor {
  const ones = engine.tensor(new Float32Array(like.shape[0] ?? 0).fill(1), [like.shape[0] ?? 0]);
  return engine.diagonal(engine.multiply(ones, scale));
}

/**
 * The metric's state after one more batch: factors averaged, inverses refreshed when due.
 *
 * @param count batches averaged before this one
 * @returns the state, and whether a refresh failed and the last good inverses were kept
 * @throws ProblemError `numerical_failure` if the very first refresh fails, since there is nothing to keep
 */
export function updateKronecker(
  engine: Engine,
  metric: KroneckerMetric,
  state: KroneckerState | null,
  gradients: FactoredGradients,
  terminalWeights: Tensor,
  count: number,
  layerName: string,
): { state: KroneckerState; refreshFailed: boolean } {
  const batch = batchFactors(engine, gradients, terminalWeights);
  const factors: Factors =
    state === null
      ? batch
      : {
          inputFactor: movingAverage(engine, state.inputFactor, batch.inputFactor, metric.decay, count),
          outputFactor: movingAverage(engine, state.outputFactor, batch.outputFactor, metric.decay, count),
        };
  if (state !== null && !isRefreshDue(metric, count)) {
    const { inputInverse, outputInverse } = state;
    return { state: { kind: 'kronecker', ...factors, inputInverse, outputInverse }, refreshFailed: false };
  }
  const [inputInverse, outputInverse] = invertFactors(engine, factors, metric.damping);
  if (engine.allFinite([inputInverse, outputInverse])) {
    return { state: { kind: 'kronecker', ...factors, inputInverse, outputInverse }, refreshFailed: false };
  }
  if (state === null) {
    throw new ProblemError('numerical_failure', {
      param: `layers.${layerName}`,
      detail: `The Kronecker factors of layer ${layerName} have no inverse in floating point.`,
      remedy: 'Check the scale of its inputs and output gradients, or raise metric.damping.',
    });
  }
  const kept = { inputInverse: state.inputInverse, outputInverse: state.outputInverse };
  return { state: { kind: 'kronecker', ...factors, ...kept }, refreshFailed: true };
}

/** Whether the step with this sequence number inverts the factors. */
export function isRefreshDue(metric: KroneckerMetric, step: number): boolean {
  return step % metric.refreshEvery === 0;
}

/** P⁻¹J in factored form: (A⁻¹ a_i) ⊗ (Γ⁻¹ g_i). */
export function preconditionKronecker(
  engine: Engine,
  state: KroneckerState,
  gradients: FactoredGradients,
): FactoredGradients {
  return {
    input: engine.matMul(gradients.input, state.inputInverse),
    outputGradient: engine.matMul(gradients.outputGradient, state.outputInverse),
  };
}
