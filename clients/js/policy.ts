/**
 * The feedback policy of one layer, as a client applies it in its second forward pass.
 *
 *     κ = S⁻¹(1/h + s),  [δW; δb] = −ãᵀ diag(κ) g̃
 */
import { choleskySolve } from '../../shared/linear-algebra.ts';
import type { TensorValues } from '../../shared/safetensors.ts';
import type { Layer } from '../../shared/layer.ts';

/** A change of one layer's parameters, to be added to them. */
export interface ParameterChange {
  /** [n, c], row-major. */
  readonly weight: TensorValues;
  /** [c]; null if the layer has no bias. */
  readonly bias: TensorValues | null;
}

export interface PolicyTensors {
  /** ã, [B, n (+ 1, bias last)]. */
  readonly input: TensorValues;
  /** g̃, learning rate included, [B, c]. */
  readonly outputGradient: TensorValues;
  /** Lower Cholesky factor of S, [B, B]. */
  readonly cholesky: TensorValues;
  /** 1/h, [B]. */
  readonly target: TensorValues;
}

export class LayerPolicy {
  readonly layer: Layer;
  readonly tensors: PolicyTensors;

  constructor(layer: Layer, tensors: PolicyTensors) {
    this.layer = layer;
    this.tensors = tensors;
  }

  /**
   * The change of this layer, given what the layers before it have just changed.
   *
   * @param predictedChange s, [B]: s_i = ⟨∂φ_i/∂x, x̂_i − x_i⟩, the change of sample i's loss that the change of this layer's
   *   input predicts; null for the first layer, whose input does not change
   */
  change(predictedChange: ArrayLike<number> | null): ParameterChange {
    const { input, outputGradient, cholesky, target } = this.tensors;
    const batch = target.length;
    if (predictedChange !== null && predictedChange.length !== batch) {
      throw new RangeError(
        `predictedChange has ${String(predictedChange.length)} values; the batch has ${String(batch)}`,
      );
    }
    const rightHandSide = Float64Array.from(target, (value, i) => value + (predictedChange?.[i] ?? 0));
    const kappa = choleskySolve(cholesky, rightHandSide);

    const { inputs, outputs, bias } = this.layer;
    const rows = bias ? inputs + 1 : inputs;
    const change =
      cholesky instanceof Float64Array ? new Float64Array(rows * outputs) : new Float32Array(rows * outputs);
    for (let i = 0; i < batch; i++) {
      for (let row = 0; row < rows; row++) {
        const weight = (kappa[i] ?? 0) * (input[i * rows + row] ?? 0);
        for (let column = 0; column < outputs; column++) {
          const index = row * outputs + column;
          change[index] = (change[index] ?? 0) - weight * (outputGradient[i * outputs + column] ?? 0);
        }
      }
    }
    return {
      weight: change.subarray(0, inputs * outputs),
      bias: bias ? change.subarray(inputs * outputs) : null,
    };
  }
}
