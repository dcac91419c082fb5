/**
 * The feedback policy of one layer, as a client applies it in its second forward pass.
 *
 *     κ = S⁻¹(target + s),  [δW; δb] = −ãᵀ diag(κ) g̃ + what does not depend on s: weight decay
 */
import type { DenseLayer } from '../../shared/layer.ts';
import type { TensorValues } from '../../shared/safetensors.ts';
import type { ParameterName } from '../../shared/parameter-names.ts';
import { solveCoefficients, type PolicyCoefficients } from './coefficients.ts';

/** Changes of one layer's parameters, to be added to them: by name, row-major, in the parameters' own shapes. */
export type ParameterChanges = Readonly<Partial<Record<ParameterName, TensorValues>>>;

export interface PolicyTensors {
  /** ã, [B, n (+ 1, bias last)]. */
  readonly input: TensorValues;
  /** g̃, learning rate included, [B, c]. */
  readonly outputGradient: TensorValues;
  readonly coefficients: PolicyCoefficients;
  /** The part of the change that does not depend on s; no entries without weight decay. */
  readonly fixedChange: ParameterChanges;
}

export class LayerPolicy {
  readonly layer: DenseLayer;
  readonly tensors: PolicyTensors;

  constructor(layer: DenseLayer, tensors: PolicyTensors) {
    this.layer = layer;
    this.tensors = tensors;
  }

  /**
   * The change of this layer, given what the layers before it have just changed.
   *
   * @param predictedChange s, [B]: s_i = ⟨∂φ_i/∂x, x̂_i − x_i⟩, the change of sample i's loss that the change of this layer's
   *   input predicts; null for the first layer, whose input does not change
   */
  change(predictedChange: ArrayLike<number> | null): ParameterChanges {
    const { input, outputGradient, fixedChange } = this.tensors;
    const kappa = solveCoefficients(this.tensors.coefficients, predictedChange);
    const { inputs, outputs, bias } = this.layer;
    const rows = bias ? inputs + 1 : inputs;
    const length = rows * outputs;
    const change = input instanceof Float64Array ? new Float64Array(length) : new Float32Array(length);
    if (fixedChange.weight !== undefined) change.set(fixedChange.weight);
    if (fixedChange.bias !== undefined) change.set(fixedChange.bias, inputs * outputs);
    for (const [i, coefficient] of kappa.entries()) {
      for (let row = 0; row < rows; row++) {
        const weight = coefficient * (input[i * rows + row] ?? 0);
        for (let column = 0; column < outputs; column++) {
          const index = row * outputs + column;
          change[index] = (change[index] ?? 0) - weight * (outputGradient[i * outputs + column] ?? 0);
        }
      }
    }
    const weight = change.subarray(0, inputs * outputs);
    return bias ? { weight, bias: change.subarray(inputs * outputs) } : { weight };
  }
}
