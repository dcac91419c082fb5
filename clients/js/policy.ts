/**
 * The feedback policy of one layer, as a client applies it in its second forward pass.
 *
 *     κ = S⁻¹(target + s),  δu = −η P⁻¹Jᵀκ + what does not depend on s: weight decay
 *
 * It comes in one of two encodings. Sample factors: δ[W; b] = −ãᵀ diag(κ) g̃. Inverse factors: P⁻¹ itself, and Jᵀκ, the gradient of
 * Σ_i κ_i φ_i, is the client's to form.
 */
import type { DenseLayer, Layer } from '../../shared/layer.ts';
import type { TensorValues } from '../../shared/safetensors.ts';
import { PARAMETER_NAMES, type ParameterName } from '../../shared/parameter-names.ts';
import { solveCoefficients, type PolicyCoefficients } from './coefficients.ts';
import { precondition, type LayerMetric } from './layer-metric.ts';
import type { ParameterChanges } from './parameter-changes.ts';

interface PolicyParts {
  readonly coefficients: PolicyCoefficients;
  /** The part of the change that does not depend on s; no entries without weight decay. */
  readonly fixedChange: ParameterChanges;
}

/** A policy in metric-weighted samples. */
export interface SampleFactors extends PolicyParts {
  readonly kind: 'sample-factors';
  /** ã, [B, n (+ 1, bias last)]. */
  readonly input: TensorValues;
  /** g̃, learning rate included, [B, c]. */
  readonly outputGradient: TensorValues;
}

/** A policy in the inverse of the layer's metric. */
export interface InverseFactors extends PolicyParts {
  readonly kind: 'inverse-factors';
  /** η_t. */
  readonly learningRate: number;
  /** P. */
  readonly metric: LayerMetric;
}

export type PolicyTensors = SampleFactors | InverseFactors;

/** What the step was taken with: the layer's input, [B, (S,) n], and its output gradient, [B, (S,) c]. */
export interface LayerSamples {
  readonly input: TensorValues;
  readonly outputGradient: TensorValues;
}

export class LayerPolicy {
  readonly layer: Layer;
  readonly tensors: PolicyTensors;
  readonly #samples: LayerSamples | null;

  /** @param samples of the step's batch; null where Jᵀκ is formed by the caller, or not needed */
  constructor(layer: Layer, tensors: PolicyTensors, samples: LayerSamples | null) {
    this.layer = layer;
    this.tensors = tensors;
    this.#samples = samples;
  }

  /**
   * The change of a dense layer, given what the layers before it have just changed. Layers of other kinds: `coefficients`, a gradient
   * of your own, and `changeFrom`.
   *
   * @param predictedChange s, [B]: s_i = ⟨∂φ_i/∂x, x̂_i − x_i⟩, the change of sample i's loss that the change of this layer's
   *   input predicts; null for the first layer, whose input does not change
   * @throws RangeError for another layer
   */
  change(predictedChange: ArrayLike<number> | null): ParameterChanges {
    const { layer, tensors } = this;
    if (layer.kind !== 'dense') {
      throw new RangeError(
        `layer ${layer.name} is not dense: weigh its gradient with coefficients, and use changeFrom`,
      );
    }
    const kappa = this.coefficients(predictedChange);
    if (tensors.kind === 'sample-factors')
      return withFixedChange(weightedSum(layer, tensors, kappa, -1), tensors.fixedChange);
    if (this.#samples === null) throw new RangeError(`the samples of layer ${layer.name} are not known`);
    const samples = layer.bias ? withOnes(layer, this.#samples) : this.#samples;
    return this.changeFrom(weightedSum(layer, samples, kappa, 1));
  }

  /** κ(s), [B]: what to weigh the samples' gradients with; see {@link change} for s. */
  coefficients(predictedChange: ArrayLike<number> | null): Float64Array {
    return solveCoefficients(this.tensors.coefficients, predictedChange);
  }

  /**
   * The change of a layer of any kind, in the encoding inverse-factors.
   *
   * @param weightedGradient Jᵀκ: the gradient of Σ_i κ_i φ_i in the layer's parameters, by name, in their own shapes
   * @throws RangeError in the other encoding, which needs no gradient
   */
  changeFrom(weightedGradient: ParameterChanges): ParameterChanges {
    const { layer, tensors } = this;
    if (tensors.kind === 'sample-factors') {
      throw new RangeError(`the policy of layer ${layer.name} came as sample factors; use change`);
    }
    const preconditioned = precondition(layer, tensors.metric, weightedGradient);
    return withFixedChange(scaled(preconditioned, -tensors.learningRate), tensors.fixedChange);
  }
}

/** factor · aᵀ diag(κ) g as weight and bias, for inputs [B, (S,) n (+ 1)] and output gradients [B, (S,) c]. */
function weightedSum(
  { inputs, outputs, bias }: DenseLayer,
  { input, outputGradient }: LayerSamples,
  kappa: Float64Array,
  factor: number,
): ParameterChanges {
  const rows = bias ? inputs + 1 : inputs;
  const length = rows * outputs;
  const sum = input instanceof Float64Array ? new Float64Array(length) : new Float32Array(length);
  const positions = outputGradient.length / outputs / kappa.length;
  for (let sample = 0; sample < outputGradient.length / outputs; sample++) {
    const coefficient = factor * (kappa[Math.floor(sample / positions)] ?? Number.NaN);
    for (let row = 0; row < rows; row++) {
      const weight = coefficient * (input[sample * rows + row] ?? 0);
      for (let column = 0; column < outputs; column++) {
        const index = row * outputs + column;
        sum[index] = (sum[index] ?? 0) + weight * (outputGradient[sample * outputs + column] ?? 0);
      }
    }
  }
  const weight = sum.subarray(0, inputs * outputs);
  return bias ? { weight, bias: sum.subarray(inputs * outputs) } : { weight };
}

/** The inputs with a constant 1 behind each, for the bias. */
function withOnes({ inputs }: DenseLayer, { input, outputGradient }: LayerSamples): LayerSamples {
  const rows = input.length / inputs;
  const augmented = new (input instanceof Float64Array ? Float64Array : Float32Array)(rows * (inputs + 1)).fill(1);
  for (let row = 0; row < rows; row++) {
    augmented.set(input.subarray(row * inputs, (row + 1) * inputs), row * (inputs + 1));
  }
  return { input: augmented, outputGradient };
}

function scaled(changes: ParameterChanges, factor: number): ParameterChanges {
  return mapParameters(changes, (values) => values.map((value) => value * factor));
}

function withFixedChange(changes: ParameterChanges, fixed: ParameterChanges): ParameterChanges {
  return mapParameters(changes, (values, name) => {
    const constant = fixed[name];
    return constant === undefined ? values : values.map((value, index) => value + (constant[index] ?? 0));
  });
}

function mapParameters(
  changes: ParameterChanges,
  change: (values: TensorValues, name: ParameterName) => TensorValues,
): ParameterChanges {
  return Object.fromEntries(
    PARAMETER_NAMES.flatMap((name) => {
      const values = changes[name];
      return values === undefined ? [] : [[name, change(values, name)]];
    }),
  );
}
