/**
 * A step of which the tangent kernels N_t are all that is known: the value function's recursion and its policies in sample space,
 * and the Kronecker factors where the service averages and inverts them for the client.
 *
 *     S_t = B·H⁻¹ + Σ_{τ ≥ t} N_τ,  S_t κ_t = target_t + s_t,  δu_t = −η_t P_t⁻¹ (Dᵀ1/B or 0 + J_tᵀ κ_t)
 *
 * The client forms δu_t; what it changes to first order is J_t δu_t = −N_t κ_t − J_t R_t⁻¹ Dᵀ 1/B, known here as well.
 */
import { at } from '../../shared/at.ts';
import { ProblemError } from '../../shared/errors.ts';
import type { KernelLayer, KernelOptimizer, SharedKroneckerMetric } from '../../shared/kernel-definition.ts';
import { sentColumns, type BatchSolver } from '../../shared/optimizer.ts';
import { groupOf } from '../../shared/parameter-groups.ts';
import { TENSOR } from '../../shared/tensor-names.ts';
import { allFinite, tensorsIn, type Engine, type Tensor } from '../tensor/engine.ts';
import { scalarProduct, type Scalar } from '../tensor/scalar.ts';
import { inverseFactor } from './curvature/inverse-metric.ts';
import {
  freezesAt,
  isFrozenBy,
  outputRoot,
  refreshedInverse,
  type Factors,
  type FrozenInputFactor,
} from './curvature/kronecker.ts';
import { biasCorrectedAverage } from './curvature/moving-average.ts';
import { coefficients, prepareSolver, type CoefficientSolver } from './ddp/coefficients.ts';
import { summedKernelDiagonal, type StageKernel } from './ddp/stage.ts';
import { valueRecursion, type RecursionOptions } from './ddp/value-recursion.ts';
import { repeatColumns } from './layers/per-sample-gradients.ts';
import { terminalWeights } from './losses/terminal-curvature.ts';
import { chooseLearningRate, type LearningRateState } from './update/choose-learning-rate.ts';
import { modelChange } from './update/levenberg-marquardt.ts';

/** Factors that the service keeps for the client, of one block of parameters. */
export interface SharedBlock extends Factors {
  /** A⁻¹ and Γ⁻¹, damped, of the last successful refresh; null before the first. */
  readonly inverses: { readonly input: Tensor; readonly output: Tensor } | null;
}

/** Those of a layer, whose blocks are refreshed together. */
export interface SharedFactors {
  /** One, or one per group of a convolution. */
  readonly blocks: readonly SharedBlock[];
  /** Successful refreshes. */
  readonly version: number;
}

/** A batch's factors of one block; no A where it is frozen and was not sent. */
export interface BlockStatistics {
  readonly inputFactor: Tensor | null;
  readonly outputFactor: Tensor;
}

export interface KernelState extends LearningRateState {
  /** Per layer; null for a layer without factors and before the first statistics. */
  readonly factors: readonly (SharedFactors | null)[];
  /** Batches whose statistics are in the averages. */
  readonly statistics: number;
  /** Whether the averages are to be inverted before the next step begins. */
  readonly isRefreshDue: boolean;
  /** Refreshes that failed and kept the last good inverses, over all layers and steps. */
  readonly failedFactorizations: number;
}

export function initialKernelState(layers: readonly KernelLayer[]): KernelState {
  return {
    step: 0,
    leverage: null,
    learningRate: null,
    predictedChange: null,
    factors: layers.map(() => null),
    statistics: 0,
    isRefreshDue: false,
    failedFactorizations: 0,
  };
}

export interface KernelConfiguration {
  readonly layers: readonly KernelLayer[];
  readonly optimizer: KernelOptimizer;
  readonly reply: 'coefficients' | 'factors';
}

