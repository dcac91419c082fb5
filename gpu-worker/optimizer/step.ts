/**
 * One DDPNOpt step in the batch-exact form.
 *
 * Liu, Chen & Theodorou, "DDPNOpt: Differential Dynamic Programming Neural Optimizer", ICLR 2021 (arXiv 2002.08809), with the
 * value function kept in sample space, where the recursion for a control shared by the batch closes into one factorisation per
 * layer of the batch's size:
 *
 *     u_t ← u_t − R_t⁻¹ J_tᵀ S_t⁻¹ (1/h + s_t)
 *
 * Weight decay as a running cost belongs to the recursion, decoupled weight decay to what follows it.
 */
import { at } from '../../shared/at.ts';
import { ProblemError } from '../../shared/errors.ts';
import type { Layer } from '../../shared/layer.ts';
import { isPaperRecursion, sentColumns, type Optimizer } from '../../shared/optimizer.ts';
import { groupFactors } from '../../shared/parameter-groups.ts';
import { tensorsIn, type Engine, type Tensor } from '../tensor/engine.ts';
import { readScalar, scalarProduct, type Scalar } from '../tensor/scalar.ts';
import { applyInverse, type Preconditioner } from './curvature/inverse-metric.ts';
import type { BlockStatistics } from './curvature/block-statistics.ts';
import { preconditioner, refreshes, settleRefresh, updateMetric, type MetricUpdate } from './curvature/metric.ts';
import { prepareSolver } from './ddp/coefficients.ts';
import { lessDecay, openLoopChanges, type Policy, type PolicyBlock } from './ddp/policy.ts';
import { paperRecursion } from './ddp/paper-recursion.ts';
import { summedKernelDiagonal, type StageSystem } from './ddp/stage.ts';
import { valueRecursion } from './ddp/value-recursion.ts';
import { parameterBlocks, parameterChanges } from './layers/layer.ts';
import type { LayerParameters, ParameterChanges } from './layers/parameter-changes.ts';
import {
  repeatColumns,
  timesChange,
  transformGradients,
  weightedSum,
  type PerSampleGradients,
} from './layers/per-sample-gradients.ts';
import { terminalWeights } from './losses/terminal-curvature.ts';
import type { MetricState, OptimizerState } from './state.ts';
import {
  chooseLearningRate,
  hasFiniteLeverage,
  leverageOverflow,
  type ChosenLearningRate,
} from './update/choose-learning-rate.ts';
import { modelChange } from './update/levenberg-marquardt.ts';
import { clipNorm, limitPredictedDecrease } from './update/limits.ts';
import { withLookahead } from './update/lookahead.ts';
import { withMomentum } from './update/momentum.ts';
import { layerDecay, type LayerDecay } from './update/weight-decay.ts';

/** What a step needs to know once per session. */
export interface StepConfiguration {
  /** In the order of the forward pass. */
  readonly layers: readonly Layer[];
  readonly optimizer: Optimizer;
  readonly reply: 'update' | 'policy';
}

/** What a client's forward and backward pass yield for one layer. */
export interface LayerBatch {
  /** Input activations, [B, …]; null for a generic layer. */
  readonly input: Tensor | null;
  /** D: gradients of each sample's own loss in the pre-activations (generic: in the parameters), [B, …]. */
  readonly lossGradient: Tensor;
  /** J: the same for the r columns of the terminal curvature, [B·r, …]; null where the loss gradients are the columns. */
  readonly columnGradient: Tensor | null;
  /** u_t by name, at least the parameters that decay; others are not looked at. */
  readonly parameters: LayerParameters;
}

export interface StepBatch {
  /** φ_i, [B]. */
  readonly losses: Tensor;
  /** The losses of the same samples under the parameters before the last step, [B]; null unless that step is to be judged. */
  readonly previousLosses: Tensor | null;
  /** In the order of the forward pass. */
  readonly layers: readonly LayerBatch[];
}

/** Policies or finished changes, per layer in the order of the forward pass. */
export type StepReply =
  | { readonly kind: 'policy'; readonly policies: readonly Policy[] }
  | { readonly kind: 'update'; readonly changes: readonly ParameterChanges[] };

export interface StepResult {
  readonly state: OptimizerState;
  readonly reply: StepReply;
  /** h, [B]. */
  readonly terminalWeights: Tensor;
  /** η of this step. */
  readonly learningRate: number;
  /** Whether refreshed factorisations are used for the first time; of a refresh that was under way when the options changed, too. */
  readonly refreshed: boolean;
}

