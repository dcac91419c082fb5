/** How far a result is from the one it is held against. */

export interface Comparison {
  readonly name: string;
  /** max |actual − expected| / max |expected|; NaN where a number is not there that should be. */
  readonly error: number;
  readonly tolerance: number;
}

export function passes({ error, tolerance }: Comparison): boolean {
  return error <= tolerance;
}

/** max |actual − expected| / max |expected|, element by element. NaN must meet NaN. */
export function relativeError(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (actual.length !== expected.length) return Number.NaN;
  let difference = 0;
  let size = 0;
  for (let index = 0; index < expected.length; index++) {
    const [a, e] = [actual[index] ?? 0, expected[index] ?? 0];
    if (Number.isNaN(a) && Number.isNaN(e)) continue;
    // Math.max passes NaN on.
    difference = Math.max(difference, Math.abs(a - e));
    size = Math.max(size, Math.abs(e));
  }
  return difference === 0 ? 0 : difference / size;
}