export interface KernelBatch {
  /** φ_i, [B]. */
  readonly losses: Tensor;
  /** The same under the parameters before the last step, [B]; null unless that step is to be judged. */
  readonly previousLosses: Tensor | null;
  /** Per layer N_t at η = 1, and what the plain step predicts at η = 1. */
  readonly kernels: readonly Pick<StageKernel, 'kernel' | 'plainPrediction'>[];
  /** Per layer the batch's factors, by block, null for a layer without; null for a batch that does not enter the averages. */
  readonly statistics: readonly (readonly BlockStatistics[] | null)[] | null;
}

/** Per layer κ_t, or what it takes to solve for κ_t. */
export type KernelReply =
  | { readonly kind: 'coefficients'; readonly coefficients: readonly Tensor[] }
  | { readonly kind: 'factors'; readonly solvers: readonly CoefficientSolver[] };

export interface KernelStepResult {
  readonly state: KernelState;
  readonly reply: KernelReply;
  /** η_t per layer. */
  readonly learningRates: readonly Scalar[];
  /** η. */
  readonly learningRate: Scalar;
  /** h, [B]. */
  readonly terminalWeights: Tensor;
  /** Per layer 1 if everything about it is finite, else 0. */
  readonly finite: readonly Tensor[];
}

/** @returns the next state, with its refresh still due, and the reply; whether they are finite is still to be asked */
export function kernelStep(
  engine: Engine,
  { layers, optimizer, reply: replyKind }: KernelConfiguration,
  state: KernelState,
  batch: KernelBatch,
): KernelStepResult {
  return engine.scope(() => {
    const B = batch.losses.shape[0] ?? 0;
    const h = terminalWeights(engine, optimizer.terminalCurvature, batch.losses);
    const rowWeights = repeatColumns(engine, h, B * Math.max(1, sentColumns(optimizer.terminalCurvature)));

    const unit = layers.map(({ name }, t): StageKernel => {
      const learningRate = groupOf(optimizer.groups, name)?.learningRateFactor ?? 1;
      return { ...at(batch.kernels, t), learningRate };
    });
    const kernelDiagonal = (): Tensor => summedKernelDiagonal(engine, unit);
    const { learningRate, remembered } = chooseLearningRate(
      engine,
      optimizer.learningRate,
      state,
      rowWeights,
      batch,
      kernelDiagonal,
    );
    const stages = unit.map((stage) => atLearningRate(engine, stage, learningRate));
    const solvers = stageSolvers(engine, stages, rowWeights, B, optimizer, replyKind);
    const isJudged = optimizer.learningRate.kind === 'levenberg-marquardt';
    const isLinear = optimizer.coupling === 'gauss-newton-step' || optimizer.coupling === 'feedback';
    const { kappas, predicted } =
      replyKind === 'coefficients' || isJudged
        ? openLoop(engine, stages, solvers, isLinear ? 'linear' : 'none', isJudged)
        : { kappas: [], predicted: null };
    const predictedChange = predicted === null ? null : modelChange(engine, predicted, predicted, rowWeights);
    const reply: KernelReply =
      replyKind === 'factors' ? { kind: 'factors', solvers } : { kind: 'coefficients', coefficients: kappas };

    const averaged = averageStatistics(engine, optimizer.metric, state, batch.statistics);
    return {
      state: {
        ...averaged,
        step: state.step + 1,
        ...remembered,
        predictedChange,
        failedFactorizations: state.failedFactorizations,
      },
      reply,
      learningRates: stages.map((stage) => stage.learningRate),
      learningRate,
      terminalWeights: h,
      finite: solvers.map((solver, t) =>
        engine.isFinite([...tensorsIn([solver, kappas[t] ?? [], averaged.factors[t] ?? []], engine.isTensor)]),
      ),
    };
  });
}

/** The policies' systems, ready to be solved for any s_t. */
export function stageSolvers(
  engine: Engine,
  stages: readonly StageKernel[],
  rowWeights: Tensor,
  batch: number,
  options: RecursionOptions & { readonly solver: BatchSolver },
  reply: KernelReply['kind'],
): CoefficientSolver[] {
  // What is handed out always carries its Cholesky factor, whatever the rows.
  const solver = reply === 'factors' ? { ...options.solver, choleskyRows: Infinity } : options.solver;
  return valueRecursion(engine, stages, rowWeights, batch, options).map((system) =>
    prepareSolver(engine, system, solver),
  );
}

