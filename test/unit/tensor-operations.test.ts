/** Elementwise functions and reductions of every engine against closed forms and tabulated values. */
import { describe, expect, it } from 'vitest';
import { loadEngine, presentEngines } from '../../gpu-worker/tensor/index.ts';

/** Abramowitz & Stegun, table 7.1, and tails to more digits. */
const ERF: readonly (readonly [number, number])[] = [
  [0, 0],
  [0.1, 0.1124629160182849],
  [0.5, 0.5204998778130465],
  [1, 0.8427007929497149],
  [2, 0.9953222650189527],
  [2.5, 0.9995930479825551],
  [3, 0.9999779095030014],
  [-1, -0.8427007929497149],
  [40, 1],
];

describe.each(presentEngines())('on the %s engine', async (name) => {
  const engine = await loadEngine(name);
  const digits = engine.precision === 'float64' ? 14 : 6;
  const X = [-50, -3, -0.7, 0, 1e-3, 0.4, 2, 50];
  const apply = (operation: 'exp' | 'tanh' | 'sigmoid' | 'softplus' | 'isPositive', x: number): number =>
    engine.scope(() => engine.read(engine[operation](engine.tensor([x], [1])))[0]!);

  it.each(X)('exponential functions at %d', (x) => {
    const close = (actual: number, expected: number) => {
      expect(Math.abs(actual - expected) / Math.max(1, Math.abs(expected))).toBeLessThan(10 ** -digits);
    };
    close(apply('tanh', x), Math.tanh(x));
    close(apply('sigmoid', x), 1 / (1 + Math.exp(-x)));
    close(apply('softplus', x), x > 30 ? x : Math.log1p(Math.exp(x)));
    close(apply('exp', Math.min(x, 5)), Math.exp(Math.min(x, 5)));
    expect(apply('isPositive', x)).toBe(x > 0 ? 1 : 0);
  });

  it('logarithm and error function', () => {
    engine.scope(() => {
      expect(engine.read(engine.log(engine.tensor([Math.E], [1])))[0]).toBeCloseTo(1, digits);
      for (const [x, value] of ERF) {
        expect(engine.read(engine.erf(engine.tensor([x], [1])))[0], `erf ${x}`).toBeCloseTo(value, digits);
      }
    });
  });

  it('softplus keeps small values', () => {
    expect(apply('softplus', -20) / Math.exp(-20)).toBeCloseTo(1, 5);
  });

  it('the largest element along any axis', () => {
    engine.scope(() => {
      const tensor = engine.tensor([1, -5, 3, -2, -4, -1], [2, 3]);
      expect([...engine.read(engine.largest(tensor, 0))]).toEqual([1, -4, 3]);
      expect([...engine.read(engine.largest(tensor, 1))]).toEqual([3, -1]);
      expect(engine.largest(tensor, 1).shape).toEqual([2]);
    });
  });
});
