/** Lines through measured points, by least squares. */

export interface Line {
  readonly slope: number;
  readonly intercept: number;
  /** Standard error of the slope. */
  readonly error: number;
}

/** @throws RangeError for fewer than three points, which leave no error to estimate */
export function fitLine(points: readonly (readonly [x: number, y: number])[]): Line {
  if (points.length < 3) throw new RangeError('a line with its error takes three points');
  const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;
  const meanX = mean(points.map((point) => point[0]));
  const meanY = mean(points.map((point) => point[1]));
  const sum = (term: (x: number, y: number) => number): number =>
    points.reduce((total, [x, y]) => total + term(x - meanX, y - meanY), 0);
  const slope = sum((x, y) => x * y) / sum((x) => x * x);
  const residual = sum((x, y) => (y - slope * x) ** 2);
  const error = Math.sqrt(residual / (points.length - 2) / sum((x) => x * x));
  return { slope, intercept: meanY - slope * meanX, error };
}

/** p of y = c·xᵖ with its standard error, a line through the logarithms. */
export function fitExponent(points: readonly (readonly [x: number, y: number])[]): Line {
  return fitLine(points.map(([x, y]) => [Math.log(x), Math.log(y)]));
}
