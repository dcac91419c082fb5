/** η of a step: one place chooses among the rules. */
import { ProblemError } from '../../../shared/errors.ts';
import type { LearningRate, LevenbergMarquardt } from '../../../shared/optimizer.ts';
import { TENSOR } from '../../../shared/tensor-names.ts';
import type { Engine, Tensor } from '../../tensor/engine.ts';
import { biasCorrectedShare } from '../curvature/moving-average.ts';
import type { OptimizerState } from '../state.ts';
import { batchLeverage, scheduledLearningRate } from './learning-rate.ts';
import { judgedLearningRate } from './levenberg-marquardt.ts';

/** What the rules remember from step to step. */
export type LearningRateState = Pick<OptimizerState, 'step' | 'leverage' | 'learningRate' | 'predictedChange'>;

interface JudgedBatch {
  /** φ_i, [B]. */
  readonly losses: Tensor;
  /** The same under the parameters before the last step; null unless that step is to be judged. */
  readonly previousLosses: Tensor | null;
}

/**
 * η of this step, and the running average of the leverage where that decides it.
 *
 * @param rowWeights h of every row, [R]
 * @param kernelDiagonal computes Σ_t diag(N_t) at η = 1, [R]
 * @throws ProblemError `unknown_tensor` if there is no last step to judge; `numerical_failure` if the leverage overflows
 */
export function chooseLearningRate(
  engine: Engine,
  rule: LearningRate,
  state: LearningRateState,
  rowWeights: Tensor,
  batch: JudgedBatch,
  kernelDiagonal: () => Tensor,
): { readonly learningRate: number; readonly leverage: number | null } {
  switch (rule.kind) {
    case 'leverage': {
      const observed = batchLeverage(engine, kernelDiagonal(), rowWeights, batch.losses.shape[0] ?? 1);
      // η would be 0 from here on, and the step finite.
      if (!Number.isFinite(observed)) throw leverageOverflow(engine);
      // No gradient, or a kernel of zeros with which a client brings statistics alone: nothing to average.
      if (observed === 0) return { learningRate: rule.value / (state.leverage ?? 1), leverage: state.leverage };
      const share = biasCorrectedShare(rule.decay, state.step);
      const leverage = state.leverage === null ? observed : state.leverage + share * (observed - state.leverage);
      return { learningRate: rule.value / Math.max(leverage, SMALLEST_LEVERAGE), leverage };
    }
    case 'levenberg-marquardt':
      return { learningRate: levenbergMarquardtRate(engine, rule, state, batch), leverage: null };
    case 'constant':
    case 'step':
    case 'cosine':
    case 'one-cycle':
      return { learningRate: scheduledLearningRate(rule, state.step), leverage: null };
  }
}

function leverageOverflow(engine: Engine): ProblemError {
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
