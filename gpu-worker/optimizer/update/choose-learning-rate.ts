/** η of a step: one place chooses among the rules. */
import { ProblemError } from '../../../shared/errors.ts';
import type { LearningRate, LevenbergMarquardt } from '../../../shared/optimizer.ts';
import { TENSOR } from '../../../shared/tensor-names.ts';
import type { Engine, Tensor } from '../../tensor/engine.ts';
import { readScalar, type Scalar } from '../../tensor/scalar.ts';
import { biasCorrectedShare } from '../curvature/moving-average.ts';
import type { OptimizerState } from '../state.ts';
import { batchLeverage, scheduledLearningRate, warmUp } from './learning-rate.ts';
import { judgedLearningRate } from './levenberg-marquardt.ts';

/** What the rules remember from step to step. */
export type LearningRateState = Pick<OptimizerState, 'step' | 'leverage' | 'learningRate' | 'predictedChange'>;

export interface ChosenLearningRate {
  /** η. A tensor where it comes of this batch's kernels, so that the step remains one computation. */
  readonly learningRate: Scalar;
  /** What the next choice needs. */
  readonly remembered: Pick<LearningRateState, 'leverage' | 'learningRate'>;
}

interface JudgedBatch {
  /** φ_i, [B]. */
  readonly losses: Tensor;
  /** The same under the parameters before the last step; null unless that step is to be judged. */
  readonly previousLosses: Tensor | null;
}

/**
 * η of this step.
 *
 * @param rowWeights h of every row, [R]
 * @param kernelDiagonal computes Σ_t diag(N_t) at η = 1, [R]
 * @throws ProblemError `unknown_tensor` if there is no last step to judge
 */
export function chooseLearningRate(
  engine: Engine,
  rule: LearningRate,
  state: LearningRateState,
  rowWeights: Tensor,
  batch: JudgedBatch,
  kernelDiagonal: () => Tensor,
): ChosenLearningRate {
  switch (rule.kind) {
    case 'leverage': {
      const leverage = averageLeverage(
        engine,
        batchLeverage(engine, kernelDiagonal(), rowWeights, batch.losses.shape[0] ?? 1),
        state.leverage,
        biasCorrectedShare(rule.decay, state.step),
      );
      // 1 where there is none yet.
      const known = engine.add(leverage, engine.subtract(1, engine.isPositive(leverage)));
      const value = warmUp(rule.warmUpSteps, state.step) * rule.value;
      const learningRate = engine.divide(value, engine.maximum(known, SMALLEST_LEVERAGE));
      return { learningRate, remembered: { leverage, learningRate: null } };
    }
    case 'levenberg-marquardt': {
      const learningRate = levenbergMarquardtRate(engine, rule, state, batch);
      return { learningRate, remembered: { leverage: null, learningRate } };
    }
    case 'constant':
    case 'step':
    case 'cosine':
    case 'one-cycle':
      return {
        learningRate: scheduledLearningRate(rule, state.step),
        remembered: { leverage: null, learningRate: null },
      };
  }
}

/**
 * The running average with one more batch. The first that has any leverage makes the average; one without a gradient, or with the kernel
 * of zeros with which a client brings statistics alone, leaves it.
 *
 * @param share of a batch in the average
 */
function averageLeverage(engine: Engine, observed: Tensor, before: Tensor | null, share: number): Tensor {
  const { add, isPositive, multiply, subtract } = engine;
  if (before === null) return observed;
  const weight = subtract(1, multiply(isPositive(before), 1 - share));
  return add(before, multiply(multiply(isPositive(observed), weight), subtract(observed, before)));
}

/** Whether the average leverage after a step is a number by which η can be chosen; true without the rule. */
export function hasFiniteLeverage(engine: Engine, { leverage }: Pick<LearningRateState, 'leverage'>): boolean {
  return leverage === null || Number.isFinite(readScalar(engine, leverage));
}

/** The problem of a step whose leverage is not finite, though its kernels are: η would be 0 from here on, and the steps finite. */
export function leverageOverflow(engine: Engine): ProblemError {
  return new ProblemError('numerical_failure', {
    detail: `The leverage of the batch, mean h·ΣN_ii/B, by which learningRate leverage chooses η, overflows ${engine.precision}.`,
    remedy: 'Check the scale of the layers’ inputs and output gradients.',
  });
}

/** η after the last step's judgement, where this batch brings the losses for it. */
function levenbergMarquardtRate(
  engine: Engine,
  rule: LevenbergMarquardt,
  { learningRate, predictedChange }: LearningRateState,
  { losses, previousLosses }: JudgedBatch,
): number {
  if (previousLosses === null) return learningRate ?? rule.initial;
  if (learningRate === null || predictedChange === null) {
    throw new ProblemError('unknown_tensor', {
      param: TENSOR.previousLosses,
      detail: `${TENSOR.previousLosses} came with the first step, which has no step before it to judge.`,
      remedy: `Send ${TENSOR.previousLosses} with later steps only, every ${String(rule.every)} steps.`,
    });
  }
  const number = (tensor: Tensor): number => engine.read(tensor)[0] ?? Number.NaN;
  const difference = engine.subtract(losses, previousLosses);
  const actual = number(engine.divide(engine.sum(difference, 0), difference.shape[0] ?? 1));
  return judgedLearningRate(rule, learningRate, number(predictedChange), actual);
}

/** η must be finite. */
const SMALLEST_LEVERAGE = 1e-12;
