/** The learning rate η of a step: a schedule in the step's number, or the leverage rule. See levenberg-marquardt.ts for the third. */
import type { LearningRate } from '../../../shared/optimizer.ts';
import type { Engine, Tensor } from '../../tensor/engine.ts';

/** A function of the step's number alone. */
export type LearningRateSchedule = Exclude<LearningRate, { kind: 'leverage' | 'levenberg-marquardt' }>;

/** η of the step with this sequence number, from 0. */
export function scheduledLearningRate(schedule: LearningRateSchedule, step: number): number {
  return warmUp(schedule.warmUpSteps, step) * withoutWarmUp(schedule, step);
}

/** η of a step as a share of the largest that its schedule names; 1 for a rule that has no schedule. */
export function scheduleMultiplier(rule: LearningRate, step: number): number {
  if (rule.kind === 'leverage' || rule.kind === 'levenberg-marquardt') return 1;
  return scheduledLearningRate(rule, step) / rule.value;
}

/** A factor that grows linearly from 1/(w + 1) to 1 over the first w steps. */
export function warmUp(steps: number, step: number): number {
  return Math.min(1, (step + 1) / (steps + 1));
}

function withoutWarmUp(schedule: LearningRateSchedule, step: number): number {
  switch (schedule.kind) {
    case 'constant':
      return schedule.value;
    case 'step':
      return schedule.value * schedule.factor ** Math.floor(step / schedule.every);
    case 'cosine':
      return cosine(schedule.value, schedule.final, step / schedule.steps);
    case 'one-cycle': {
      const peak = schedule.riseShare * schedule.steps;
      return step < peak
        ? cosine(schedule.initial, schedule.value, step / peak)
        : cosine(schedule.value, schedule.final, (step - peak) / (schedule.steps - peak));
    }
  }
}

/** Half a cosine from one value to another; stays at the other after `progress` 1. */
function cosine(from: number, to: number, progress: number): number {
  return to + ((from - to) * (1 + Math.cos(Math.PI * Math.min(1, progress)))) / 2;
}

/**
 * The leverage of a batch at unit learning rate, mean_i(h_i · Σ_t (N_t)_ii / B): how much of a sample's terminal weight the step
 * would use up. Dividing by its running average makes the learning rate dimensionless.
 *
 * @param kernelDiagonal Σ_t diag(N_t) at η = 1, [R]
 * @param rowWeights h of every row, [R]
 * @returns a scalar, []
 */
export function batchLeverage(engine: Engine, kernelDiagonal: Tensor, rowWeights: Tensor, batch: number): Tensor {
  const rows = rowWeights.shape[0] ?? 1;
  return engine.divide(engine.sum(engine.multiply(kernelDiagonal, rowWeights), 0), rows * batch);
}
