import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { cholesky, choleskySolve, inverseCholesky } from '../../shared/linear-algebra.ts';

/** A random M Mᵀ + εI of order 1 to 8. */
const spd = fc.integer({ min: 1, max: 8 }).chain((n) =>
  fc.array(fc.double({ min: -3, max: 3, noNaN: true }), { minLength: n * n, maxLength: n * n }).map((m) => {
    const matrix = new Float64Array(n * n);
    for (let i = 0; i < n; i++) {
      for (let j = 0; j < n; j++) {
        let sum = i === j ? 0.1 : 0;
        for (let k = 0; k < n; k++) sum += m[i * n + k]! * m[j * n + k]!;
        matrix[i * n + j] = sum;
      }
    }
    return { n, matrix };
  }),
);

function product(left: ArrayLike<number>, right: ArrayLike<number>, n: number, transposeRight = false): Float64Array {
  return Float64Array.from({ length: n * n }, (_, index) => {
    const i = Math.floor(index / n);
    const j = index % n;
    let sum = 0;
    for (let k = 0; k < n; k++) sum += left[i * n + k]! * (transposeRight ? right[j * n + k]! : right[k * n + j]!);
    return sum;
  });
}

function expectClose(actual: ArrayLike<number>, expected: ArrayLike<number>, tolerance: number): void {
  expect(actual.length).toBe(expected.length);
  for (let index = 0; index < expected.length; index++) {
    expect(Math.abs(actual[index]! - expected[index]!)).toBeLessThan(tolerance);
  }
}

describe('symmetric positive definite matrices', () => {
  it('A = L Lᵀ with L lower triangular', () => {
    fc.assert(
      fc.property(spd, ({ n, matrix }) => {
        const factor = cholesky(matrix, n)!;
        expectClose(product(factor, factor, n, true), matrix, 1e-10);
        for (let i = 0; i < n; i++) for (let j = i + 1; j < n; j++) expect(factor[i * n + j]).toBe(0);
      }),
      { seed: 1 },
    );
  });

  it('solves A x = b', () => {
    fc.assert(
      fc.property(
        spd,
        fc.array(fc.double({ min: -5, max: 5, noNaN: true }), { minLength: 8, maxLength: 8 }),
        ({ n, matrix }, numbers) => {
          const b = numbers.slice(0, n);
          const x = choleskySolve(cholesky(matrix, n)!, b);
          const residual = b.map((value, i) => x.reduce((sum, xj, j) => sum + matrix[i * n + j]! * xj, -value));
          expectClose(residual, new Float64Array(n), 1e-8);
        },
      ),
      { seed: 2 },
    );
  });

  it('A⁻¹ = L⁻ᵀ L⁻¹ with L⁻¹ lower triangular', () => {
    fc.assert(
      fc.property(spd, ({ n, matrix }) => {
        const factor = inverseCholesky(matrix, n)!;
        const transposed = Float64Array.from(
          { length: n * n },
          (_, index) => factor[(index % n) * n + Math.floor(index / n)]!,
        );
        const identity = Float64Array.from({ length: n * n }, (_, index) => (index % (n + 1) === 0 ? 1 : 0));
        expectClose(product(matrix, product(transposed, factor, n), n), identity, 1e-7);
        for (let i = 0; i < n; i++) for (let j = i + 1; j < n; j++) expect(factor[i * n + j]).toBe(0);
      }),
      { seed: 3 },
    );
  });

  it.each([
    ['indefinite', [1, 0, 0, -1]],
    ['singular', [1, 1, 1, 1]],
    ['with NaN', [1, 0, Number.NaN, 1]],
    ['with infinity', [Number.POSITIVE_INFINITY, 0, 0, 1]],
    ['too short', [1, 0, 0]],
  ])('has no factor and no inverse if it is %s', (_, matrix) => {
    expect(cholesky(matrix, 2)).toBeNull();
    expect(inverseCholesky(matrix, 2)).toBeNull();
  });
});
