/** Means with what they can tell. */

export interface Interval {
  readonly mean: number;
  /** Half the width of the 95 % confidence interval, Student's t; NaN of fewer than two values. */
  readonly half: number;
}

/** 97.5 % quantiles of Student's t by degrees of freedom from 1 on. */
const T = [
  12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.16, 2.145, 2.131, 2.12, 2.11,
  2.101, 2.093,
];

export function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

/** Of the sample: divided by one less than there are; NaN of fewer than two values. */
export function standardDeviation(values: readonly number[]): number {
  if (values.length < 2) return Number.NaN;
  const centre = mean(values);
  return Math.sqrt(values.reduce((sum, value) => sum + (value - centre) ** 2, 0) / (values.length - 1));
}

/** @throws RangeError beyond 20 values, for which no quantile stands here */
export function confidence(values: readonly number[]): Interval {
  if (values.length < 2) return { mean: mean(values), half: Number.NaN };
  const quantile = T[values.length - 2];
  if (quantile === undefined) throw new RangeError(`no quantile for ${String(values.length)} values`);
  return { mean: mean(values), half: (quantile * standardDeviation(values)) / Math.sqrt(values.length) };
}

/** Of the differences a − b, pair by pair. */
export function pairedDifference(a: readonly number[], b: readonly number[]): Interval {
  if (a.length !== b.length) throw new RangeError(`${String(a.length)} and ${String(b.length)} values are no pairs`);
  return confidence(a.map((value, index) => value - (b[index] ?? Number.NaN)));
}

/** Whether an interval lies on one side of 0: −1, 1, or 0 where it does not tell. */
export function sign({ mean: centre, half }: Interval): -1 | 0 | 1 {
  if (!(Math.abs(centre) > half)) return 0;
  return centre > 0 ? 1 : -1;
}
