/**
 * Dense layers: pre-activation z = W̄ᵀ a with the bias-augmented input a = [x, 1] and W̄ = [W; b], [n + 1, c].
 *
 * The gradient of sample i in vec(W̄), row-major, is a_i ⊗ g_i: it is kept as its two factors and never formed.
 */
import type { DenseLayer } from '../../../shared/layer.ts';
import type { Engine, Tensor } from '../../tensor/engine.ts';

/** Per-sample gradients J of one layer in factored form: row i of J is input_i ⊗ outputGradient_i. */
export interface FactoredGradients {
  /** a: inputs, with a last column of ones if the layer has a bias, [B, n]. */
  readonly input: Tensor;
  /** g: gradients of each sample's loss in the pre-activations, [B, c]. */
  readonly outputGradient: Tensor;
}

/** J of a dense layer from what the client sends: input activations [B, n] and output gradients [B, c]. */
export function perSampleGradients(
  engine: Engine,
  layer: DenseLayer,
  input: Tensor,
  outputGradient: Tensor,
): FactoredGradients {
  return { input: layer.bias ? engine.appendOnes(input) : input, outputGradient };
}

/** Left · Rightᵀ of two sets of factored gradients, [B, B]: (a ãᵀ) ∘ (g g̃ᵀ). */
export function gram(engine: Engine, left: FactoredGradients, right: FactoredGradients): Tensor {
  const { matMul, multiply } = engine;
  return multiply(
    matMul(left.input, right.input, { transposeRight: true }),
    matMul(left.outputGradient, right.outputGradient, { transposeRight: true }),
  );
}

/** Jᵀκ as a matrix [n, c]: one re-weighted weight-gradient product, aᵀ diag(κ) g. */
export function weightedSum(engine: Engine, gradients: FactoredGradients, weights: Tensor): Tensor {
  const { matMul, multiply, reshape } = engine;
  const perSample = reshape(weights, [...weights.shape, 1]);
  return matMul(gradients.input, multiply(perSample, gradients.outputGradient), { transposeLeft: true });
}

/** A change of one layer's parameters: weight [n, c] and, if the layer has one, bias [c]. */
export interface ParameterChange {
  readonly weight: Tensor;
  readonly bias: Tensor | null;
}

/** Splits a change of W̄ = [W; b] into weight and bias. */
export function splitBias(engine: Engine, layer: DenseLayer, change: Tensor): ParameterChange {
  if (!layer.bias) return { weight: change, bias: null };
  return {
    weight: engine.rows(change, 0, layer.inputs),
    bias: engine.reshape(engine.rows(change, layer.inputs, 1), [layer.outputs]),
  };
}