/** A step of which it is not known yet whether it stayed within floating point. */
export interface UncheckedStep extends Omit<StepResult, 'learningRate'> {
  /** η of this step. */
  readonly learningRate: Scalar;
  readonly suspects: readonly LayerSuspects[];
}

/** Everything that an overflow in one layer would show in. */
interface LayerSuspects {
  /** What the layer's expansion at η = 1 and its statistics consist of. */
  readonly expansion: readonly Tensor[];
  /** What depends on η, and with the leverage rule on the other layers. */
  readonly policy: readonly Tensor[];
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
    const step = uncheckedStep(engine, configuration, state, batch);
    const { suspects, ...result } = step;
    const finite = finiteLayers(engine, suspects);
    engine.evaluate([result, finite]);
    assertFinite(engine, configuration.layers, finite, step);
    return { ...result, learningRate: readScalar(engine, result.learningRate) };
  });
}

/** The step without its last check, {@link assertFinite}, for whoever goes on computing before anything is read. */
export function uncheckedStep(
  engine: Engine,
  configuration: StepConfiguration,
  state: OptimizerState,
  batch: StepBatch,
): UncheckedStep {
  return engine.scope(() => {
    const { layers, optimizer, reply: replyKind } = configuration;
    const B = batch.losses.shape[0] ?? 0;

    // Terminal cost: φ_xx ≈ h S Sᵀ per sample, and every layer's D_t and J_t.
    const h = terminalWeights(engine, optimizer.terminalCurvature, batch.losses);
    const gradients = layers.map((layer, t) => layerGradients(engine, layer, at(batch.layers, t)));
    const rowWeights = repeatColumns(engine, h, B * Math.max(1, sentColumns(optimizer.terminalCurvature)));

    // Backward pass: the control metric R_t = P_t/η_t from this batch's statistics, the expansion in its coordinates, and Bellman's
    // recursion. A refresh is judged at once, so what it stands on is computed at once too, and once.
    if (refreshes(optimizer.metric, state.step)) engine.evaluate([gradients, rowWeights]);
    const context: BackwardPass = { configuration, state, batch, gradients, rowWeights, batchSize: B };
    const { stages, systems, updates, learningRate, remembered } = isPaperRecursion(optimizer.batchCoupling)
      ? paperBackwardPass(engine, context)
      : backwardPass(engine, context);

    // The policy δu_t(s_t): handed out, or evaluated with s_t = 0 or predicted.
    const policies = systems.map((system, t): Policy => {
      return { ...at(stages, t), solver: prepareSolver(engine, system, optimizer.solver) };
    });
    const finished =
      replyKind === 'policy' ? null : finishedChanges(engine, optimizer, state, policies, gradients, batch.losses);
    const reply: StepReply =
      finished === null
        ? { kind: 'policy', policies }
        : {
            kind: 'update',
            changes: finished.changes.map((blocks, t) => parameterChanges(engine, at(layers, t), blocks)),
          };

    // What the Levenberg–Marquardt rule compares with the next batch. The changes that policies will make are predicted linearly.
    const isJudged = optimizer.learningRate.kind === 'levenberg-marquardt';
    const changes = (): Changes => finished?.changes ?? linearRollout(engine, policies);
    const predictedChange = isJudged ? modelledLossChange(engine, gradients, changes(), rowWeights) : null;

    const metrics = updates.map((blocks) => blocks.map((update) => update.state));
    const failures = updates.flat().filter(({ refreshFailed }) => refreshFailed).length;
    return {
      state: {
        step: state.step + 1,
        metrics,
        velocities: finished?.velocities ?? null,
        displacement: finished?.displacement ?? null,
        ...remembered,
        predictedChange,
        failedFactorizations: state.failedFactorizations + failures,
      },
      reply,
      terminalWeights: h,
      learningRate,
      refreshed: updates.flat().some(({ refreshed }) => refreshed),
      suspects: suspectsOf(engine, state, metrics, policies, reply),
    };
  });
}

/**
 * The state with the refreshes that are under way computed, for whenever there is time between two steps; the steps that follow are the
 * same without it. The tensors of both, and only those, stay alive; they share what did not change.
 */
export function settleRefreshes(engine: Engine, optimizer: Optimizer, state: OptimizerState): OptimizerState {
  const { metrics } = state;
  if (metrics === null) return state;
  return engine.scope(() => ({
    ...state,
    metrics: metrics.map((blocks, t) => blocks.map((block) => settleRefresh(engine, optimizer.metric, block, t === 0))),
  }));
}

