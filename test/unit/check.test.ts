/** The check of an engine finds what is wrong with one. */
import { beforeAll, describe, expect, it } from 'vitest';
import { passes, relativeError, type Comparison } from '../../gpu-worker/check/comparison.ts';
import { compareLinearAlgebra } from '../../gpu-worker/check/linear-algebra.ts';
import { compareLayers, compareModels } from '../../gpu-worker/check/training.ts';
import type { Engine, Tensor } from '../../gpu-worker/tensor/engine.ts';
import { loadEngine } from '../../gpu-worker/tensor/index.ts';

let reference: Engine;

beforeAll(async () => {
  reference = await loadEngine('reference');
});

function failures(comparisons: readonly Comparison[]): string[] {
  return comparisons.filter((comparison) => !passes(comparison)).map(({ name }) => name);
}

/** What NVIDIA's TensorFloat-32 leaves of a number: ten bits of the significand. */
function tensorFloat(tensor: Tensor): Tensor {
  const values = Float32Array.from(reference.read(tensor));
  const bits = new Uint32Array(values.buffer);
  for (const [index, each] of bits.entries()) bits[index] = each & 0xffffe000;
  return reference.tensor(values, tensor.shape);
}

describe('an engine', () => {
  it('that is the reference passes', () => {
    const all = [compareLinearAlgebra, compareModels].flatMap((compare) => compare(reference, reference));
    expect(failures(all)).toEqual([]);
  });

  it('whose products are in TensorFloat-32 does not', () => {
    const engine: Engine = { ...reference, matMul: (left, right, product) => reference.matMul(tensorFloat(left), tensorFloat(right), product) }; // prettier-ignore
    const found = failures(compareLinearAlgebra(engine, reference));
    expect(found).toEqual(expect.arrayContaining(['product', 'product of transposes', 'products of stacks']));
  });

  it('that makes a factor of what has none does not', () => {
    const engine: Engine = { ...reference, cholesky: ({ shape: [n = 0] }) => reference.identity(n) };
    expect(failures(compareLinearAlgebra(engine, reference))).toContain('Cholesky factor of what has none');
  });

  it('with a wrong root does not, in the metrics that take one', () => {
    const engine: Engine = { ...reference, sqrt: (tensor) => reference.multiply(reference.sqrt(tensor), 1.01) };
    const found = failures(compareLayers(engine, reference));
    expect(found).toEqual(expect.arrayContaining(['dense, rmsprop', 'conv2d, adam', 'generic, rmsprop']));
    expect(found).not.toContain('dense, identity');
  });
});

describe('the relative error', () => {
  it.each([
    [[1, 2], [1, 2], 0],
    [[1, 2.5], [1, 2], 0.25],
    [[0, 0], [0, 0], 0],
    [[Number.NaN], [Number.NaN], 0],
  ])('of %j from %j is %d', (actual, expected, error) => {
    expect(relativeError(actual, expected)).toBe(error);
  });

  it.each([
    [[Number.NaN], [1]],
    [[1], [Number.NaN]],
    [[1], [1, 2]],
    [[1e-9], [0]],
    [[], [1]],
  ])('of %j from %j passes no tolerance', (actual, expected) => {
    expect(passes({ name: '', error: relativeError(actual, expected), tolerance: 1 })).toBe(false);
  });
});
