/** Names of the tensors on the wire, of every mode but hosted, whose own are in hosted-tensors.ts. */
import type { ParameterName } from './parameter-names.ts';

export const TENSOR = {
  /** Request: per-sample losses φ_i, [B]. */
  losses: 'losses',
  /** Request, with the Levenberg–Marquardt rule: losses of the same samples under the parameters before the last step, [B]. */
  previousLosses: 'previous_losses',
  /** Request: input activations, [B, …]. */
  input: (layer: string) => `layers.${layer}.input`,
  /** Request: per-sample gradients of each sample's own loss in the pre-activations, [B, …]. */
  outputGradient: (layer: string) => `layers.${layer}.output_grad`,
  /** Request: the same for the r columns of the terminal curvature, [B, r, …]. */
  curvatureGradient: (layer: string) => `layers.${layer}.curvature_grad`,
  /** Request, generic layer: per-sample gradients in the parameters, [B, m]. */
  parameterGradient: (layer: string) => `layers.${layer}.param_grad`,
  /** Request, generic layer: the same for the r columns of the terminal curvature, [B, r, m]. */
  curvatureParameterGradient: (layer: string) => `layers.${layer}.curvature_param_grad`,
  /** Request: a parameter that decays, in its own shape. */
  parameter: (layer: string, parameter: ParameterName) => `layers.${layer}.parameter.${parameter}`,
  /** Reply: metric-weighted inputs ã, [B, n (+ 1, bias last)]. */
  policyInput: (layer: string) => `layers.${layer}.policy.input`,
  /** Reply: metric-weighted output gradients g̃, η included, [B, c]. */
  policyOutputGradient: (layer: string) => `layers.${layer}.policy.output_grad`,
  /** Request, kernel mode: N_t at unit learning rate, symmetric [R, R] as its packed upper triangle, [R(R + 1)/2]. */
  gram: (layer: string) => `layers.${layer}.gram`,
  /** Request, kernel mode without cross-sample terms: the diagonal of it, [B]. */
  gramDiagonal: (layer: string) => `layers.${layer}.gram_diagonal`,
  /** Request, kernel mode where the loss gradients are not the columns: J_t P⁻¹ Dᵀ1/B, [B, r]. */
  gramMeanGradient: (layer: string) => `layers.${layer}.gram_mean_grad`,
  /** Request, kernel mode: aᵀa/B and gᵀ diag(h) g/B of the batch, packed upper triangles, [n(n + 1)/2] and [c(c + 1)/2]. */
  inputFactor: (layer: string) => `layers.${layer}.factor.input`,
  outputFactor: (layer: string) => `layers.${layer}.factor.output_grad`,
  /** Request: which inverses the client holds, one whole number per layer, [L], 0 for none. Reply: which the service has. */
  metricVersions: 'metric_versions',
  /** Reply: A⁻¹ and Γ⁻¹, damped, packed upper triangles, [n(n + 1)/2] and [c(c + 1)/2]; one row per group of a convolution. */
  inputInverse: (layer: string) => `layers.${layer}.metric.input_inverse`,
  outputInverse: (layer: string) => `layers.${layer}.metric.output_grad_inverse`,
  /** Reply: P⁻¹ of a layer whose metric is diagonal, in its parameters' own shapes. */
  inverseDiagonal: (layer: string, parameter: ParameterName) => `layers.${layer}.metric.inverse_diagonal.${parameter}`,
  /** Reply, kernel mode: κ_t, [R]. */
  coefficients: (layer: string) => `layers.${layer}.coefficients`,
  /** Reply: η_t, the layer's group's factor included, a scalar. */
  learningRate: (layer: string) => `layers.${layer}.learning_rate`,
  /** Reply: lower Cholesky factor of S_t as its packed lower triangle, [R(R + 1)/2]. */
  policyCholesky: (layer: string) => `layers.${layer}.policy.chol`,
  /** Reply: the target of S_t κ_t = target_t + s_t, [B], in kernel mode [R]: 1/h, unless V_xx is regularised or there is a running cost. */
  policyTarget: (layer: string) => `layers.${layer}.policy.target`,
  /** Reply, without cross-sample terms: κ_t = offset_t + gain_t ∘ s_t, both [B]. */
  policyGain: (layer: string) => `layers.${layer}.policy.gain`,
  policyOffset: (layer: string) => `layers.${layer}.policy.offset`,
  /** Reply: change of a parameter, in its own shape; beside a policy the part of the change that does not depend on s. */
  update: (layer: string, parameter: ParameterName) => `layers.${layer}.update.${parameter}`,
} as const;
