/** Deferred evaluation, on the reference engine and with a compiler that only counts. */
import { beforeEach, describe, expect, it } from 'vitest';
import { createDeferredEngine } from '../../gpu-worker/tensor/deferred/engine.ts';
import { CompilationError, type Compile } from '../../gpu-worker/tensor/deferred/programs.ts';
import type { Engine, Tensor } from '../../gpu-worker/tensor/engine.ts';
import { createReferenceEngine } from '../../gpu-worker/tensor/reference.ts';
import { INITIAL_STATE } from '../../gpu-worker/optimizer/state.ts';
import { changesOf, configurationFor, stepOn } from '../conformance/drive.ts';
import { randomBatch, randomProblem, mulberry32 } from '../oracle/network.ts';

let engine: Engine;
let eager: Engine;
let compiled: number;
let runs: number;
let disposed: number;
let reports: string[];
/** What making a program fails with, if it is to fail. */
let failure: Error | null;

const counting: Compile = (computation) => {
  compiled++;
  if (failure !== null) throw failure;
  return {
    run: (inputs) => {
      runs++;
      return eager.scope(() => computation(inputs));
    },
    dispose: () => {
      disposed++;
    },
  };
};

beforeEach(() => {
  compiled = runs = disposed = 0;
  reports = [];
  failure = null;
  eager = createReferenceEngine();
  engine = createDeferredEngine(eager, counting, (reason) => reports.push(reason));
});

const vector = (...values: number[]): Tensor => engine.tensor(values, [values.length]);

/** (a + b) · factor, and its root, in one scope. */
function compute(a: readonly number[], factor: number): number[] {
  return engine.scope(() => {
    const sum = engine.add(vector(...a), vector(1, 2));
    const product = engine.multiply(sum, factor);
    const root = engine.multiply(engine.sqrt(product), 1);
    engine.evaluate([product, root]);
    return [...engine.read(product), ...engine.read(root)];
  });
}

const expected = ([a = 0, b = 0]: readonly number[], factor: number): number[] => {
  const product = [(a + 1) * factor, (b + 2) * factor];
  return [...product, ...product.map(Math.sqrt)];
};

describe('a structure', () => {
  it('is compiled once, whatever the values and the numbers', () => {
    const cases = [[[3, 2], 4], [[8, 7], 4], [[0, 2], 9], [[15, 14], -0]] as const; // prettier-ignore
    for (const [times, [a, factor]] of cases.entries()) {
      expect(compute(a, factor)).toEqual(expected(a, factor));
      expect([compiled, runs]).toEqual([1, times + 1]);
    }
  });

  it('of other shapes is another', () => {
    compute([1, 2], 4);
    engine.scope(() => engine.read(engine.square(engine.sqrt(engine.multiply(engine.add(vector(1), vector(3)), 4)))));
    compute([1, 2], 4);
    expect(compiled).toBe(2);
  });

  it('of few operations is not worth a program', () => {
    const value = engine.scope(() => engine.read(engine.sqrt(engine.add(vector(1), 3))));
    expect([...value]).toEqual([2]);
    expect(compiled).toBe(0);
  });

  /** A structure of so many operations. */
  const chain = (operations: number, size = 1): number =>
    engine.scope(() => {
      let tensor = engine.tensor(new Float64Array(size), [size]);
      for (let i = 0; i < operations; i++) tensor = engine.add(tensor, 1);
      return engine.read(tensor)[0]!;
    });

  it('is forgotten when others of many operations have occurred since', () => {
    compute([1, 2], 4);
    for (let n = 0; n < 9; n++) expect(chain(9970 + n)).toBe(9970 + n);
    expect(disposed).toBe(0);
    chain(9979);
    expect([compiled, disposed]).toEqual([11, 1]);
    chain(9971);
    expect([compiled, disposed]).toEqual([11, 1]);
    compute([1, 2], 4);
    // The one used the longest ago went for it.
    expect([compiled, disposed]).toEqual([12, 2]);
    chain(9970);
    expect([compiled, disposed]).toEqual([13, 3]);
  });

  it('of many operations outlives a thousand of few, such as predictions of ever new batch sizes', () => {
    chain(500);
    for (let batch = 1; batch <= 1000; batch++) chain(10, batch);
    chain(500);
    expect([compiled, disposed]).toEqual([1001, 0]);
  });

  it('is the same with and without shapes that are there already', () => {
    const root = (tensor: Tensor, times: number): number[] =>
      engine.scope(() => {
        let [value, reshaped] = [tensor, tensor];
        for (let i = 0; i < times; i++) {
          value = engine.sqrt(reshaped);
          reshaped = engine.reshape(value, [2]);
        }
        engine.evaluate([value, reshaped]);
        return [...engine.read(value), ...engine.read(reshaped)];
      });
    const fourth = engine.scope(() => vector(16, 81));
    expect(root(fourth, 2)).toEqual([2, 3, 2, 3]);
    engine.scope(() =>
      engine.read(engine.sqrt(engine.sqrt(engine.reshape(engine.square(engine.square(fourth)), [2])))),
    );
    engine.scope(() =>
      engine.read(engine.sqrt(engine.sqrt(engine.square(engine.square(engine.reshape(fourth, [2])))))),
    );
    expect(compiled).toBe(1);
    engine.dispose([fourth]);
    expect(eager.liveTensors).toBe(0);
  });

  it('may have more numbers than are kept', () => {
    const numbers = Array.from({ length: 1000 }, (_, index) => index);
    const sum = engine.scope(() => [
      ...engine.read(numbers.reduce((total, value) => engine.add(total, value), vector(0))),
    ]);
    expect(sum).toEqual([499_500]);
    expect(eager.liveTensors).toBe(512);
    expect(engine.liveTensors).toBe(0);
  });
});

