/** What the page of training times reads from its curves. */
import { expect, it } from 'vitest';
import type { Point } from '../../bench/training-time/measure.ts';
import {
  bestAccuracy,
  meanCurve,
  renderFigures,
  secondsTo,
  type ContenderResult,
} from '../../bench/training-time/report.ts';
import { sampleOrder } from '../../bench/parts.ts';

const curve = (...points: readonly (readonly [seconds: number, accuracy: number])[]): Point[] =>
  points.map(([seconds, accuracy]) => ({ seconds, accuracy, loss: 1 - accuracy }));

const contender: ContenderResult = {
  id: 'adam',
  name: 'A <b> & c',
  tuning: { learningRate: 1, accuracies: [] },
  budgets: [
    { epochs: 1, curves: [curve([1, 0.5], [2, 0.7]), curve([3, 0.7], [4, 0.8])] },
    { epochs: 2, curves: [curve([2, 0.6], [8, 0.9]), curve([2, 0.8], [10, 0.9])] },
    { epochs: 4, curves: [curve([1, 1]), []] },
  ],
};

it('a mean curve ends where one of its runs diverged', () => {
  expect(meanCurve(contender.budgets[0]!)).toEqual([
    { seconds: 2, loss: expect.closeTo(0.4) as number, accuracy: expect.closeTo(0.6) as number },
    { seconds: 3, loss: expect.closeTo(0.25) as number, accuracy: expect.closeTo(0.75) as number },
  ]);
  expect(meanCurve(contender.budgets[2]!)).toEqual([]);
});

it('the seconds to an accuracy are those of the earliest evaluation of any budget that has it', () => {
  expect(bestAccuracy(contender)).toBeCloseTo(0.9);
  expect(secondsTo(contender, 0.65)).toBe(2);
  expect(secondsTo(contender, 0.72)).toBe(3);
  expect(secondsTo(contender, 0.8)).toBe(9);
  expect(secondsTo(contender, 0.95)).toBeNull();
});

it('figures escape names, and draw a point for the end of every budget that has one', () => {
  const figures = renderFigures({
    dataSet: 'digits',
    widths: '1-1',
    batch: 8,
    trainingSamples: 16,
    tuningBudget: 1,
    contenders: [contender],
  });
  expect([...figures.keys()]).toEqual(['training-time-digits-8-error.svg', 'training-time-digits-8-loss.svg']);
  for (const svg of figures.values()) {
    expect(svg).toContain('A &lt;b&gt; &amp; c');
    expect(svg).not.toMatch(/NaN|Infinity/);
    expect(svg.match(/<circle/g)).toHaveLength(2);
  }
});

it('every epoch has each sample at most once, and an order of its own', () => {
  const data = { size: 10, features: 1, classes: 2, inputs: new Float32Array(10), labels: new Uint8Array(10) };
  const order = sampleOrder(data, 4, 2, 7);
  const [first, second] = [[...order.subarray(0, 8)], [...order.subarray(8)]];
  expect(new Set(first).size).toBe(8);
  expect(new Set(second).size).toBe(8);
  expect(first).not.toEqual(second);
  expect(sampleOrder(data, 4, 2, 7)).toEqual(order);
});
