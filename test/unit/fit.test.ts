/** Lines through measured points. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { fitExponent, fitLine } from '../../bench/scaling/fit.ts';

describe('a line', () => {
  it('through points on a line is that line, without error', () => {
    const coefficient = fc.double({ min: -100, max: 100, noNaN: true });
    fc.assert(
      fc.property(coefficient, coefficient, (slope, intercept) => {
        const fit = fitLine([1, 2, 5, 9].map((x) => [x, slope * x + intercept]));
        expect(fit.slope).toBeCloseTo(slope, 8);
        expect(fit.intercept).toBeCloseTo(intercept, 8);
        expect(fit.error).toBeCloseTo(0, 8);
      }),
    );
  });

  it('has the textbook’s standard error', () => {
    const { slope, intercept, error } = fitLine([
      [1, 2],
      [2, 2],
      [3, 4],
      [4, 4],
    ]);
    expect(slope).toBeCloseTo(0.8, 12);
    expect(intercept).toBeCloseTo(1, 12);
    // Residuals 0.2, −0.6, 0.6, −0.2: their squares add up to 0.8.
    expect(error).toBeCloseTo(Math.sqrt(0.8 / 2 / 5), 12);
  });

  it('takes three points', () => {
    expect(() => fitLine([[1, 1], [2, 2]])).toThrow(RangeError); // prettier-ignore
  });
});

it('the exponent of a power is found whatever its factor', () => {
  const { slope, error } = fitExponent([4, 8, 16, 64].map((x) => [x, 7 * x ** 1.5]));
  expect(slope).toBeCloseTo(1.5, 12);
  expect(error).toBeCloseTo(0, 8);
});