/**
 * κ_t of all stages without a second forward pass.
 *
 * @param predict `none`: s_t = 0. `linear`: s_t = Σ_{τ<t} J_τ δu_τ
 * @param withPrediction whether Σ_t J_t δu_t is asked for; else it may be null
 */
export function openLoop(
  engine: Engine,
  stages: readonly StageKernel[],
  solvers: readonly CoefficientSolver[],
  predict: 'none' | 'linear',
  withPrediction: boolean,
): { readonly kappas: readonly Tensor[]; readonly predicted: Tensor | null } {
  let predicted: Tensor | null = null;
  const kappas = stages.map((stage, t) => {
    const kappa = coefficients(engine, at(solvers, t), predict === 'linear' ? predicted : null);
    if (predict === 'linear' || withPrediction) predicted = plusPrediction(engine, predicted, stage, kappa);
    return kappa;
  });
  return { kappas, predicted };
}

/** s + J_t δu_t = s − N_t κ_t − J_t R_t⁻¹ Dᵀ1/B. */
function plusPrediction(
  engine: Engine,
  predicted: Tensor | null,
  { kernel, plainPrediction, learningRate }: StageKernel,
  kappa: Tensor,
): Tensor {
  const { add, matMul, multiply, reshape } = engine;
  const [rows = 0] = kappa.shape;
  let decrease = multiply(reshape(matMul(kernel, reshape(kappa, [rows, 1])), [rows]), learningRate);
  if (plainPrediction !== null) decrease = add(decrease, plainPrediction);
  return predicted === null ? multiply(decrease, -1) : engine.subtract(predicted, decrease);
}

function atLearningRate(
  engine: Engine,
  { kernel, plainPrediction, learningRate }: StageKernel,
  eta: Scalar,
): StageKernel {
  const rate = scalarProduct(engine, learningRate, eta);
  return {
    kernel,
    plainPrediction: plainPrediction === null ? null : engine.multiply(plainPrediction, rate),
    learningRate: rate,
  };
}

/** The factors' averages, and whether their refresh is due. */
function averageStatistics(
  engine: Engine,
  metric: KernelOptimizer['metric'],
  state: KernelState,
  batch: KernelBatch['statistics'],
): Pick<KernelState, 'factors' | 'statistics' | 'isRefreshDue'> {
  const { factors, statistics } = state;
  if (metric.kind === 'client' || batch === null) return { factors, statistics, isRefreshDue: false };
  const average = (before: Tensor | undefined, value: Tensor): Tensor =>
    biasCorrectedAverage(engine, before, value, metric.decay, statistics);
  return {
    factors: batch.map((observed, t) => {
      const before = at(factors, t);
      if (observed === null) return null;
      const isFrozen = isFrozenBy(frozenFactor(metric, t), statistics);
      const blocks = observed.map(({ inputFactor, outputFactor }, block): SharedBlock => {
        const known = before?.blocks[block];
        const input = isFrozen && known !== undefined ? known.inputFactor : inputFactor;
        if (input === null) throw new TypeError('a batch without the input factor of a layer');
        return {
          inputFactor: isFrozen ? input : average(known?.inputFactor, input),
          outputFactor: average(known?.outputFactor, outputFactor),
          inverses: known?.inverses ?? null,
        };
      });
      return { blocks, version: before?.version ?? 0 };
    }),
    statistics: statistics + 1,
    isRefreshDue: statistics % metric.refreshEvery === 0 || freezesAt(frozenFactor(metric, 0), statistics),
  };
}

/** How the input factor of layer t is frozen; null if it is averaged throughout. */
function frozenFactor({ firstInputFactor }: SharedKroneckerMetric, t: number): FrozenInputFactor | null {
  return t === 0 && firstInputFactor.kind === 'frozen' ? firstInputFactor : null;
}