describe('a structure of which no program can be made', () => {
  beforeEach(() => {
    failure = new CompilationError('no space left on device');
  });

  it('is computed all the same, and that is said once', () => {
    for (let i = 0; i < 5; i++) expect(compute([3, 2], 4)).toEqual(expected([3, 2], 4));
    expect([compiled, runs]).toEqual([1, 0]);
    expect(reports).toEqual(['4 operations are computed one by one, since no graph can be made of them: no space left on device']); // prettier-ignore
    engine.scope(() => engine.read(engine.sqrt(engine.sqrt(engine.sqrt(engine.add(engine.identity(3), 1))))));
    expect(reports).toHaveLength(2);
  });

  it('leaves nothing on the device', () => {
    compute([3, 2], 4);
    const { liveTensors } = eager;
    for (let i = 0; i < 10; i++) compute([3, 2], 4);
    expect(eager.liveTensors).toBe(liveTensors);
    expect(engine.liveTensors).toBe(0);
  });

  it('becomes one when that is possible again', () => {
    for (let i = 0; i < 100; i++) compute([3, 2], 4);
    expect(compiled).toBe(1);
    compute([3, 2], 4);
    expect(compiled).toBe(2);
    failure = null;
    for (let i = 0; i < 100; i++) expect(compute([3, 2], 4)).toEqual(expected([3, 2], 4));
    expect([compiled, runs]).toEqual([3, 1]);
    expect(reports).toHaveLength(1);
  });

  it('is told from a computation that fails', () => {
    failure = new RangeError('out of memory');
    expect(() => compute([3, 2], 4)).toThrow(failure);
    expect(reports).toEqual([]);
    failure = null;
    expect(compute([3, 2], 4)).toEqual(expected([3, 2], 4));
  });
});

describe('what is read', () => {
  it('is computed once with all that is named together', () => {
    for (let i = 0; i < 3; i++) compute([1, 2], 4);
    expect(runs).toBe(3);
  });

  it('without being named is computed when it is read', () => {
    engine.scope(() => {
      const sum = engine.add(vector(1), vector(2));
      expect([...engine.read(sum)]).toEqual([3]);
      expect([...engine.read(engine.multiply(sum, 2))]).toEqual([6]);
    });
  });

  it('outside any scope is there at once', () => {
    const sum = engine.add(vector(1), vector(2));
    expect(eager.liveTensors).toBeGreaterThan(0);
    expect([...engine.read(sum)]).toEqual([3]);
  });
});

describe('memory', () => {
  it('holds the results of a scope and nothing else', () => {
    const kept = engine.scope(() => {
      const sum = engine.scope(() => engine.add(vector(1, 2), vector(3, 4)));
      engine.square(sum);
      return { sum, product: [engine.multiply(sum, 3)] };
    });
    expect(eager.liveTensors).toBe(2);
    expect([...engine.read(kept.product[0]!)]).toEqual([12, 18]);
    engine.dispose([kept.sum, kept.product[0]!, kept.sum]);
    expect(eager.liveTensors).toBe(0);
  });

  it('keeps what is disposed of for the operations that still need it', () => {
    const outside = engine.scope(() => engine.add(vector(1), vector(1)));
    const result = engine.scope(() => {
      const pending = engine.multiply(outside, 5);
      const next = engine.add(pending, outside);
      engine.dispose([pending, outside]);
      return next;
    });
    expect([...engine.read(result)]).toEqual([12]);
    expect(eager.liveTensors).toBe(1);
    expect(() => engine.read(outside)).toThrow(/freed/);
  });

  it('is free of what a failed computation has made', () => {
    expect(() =>
      engine.scope(() => {
        engine.read(engine.add(vector(1), vector(2)));
        throw new RangeError('stop');
      }),
    ).toThrow('stop');
    expect(eager.liveTensors).toBe(0);
  });
});

it('a chain of ten thousand operations does not exhaust the stack', () => {
  const value = engine.scope(() => {
    let tensor = vector(0);
    for (let i = 0; i < 10_000; i++) tensor = engine.add(tensor, 1);
    return [...engine.read(tensor)];
  });
  expect(value).toEqual([10_000]);
});

it('refuses operands whose shapes do not fit when they are given', () => {
  expect(() => engine.add(vector(1, 2), vector(1, 2, 3))).toThrow(/\[2\] and \[3\] do not broadcast/);
  expect(() => engine.matMul(engine.identity(2), engine.identity(3))).toThrow(/inner dimensions differ/);
  expect(() => engine.reshape(vector(1, 2), [3])).toThrow(/does not reshape/);
});

it('a trajectory of steps is the eager engine’s, bit for bit, from a handful of programs', () => {
  const widths = [4, 5, 3];
  const loss = 'softmax-cross-entropy';
  const { network, batch } = randomProblem({ widths, activation: 'tanh', loss, batchSize: 6, seed: 3 });
  const random = mulberry32(4);
  const batches = [batch, ...Array.from({ length: 24 }, () => randomBatch(random, widths, loss, 6))];
  const configuration = configurationFor(network, {
    coupling: 'gauss-newton-step',
    momentum: 0.5,
    metric: { kind: 'kronecker', refreshEvery: 5 },
    learningRate: { kind: 'cosine', value: 4, steps: 20 },
  });
  const trajectory = (on: Engine): number[] => {
    let state = INITIAL_STATE;
    return batches.flatMap((each) => {
      const result = stepOn(on, configuration, state, network, each);
      state = result.state;
      return changesOf(on, result, network).flatMap(({ data }) => [...data]);
    });
  };
  expect(trajectory(engine)).toEqual(trajectory(createReferenceEngine()));
  expect(compiled).toBeLessThan(10);
  expect(runs).toBeGreaterThan(compiled);
});