/** D_t and J_t of one layer, per parameter block. */
interface LayerGradients {
  readonly D: readonly PerSampleGradients[];
  readonly J: readonly PerSampleGradients[];
}

function layerGradients(
  engine: Engine,
  layer: Layer,
  { input, lossGradient, columnGradient }: LayerBatch,
): LayerGradients {
  return engine.scope(() => {
    const D = parameterBlocks(engine, layer, { input, gradient: lossGradient });
    const J = columnGradient === null ? D : parameterBlocks(engine, layer, { input, gradient: columnGradient });
    return { D, J };
  });
}

/** What the backward pass starts from. */
interface BackwardPass {
  readonly configuration: StepConfiguration;
  readonly state: OptimizerState;
  readonly batch: StepBatch;
  readonly gradients: readonly LayerGradients[];
  /** h of every row, [R]. */
  readonly rowWeights: Tensor;
  /** B. */
  readonly batchSize: number;
}

/** What it finds, per layer in the order of the forward pass. */
interface BackwardResult extends ChosenLearningRate {
  readonly stages: readonly Stage[];
  readonly systems: readonly StageSystem[];
  readonly updates: readonly (readonly MetricUpdate[])[];
}

/** Metrics of the plain gradients, all stages at once, then η, then the recursion. */
function backwardPass(engine: Engine, context: BackwardPass): BackwardResult {
  const { configuration, state, batch, gradients, rowWeights, batchSize } = context;
  const { optimizer } = configuration;
  const metrics = gradients.map((_, t) =>
    updateMetrics(engine, context, t, { gradientWeights: null, costGradients: null, rowWeights }),
  );
  const unit = gradients.map((_, t) => unitStage(engine, context, t, at(metrics, t), layerDecayOf(engine, context, t)));
  const kernelDiagonal = (): Tensor => summedKernelDiagonal(engine, unit);
  const chosen = chooseLearningRate(engine, optimizer.learningRate, state, rowWeights, batch, kernelDiagonal);
  const stages = unit.map((stage) => atLearningRate(engine, stage, chosen.learningRate));
  const systems = valueRecursion(engine, stages, rowWeights, batchSize, optimizer);
  return { stages, systems, updates: metrics, ...chosen };
}

/** The paper's recursions, whose metrics are made of what they pass back: Q_u,i = ν_i D_i + ℓ_u, and with factors V_h,i = ν_i g_i. */
function paperBackwardPass(engine: Engine, context: BackwardPass): BackwardResult {
  const { configuration, state, batch, gradients, rowWeights, batchSize } = context;
  const { optimizer } = configuration;
  const kernelDiagonal = (): never => {
    throw new TypeError('the leverage of a metric that depends on η');
  };
  const chosen = chooseLearningRate(engine, optimizer.learningRate, state, rowWeights, batch, kernelDiagonal);
  const expand = (t: number, gradientWeights: Tensor) => {
    const decay = layerDecayOf(engine, context, t);
    const { costGradients } = decay;
    const statistics = { gradientWeights, costGradients, rowWeights: engine.square(gradientWeights) };
    const updates = updateMetrics(engine, context, t, statistics);
    return {
      stage: atLearningRate(engine, unitStage(engine, context, t, updates, decay), chosen.learningRate),
      updates,
    };
  };
  const expanded = paperRecursion(engine, gradients.length, rowWeights, batchSize, optimizer, expand);
  return {
    stages: expanded.map(({ stage }) => stage),
    systems: expanded.map(({ system }) => system),
    updates: expanded.map(({ updates }) => updates),
    ...chosen,
  };
}

function layerDecayOf(engine: Engine, { configuration, state, batch }: BackwardPass, t: number): LayerDecay {
  const { layers, optimizer } = configuration;
  return layerDecay(engine, optimizer, at(layers, t), at(batch.layers, t).parameters, state.step);
}

/** The metrics of layer t, per parameter block, after this batch. */
function updateMetrics(
  engine: Engine,
  { configuration: { layers, optimizer }, state, gradients, batchSize }: BackwardPass,
  t: number,
  statistics: Pick<BlockStatistics, 'gradientWeights' | 'rowWeights'> & Pick<LayerDecay, 'costGradients'>,
): MetricUpdate[] {
  const { D, J } = at(gradients, t);
  const { gradientWeights, rowWeights, costGradients } = statistics;
  return J.map((columns, block) => {
    const costGradient = costGradients === null ? null : at(costGradients, block);
    const own = { lossGradients: at(D, block), gradientWeights, costGradient };
    const ofBatch = { columns, rowWeights, batch: batchSize, isFirstLayer: t === 0 };
    const known = state.metrics?.[t]?.[block] ?? null;
    return updateMetric(engine, optimizer.metric, known, { ...own, ...ofBatch }, state.step, at(layers, t).name);
  });
}

