/** Learning-rate schedules against values worked out by hand, and layer-name patterns. */
import { describe, expect, it } from 'vitest';
import { scheduledLearningRate } from '../../gpu-worker/optimizer/update/learning-rate.ts';
import { judgedLearningRate } from '../../gpu-worker/optimizer/update/levenberg-marquardt.ts';
import { judgesLastStep, optimizerSchema, type ParameterGroup } from '../../shared/optimizer.ts';
import { groupFactors } from '../../shared/parameter-groups.ts';

function rates(schedule: unknown, steps: readonly number[]): number[] {
  const { learningRate } = optimizerSchema.parse({ learningRate: schedule });
  if (learningRate.kind === 'leverage' || learningRate.kind === 'levenberg-marquardt')
    throw new Error('not a schedule');
  return steps.map((step) => scheduledLearningRate(learningRate, step));
}

function expectClose(actual: readonly number[], expected: readonly number[]): void {
  expect(actual).toHaveLength(expected.length);
  for (const [index, value] of expected.entries()) expect(actual[index]).toBeCloseTo(value, 12);
}

describe('schedules', () => {
  it('constant', () => {
    expectClose(rates({ kind: 'constant', value: 3 }, [0, 1, 1000]), [3, 3, 3]);
  });

  it('step: falls by the factor every so many steps', () => {
    const schedule = { kind: 'step', value: 8, factor: 0.5, every: 10 };
    expectClose(rates(schedule, [0, 9, 10, 19, 20, 35]), [8, 8, 4, 4, 2, 1]);
  });

  it('cosine: half a cosine down, and then stays', () => {
    const schedule = { kind: 'cosine', value: 4, final: 2, steps: 100 };
    expectClose(rates(schedule, [0, 50, 100, 1000]), [4, 3, 2, 2]);
    expect(rates(schedule, [25])[0]).toBeCloseTo(3 + Math.SQRT1_2, 12);
  });

  it('one-cycle: up from the initial value, down to the final one', () => {
    const schedule = { kind: 'one-cycle', initial: 1, value: 9, final: 0, steps: 100, riseShare: 0.4 };
    expectClose(rates(schedule, [0, 20, 40, 70, 100, 500]), [1, 5, 9, 4.5, 0, 0]);
  });

  it('warm-up: a factor that grows linearly to 1, on any schedule', () => {
    expectClose(rates({ kind: 'constant', value: 10, warmUpSteps: 4 }, [0, 1, 2, 3, 4, 5]), [2, 4, 6, 8, 10, 10]);
    const step = { kind: 'step', value: 10, factor: 0.1, every: 2, warmUpSteps: 1 };
    expectClose(rates(step, [0, 1, 2]), [5, 10, 1]);
  });
});

describe('the Levenberg–Marquardt rule', () => {
  const ruleOf = (options: object) => {
    const { learningRate } = optimizerSchema.parse({ learningRate: { kind: 'levenberg-marquardt', ...options } });
    if (learningRate.kind !== 'levenberg-marquardt') throw new Error('another rule');
    return learningRate;
  };

  it.each([
    ['better than predicted', -1, -1.2, 15],
    ['well predicted', -1, -0.8, 15],
    ['half of what was predicted', -1, -0.5, 10],
    ['hardly any decrease', -1, -0.1, 10 / 1.5],
    ['an increase', -1, 3, 10 / 1.5],
    ['no decrease predicted', 0.2, -1, 10],
    ['nothing predicted', 0, -1, 10],
    ['an overflow', Number.NaN, -1, 10],
  ])('%s: predicted %d, actual %d, η = %d', (_, predicted, actual, expected) => {
    expect(judgedLearningRate(ruleOf({}), 10, predicted, actual)).toBeCloseTo(expected, 12);
  });

  it('keeps η within its limits', () => {
    const rule = ruleOf({ minimum: 8, maximum: 12 });
    expect(judgedLearningRate(rule, 10, -1, -1)).toBe(12);
    expect(judgedLearningRate(rule, 10, -1, 1)).toBe(8);
  });

  it('judges every so many steps, and never the step before the first', () => {
    const rule = ruleOf({ every: 3 });
    expect([0, 1, 2, 3, 4, 5, 6].filter((step) => judgesLastStep(rule, step))).toEqual([3, 6]);
    expect([0, 1, 2].filter((step) => judgesLastStep(ruleOf({ every: 1 }), step))).toEqual([1, 2]);
  });

  it.each([
    [{ low: 0.8 }, 'learningRate.low'],
    [{ initial: 2000 }, 'learningRate.initial'],
    [{ minimum: 11 }, 'learningRate.initial'],
    [{ factor: 1 }, 'learningRate.factor'],
  ])('refuses %o', (options, path) => {
    const { error } = optimizerSchema.safeParse({ learningRate: { kind: 'levenberg-marquardt', ...options } });
    expect(error!.issues[0]!.path.join('.')).toBe(path);
  });

  it('and lookahead exclude each other', () => {
    const { error } = optimizerSchema.safeParse({ learningRate: { kind: 'levenberg-marquardt' }, lookahead: {} });
    expect(error!.issues[0]).toMatchObject({ path: ['lookahead'] });
  });
});

describe('parameter groups', () => {
  const groupsOf = (groups: unknown): ParameterGroup[] => optimizerSchema.parse({ groups }).groups;
  const groups = groupsOf([
    { pattern: 'head.*', learningRateFactor: 2 },
    { pattern: '*.bias', learningRateFactor: 3 },
    { pattern: 'block*conv*', learningRateFactor: 4 },
    { pattern: 'exact', learningRateFactor: 5, weightDecayFactor: 0 },
  ]);

  it.each([
    ['head.bias', 2],
    ['body.bias', 3],
    ['block1.conv2', 4],
    ['blockconv', 4],
    ['block1.dense', 1],
    ['exact', 5],
    ['exactly', 1],
    ['headless', 1],
  ])('%s has the factor %d: the first pattern that matches counts', (layer, factor) => {
    expect(groupFactors(groups, layer)).toMatchObject({
      learningRateFactor: factor,
      weightDecayFactor: layer === 'exact' ? 0 : 1,
    });
  });

  it('does not let one character serve the beginning and the end', () => {
    const factor = (pattern: string, layer: string): number =>
      groupFactors(groupsOf([{ pattern, learningRateFactor: 2 }]), layer).learningRateFactor;
    expect(factor('aa*aa', 'aaa')).toBe(1);
    expect(factor('a*b*b', 'ab')).toBe(1);
  });
});