/** Whether the first layer's input factor is frozen, so that a batch need not bring it. */
export function isFirstInputFrozen({ metric }: KernelOptimizer, { statistics }: KernelState): boolean {
  return metric.kind === 'kronecker' && isFrozenBy(frozenFactor(metric, 0), statistics);
}

/**
 * The state with its due refresh done: a function of the state alone, whenever it is computed.
 *
 * @throws ProblemError `numerical_failure` if the very first inversion of a layer fails, since there is none to keep
 */
export function refreshFactors(
  engine: Engine,
  layers: readonly KernelLayer[],
  metric: SharedKroneckerMetric,
  state: KernelState,
): KernelState {
  // Of the batch with which it became due.
  const begun = state.statistics - 1;
  return engine.scope(() => {
    let failures = 0;
    const factors = state.factors.map((before, t): SharedFactors | null => {
      if (before === null) return null;
      const blocks = refreshedBlocks(engine, metric, before.blocks, frozenFactor(metric, t), begun);
      if (blocks !== null) return { blocks, version: before.version + 1 };
      if (before.blocks.some(({ inverses }) => inverses === null)) throw withoutInverse(at(layers, t).name);
      failures++;
      return before;
    });
    return { ...state, factors, isRefreshDue: false, failedFactorizations: state.failedFactorizations + failures };
  });
}

/** The blocks of a layer with new inverses; null if one of them has none in floating point. */
function refreshedBlocks(
  engine: Engine,
  { damping }: SharedKroneckerMetric,
  blocks: readonly SharedBlock[],
  frozen: FrozenInputFactor | null,
  begun: number,
): SharedBlock[] | null {
  const refreshed = blocks.map((block) => {
    const inverses = invert(engine, block, damping, frozen, begun);
    return { ...block, inverses };
  });
  engine.evaluate(refreshed);
  const made = refreshed.flatMap(({ inverses }) => [inverses.input, inverses.output]);
  return allFinite(engine, made) ? refreshed : null;
}

/** A⁻¹ and Γ⁻¹ of the damped factors; A⁻¹ as it is where it is frozen already. */
function invert(
  engine: Engine,
  block: SharedBlock,
  damping: number,
  frozen: FrozenInputFactor | null,
  begun: number,
): NonNullable<SharedBlock['inverses']> {
  if (isFrozenBy(frozen, begun) && block.inverses !== null) {
    return { input: block.inverses.input, output: inverseFactor(engine, outputRoot(engine, block, damping)) };
  }
  const roots = refreshedInverse(engine, { damping }, block, begun, frozen, null);
  return { input: inverseFactor(engine, roots.input), output: inverseFactor(engine, roots.output) };
}

function withoutInverse(layer: string): ProblemError {
  return new ProblemError('numerical_failure', {
    param: TENSOR.inputFactor(layer),
    detail: `The Kronecker factors of layer ${layer} have no inverse in floating point.`,
    remedy:
      'Send factors that are symmetric positive semidefinite, aᵀa/B and gᵀ diag(h) g/B, of moderate scale; or raise metric.damping.',
  });
}

/**
 * Refuses what has no solution in floating point.
 *
 * @param param what is at fault, given the place of the stage
 * @throws ProblemError `numerical_failure`
 */
export function assertSolvable(
  engine: Engine,
  finite: readonly Tensor[],
  fault: (t: number) => { readonly param: string; readonly stage: string },
): void {
  // The last stage at fault: S_t contains every later stage, so a fault shows in the stages before its own as well.
  const t = finite.findLastIndex((flag) => engine.read(flag)[0] !== 1);
  if (t < 0) return;
  const { param, stage } = fault(t);
  throw new ProblemError('numerical_failure', {
    param,
    detail: `The system S of ${stage} is not positive definite in ${engine.precision}, or something about it overflows.`,
    remedy:
      'N must be positive semidefinite, J P⁻¹ Jᵀ of the same samples in every layer; check it and its scale, or lower the learning rate.',
  });
}