/** The expansion of layer t at the learning rate that its group has at η = 1. */
function unitStage(
  engine: Engine,
  { configuration: { layers, optimizer }, gradients, batchSize }: BackwardPass,
  t: number,
  updates: readonly MetricUpdate[],
  decay: LayerDecay,
): Stage {
  const { learningRateFactor } = groupFactors(optimizer.groups, at(layers, t).name);
  const inverses = updates.map(({ state }) => preconditioner(optimizer.metric, state, t === 0));
  return expandStage(engine, at(gradients, t), inverses, decay, learningRateFactor, batchSize);
}

/** One stage of the recursion. */
type Stage = Omit<Policy, 'solver'>;

/** The expansion of one stage at a learning rate η_t of its own. */
function expandStage(
  engine: Engine,
  { D, J }: LayerGradients,
  preconditioners: readonly Preconditioner[],
  { costGradients, decoupled }: LayerDecay,
  learningRate: number,
  batch: number,
): Stage {
  return engine.scope(() => {
    const blocks = J.map((columns, block): PolicyBlock => {
      const inverse = at(preconditioners, block);
      const transformed = transformGradients(engine, columns, inverse.input, inverse.output);
      const lossGradients = D === J ? null : at(D, block);
      const costGradient = costGradients === null ? null : at(costGradients, block);
      const plainStep = preconditionedGradient(engine, lossGradients, costGradient, inverse, learningRate, batch);
      const decoupledDecay = decoupled === null ? null : at(decoupled, block);
      return { columns, transformed, weights: inverse.weights, inverse, plainStep, decoupledDecay };
    });
    return { blocks, learningRate };
  });
}

/** The same stage at η: R = P/(η · its group's factor). */
function atLearningRate(engine: Engine, { blocks, learningRate }: Stage, eta: Scalar): Stage {
  return {
    blocks: blocks.map((block) => {
      const { plainStep } = block;
      return { ...block, plainStep: plainStep === null ? null : engine.multiply(plainStep, eta) };
    }),
    learningRate: scalarProduct(engine, learningRate, eta),
  };
}

/** Changes per layer and parameter block, [n, c]. */
type Changes = readonly (readonly Tensor[])[];

/** The policies evaluated without a second forward pass, then momentum, limits, decoupled weight decay and lookahead. */
function finishedChanges(
  engine: Engine,
  { coupling, momentum, lookahead, maximumNorm, maximumPredictedDecrease }: Optimizer,
  state: OptimizerState,
  policies: readonly Policy[],
  gradients: readonly LayerGradients[],
  losses: Tensor,
): { readonly changes: Changes } & Pick<OptimizerState, 'velocities' | 'displacement'> {
  const predict = coupling === 'gauss-newton-step' ? 'linear' : 'none';
  let changes: Changes = openLoopChanges(engine, policies, predict);
  const velocities = momentum === 0 ? null : withMomentum(engine, momentum, state.velocities, changes);
  changes = velocities ?? changes;
  if (maximumPredictedDecrease !== null) {
    const predicted = mean(engine, predictedRows(engine, gradients.map(({ D }) => D), changes)); // prettier-ignore
    changes = limitPredictedDecrease(engine, changes, predicted, mean(engine, losses), maximumPredictedDecrease);
  }
  if (maximumNorm !== null) changes = clipNorm(engine, changes, maximumNorm);
  changes = lessDecoupledDecay(engine, policies, changes);
  if (lookahead === null) return { changes, velocities, displacement: null };
  return { ...withLookahead(engine, lookahead, state.displacement, changes, state.step), velocities };
}

/** The changes that policies make in a second forward pass through the linearised network. */
function linearRollout(engine: Engine, policies: readonly Policy[]): Changes {
  return lessDecoupledDecay(engine, policies, openLoopChanges(engine, policies, 'linear'));
}

function lessDecoupledDecay(engine: Engine, policies: readonly Policy[], changes: Changes): Changes {
  return changes.map((blocks, t) => lessDecay(engine, at(policies, t), blocks));
}

