/** Learning-rate schedules against values worked out by hand, and layer-name patterns. */
import { describe, expect, it } from 'vitest';
import { scheduledLearningRate } from '../../gpu-worker/optimizer/update/learning-rate.ts';
import { optimizerSchema, type ParameterGroup } from '../../shared/optimizer.ts';
import { groupFactors } from '../../shared/parameter-groups.ts';

function rates(schedule: unknown, steps: readonly number[]): number[] {
  const { learningRate } = optimizerSchema.parse({ learningRate: schedule });
  if (learningRate.kind === 'leverage') throw new Error('not a schedule');
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
