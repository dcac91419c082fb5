/**
 * One DDPNOpt step in the batch-exact form.
 *
 * Liu, Chen & Theodorou, "DDPNOpt: Differential Dynamic Programming Neural Optimizer", ICLR 2021 (arXiv 2002.08809), with the
 * value function kept in sample space, where the recursion for a control shared by the batch closes into one B×B Cholesky
 * factorisation per layer:
 *
 *     u_t ← u_t − R_t⁻¹ J_tᵀ S_t⁻¹ (1/h + s_t)
 */
import { ProblemError } from '../../shared/errors.ts';
import type { Layer } from '../../shared/layer.ts';
import type { Optimizer } from '../../shared/optimizer.ts';
import type { Engine, Tensor } from '../tensor/engine.ts';
import { precondition, refreshes, updateMetric } from './curvature/metric.ts';
import { openLoopUpdate, policyTarget, type Policy } from './ddp/policy.ts';
import { valueRecursion, type StageExpansion } from './ddp/value-recursion.ts';
import { perSampleGradients, splitBias, type ParameterChange } from './layers/dense.ts';
import { terminalWeights } from './losses/terminal-curvature.ts';
import type { MetricState, OptimizerState } from './state.ts';

/** What a step needs to know once per session. */
export interface StepConfiguration {
  /** In the order of the forward pass. */
  readonly layers: readonly Layer[];
  readonly optimizer: Optimizer;
  readonly reply: 'update' | 'policy';
}

/** What a client's forward and backward pass yield. */
export interface StepBatch {
  /** φ_i, [B]. */
  readonly losses: Tensor;
  /** Per layer, in the order of the forward pass. */
  readonly layers: readonly {
    /** Input activations, [B, n]. */
    readonly input: Tensor;
    /** Per-sample gradients of each sample's own loss in the pre-activations, [B, c]. */
    readonly outputGradient: Tensor;
  }[];
}

/** Policies or finished changes, per layer in the order of the forward pass. */
export type StepReply =
  | { readonly kind: 'policy'; readonly target: Tensor; readonly policies: readonly Policy[] }
  | { readonly kind: 'update'; readonly changes: readonly ParameterChange[] };

export interface StepResult {
  readonly state: OptimizerState;
  readonly reply: StepReply;
  /** h, [B]. */
  readonly terminalWeights: Tensor;
  readonly refreshed: boolean;
}

/**
 * @returns the next state and the reply; the tensors of both, and only those, stay alive. Tensors of the old state that did not
 *   change are shared with the new one.
 * @throws ProblemError `numerical_failure` if something overflows; then nothing of the result exists and the old state stands
 */
export function ddpStep(
  engine: Engine,
  configuration: StepConfiguration,
  state: OptimizerState,
  batch: StepBatch,
): StepResult {
  return engine.scope(() => {
    const { layers, optimizer, reply: replyKind } = configuration;

    // Terminal cost: φ_xx ≈ h φ_x φ_xᵀ per sample.
    const h = terminalWeights(engine, optimizer.terminalCurvature, batch.losses);

    // Control metric R_t = P_t/η of every stage, from this batch's statistics, and the expansion J_t, R_t⁻¹J_t.
    const metrics: MetricState[] = [];
    const stages: StageExpansion[] = [];
    let failedFactorizations = state.failedFactorizations;
    for (const [t, layer] of layers.entries()) {
      const { input, outputGradient } = at(batch.layers, t);
      const gradients = perSampleGradients(engine, layer, input, outputGradient);
      const previous = state.metrics?.[t] ?? null;
      const metric = updateMetric(engine, optimizer.metric, previous, gradients, h, state.step, layer.name);
      if (metric.refreshFailed) failedFactorizations++;
      metrics.push(metric.state);
      stages.push({
        gradients,
        preconditioned: precondition(engine, metric.state, gradients, optimizer.learningRate.value),
      });
    }

    // Backward pass: Bellman's recursion, from the last stage to the first.
    const choleskyFactors = valueRecursion(engine, stages, h, optimizer.coupling);

    // The policy δu_t = −R_t⁻¹J_tᵀ S_t⁻¹ (1/h + s_t): handed out, or evaluated at s_t = 0.
    const target = policyTarget(engine, h);
    const policies = choleskyFactors.map((choleskyFactor, t): Policy => {
      const { preconditioned } = at(stages, t);
      return { preconditioned, choleskyFactor };
    });
    const reply: StepReply =
      replyKind === 'policy'
        ? { kind: 'policy', target, policies }
        : {
            kind: 'update',
            changes: layers.map((layer, t) =>
              splitBias(engine, layer, openLoopUpdate(engine, at(policies, t), target)),
            ),
          };

    assertFinite(engine, layers, metrics, policies, reply);
    return {
      state: { step: state.step + 1, metrics, failedFactorizations },
      reply,
      terminalWeights: h,
      refreshed: refreshes(optimizer.metric, state.step),
    };
  });
}

function at<Item>(items: readonly Item[], t: number): Item {
  const item = items[t];
  if (item === undefined) throw new RangeError(`there is no stage ${String(t)} among ${String(items.length)}`);
  return item;
}

/** Refuses a step whose arithmetic overflowed, before it replaces the state. */
function assertFinite(
  engine: Engine,
  layers: readonly Layer[],
  metrics: readonly MetricState[],
  policies: readonly Policy[],
  reply: StepReply,
): void {
  // From the last layer on: S_t contains every later layer, so an overflow shows in the layers before its own as well.
  for (const [t, layer] of [...layers.entries()].reverse()) {
    const metric = at(metrics, t);
    const policy = at(policies, t);
    const checked = [policy.choleskyFactor, policy.preconditioned.input, policy.preconditioned.outputGradient];
    if (metric.kind === 'kronecker') checked.push(metric.inputFactor, metric.outputFactor);
    if (reply.kind === 'update') {
      const { weight, bias } = at(reply.changes, t);
      checked.push(weight, ...(bias === null ? [] : [bias]));
    }
    if (engine.allFinite(checked)) continue;
    throw new ProblemError('numerical_failure', {
      param: `layers.${layer.name}`,
      detail: `The step cannot be computed in ${engine.precision} at layer ${layer.name}: a value overflows, or S is not positive definite.`,
      remedy: 'Check the scale of its inputs and output gradients, or lower the learning rate.',
    });
  }
}