/** What changes of the parameters do to every row to first order: Σ_t J_t δu_t, or Σ_t D_t δu_t. */
function predictedRows(
  engine: Engine,
  gradients: readonly (readonly PerSampleGradients[])[],
  changes: Changes,
): Tensor {
  const perBlock = gradients.flatMap((blocks, t) =>
    blocks.map((rows, block) => timesChange(engine, rows, at(at(changes, t), block))),
  );
  return perBlock.reduce((sum, term) => engine.add(sum, term));
}

/** The change of the mean loss that the quadratic model predicts for changes of the parameters, a scalar. */
function modelledLossChange(
  engine: Engine,
  gradients: readonly LayerGradients[],
  changes: Changes,
  rowWeights: Tensor,
): Tensor {
  const columns = predictedRows(engine, gradients.map(({ J }) => J), changes); // prettier-ignore
  const isGradient = gradients.every(({ D, J }) => D === J);
  const linear = isGradient ? columns : predictedRows(engine, gradients.map(({ D }) => D), changes); // prettier-ignore
  return modelChange(engine, linear, columns, rowWeights);
}

/** Mean of a vector, a scalar. */
function mean(engine: Engine, vector: Tensor): Tensor {
  return engine.divide(engine.sum(vector, 0), vector.shape[0] ?? 1);
}

/** R⁻¹ (Dᵀ 1/B + ℓ_u), either of them left out if null; null if both are. */
function preconditionedGradient(
  engine: Engine,
  lossGradients: PerSampleGradients | null,
  costGradient: Tensor | null,
  inverse: Preconditioner,
  learningRate: number,
  batch: number,
): Tensor | null {
  const terms = costGradient === null ? [] : [costGradient];
  if (lossGradients !== null) {
    const shares = engine.tensor(new Float64Array(batch).fill(1 / batch), [batch]);
    terms.push(weightedSum(engine, lossGradients, shares));
  }
  if (terms.length === 0) return null;
  const gradient = terms.reduce((sum, term) => engine.add(sum, term));
  return engine.multiply(applyInverse(engine, inverse, gradient), learningRate);
}

/** Per layer its new statistics, its expansion and its change; what an earlier step has left was checked then. */
function suspectsOf(
  engine: Engine,
  state: OptimizerState,
  metrics: readonly (readonly MetricState[])[],
  policies: readonly Policy[],
  reply: StepReply,
): LayerSuspects[] {
  const known = tensorsIn(state.metrics, engine.isTensor);
  const newIn = (value: unknown): Tensor[] =>
    [...tensorsIn(value, engine.isTensor)].filter((tensor) => !known.has(tensor));
  return policies.map(({ solver, blocks }, t) => {
    const changes = reply.kind === 'update' ? at(reply.changes, t) : null;
    return {
      expansion: newIn([at(metrics, t), blocks.map(({ transformed }) => transformed)]),
      policy: newIn([solver, blocks.map(({ plainStep }) => plainStep), changes]),
    };
  });
}

/** Per layer 1 if everything about it is finite, else 0. */
export function finiteLayers(engine: Engine, suspects: UncheckedStep['suspects']): Tensor[] {
  return suspects.map(({ expansion, policy }) => engine.isFinite([...expansion, ...policy]));
}

/**
 * Refuses a step whose arithmetic overflowed, before it replaces the state.
 *
 * @param finite of {@link finiteLayers}, evaluated
 * @throws ProblemError `numerical_failure`
 */
export function assertFinite(
  engine: Engine,
  layers: readonly Layer[],
  finite: readonly Tensor[],
  { state, suspects }: Pick<UncheckedStep, 'state' | 'suspects'>,
): void {
  // An η that overflows shows in all layers, whichever is at fault.
  const hasLeverage = hasFiniteLeverage(engine, state);
  const judged = hasLeverage ? finite : suspects.map(({ expansion }) => engine.isFinite(expansion));
  engine.evaluate(judged);
  // The last layer at fault: S_t contains every later layer, so an overflow shows in the layers before its own as well.
  const t = judged.findLastIndex((flag) => engine.read(flag)[0] !== 1);
  if (t < 0) {
    if (!hasLeverage) throw leverageOverflow(engine);
    return;
  }
  const { name } = at(layers, t);
  throw new ProblemError('numerical_failure', {
    param: `layers.${name}`,
    detail: `The step overflows ${engine.precision} in layer ${name}.`,
    remedy: 'Check the scale of its inputs and output gradients, or lower the learning rate.',
  });
}
