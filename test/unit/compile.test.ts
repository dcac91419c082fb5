/** A compiled function computes what it computed before: every operation of the seam, and pieces of the step. */
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { coefficients, prepareSolver } from '../../gpu-worker/optimizer/ddp/coefficients.ts';
import { valueRecursion } from '../../gpu-worker/optimizer/ddp/value-recursion.ts';
import { compile, type CompileOptions } from '../../gpu-worker/tensor/compile.ts';
import { tensorsIn, type Engine, type Tensor } from '../../gpu-worker/tensor/engine.ts';
import { loadEngine, presentEngines } from '../../gpu-worker/tensor/index.ts';
import { seededRandom } from '../../shared/random.ts';

const OPTIONS: CompileOptions = {
  capacity: 4,
  report: (reason) => {
    throw new Error(reason);
  },
};

/** Every operation of the seam that makes tensors, on a positive definite matrix P [n, n] and a vector v [n] of positive numbers. */
const OPERATIONS: Record<string, (engine: Engine, P: Tensor, v: Tensor) => Tensor | Readonly<Record<string, Tensor>>> =
  {
    tensor: (engine, P) => engine.add(P, engine.tensor([1, 2, 3, 4], [4])),
    add: (engine, P, v) => engine.add(P, v),
    subtract: (engine, P, v) => engine.subtract(v, P),
    multiply: (engine, P) => engine.multiply(-0.5, P),
    divide: (engine, P, v) => engine.divide(P, v),
    minimum: (engine, P) => engine.minimum(P, 0.25),
    maximum: (engine, P, v) => engine.maximum(P, v),
    sqrt: (engine, _, v) => engine.sqrt(v),
    square: (engine, P) => engine.square(P),
    matMul: (engine, P) => engine.matMul(P, engine.multiply(P, 2)),
    'matMul, transposed': (engine, P) => {
      const tall = engine.slice(P, 1, 0, 3);
      return {
        left: engine.matMul(tall, P, { transposeLeft: true }),
        right: engine.matMul(P, engine.transpose(tall, [1, 0]), { transposeRight: true }),
      };
    },
    'matMul of stacks': (engine, P) => {
      const stack = engine.reshape(P, [2, 2, 4]);
      return engine.matMul(stack, stack, { transposeRight: true });
    },
    sum: (engine, P) => ({ down: engine.sum(P, 0), across: engine.sum(P, 1) }),
    reshape: (engine, P) => engine.reshape(P, [2, 8]),
    appendOnes: (engine, P) => engine.appendOnes(P),
    transpose: (engine, P) => engine.transpose(engine.reshape(P, [2, 2, 4]), [2, 0, 1]),
    slice: (engine, P) => engine.slice(P, 1, 1, 2),
    stride: (engine, P) => engine.stride(P, 0, 1, 2, 2),
    concat: (engine, P, v) => engine.concat([P, engine.reshape(v, [1, 4])], 0),
    'concat of one': (engine, P) => engine.concat([P], 0),
    pad: (engine, P) => engine.pad(P, [[1, 0], [0, 2]]), // prettier-ignore
    exp: (engine, P) => engine.exp(P),
    log: (engine, _, v) => engine.log(v),
    tanh: (engine, P) => engine.tanh(P),
    sigmoid: (engine, P) => engine.sigmoid(P),
    softplus: (engine, P) => engine.softplus(P),
    erf: (engine, P) => engine.erf(P),
    isPositive: (engine, P) => engine.isPositive(engine.subtract(P, 0.5)),
    largest: (engine, P) => engine.largest(P, 0),
    diagonal: (engine, _, v) => engine.diagonal(v),
    diagonalOf: (engine, P) => engine.diagonalOf(P),
    cholesky: (engine, P) => engine.cholesky(P),
    'cholesky of what has none': (engine, P) => engine.cholesky(engine.multiply(P, -1)),
    choleskySolve: (engine, P, v) => engine.choleskySolve(engine.cholesky(P), v),
    inverseCholesky: (engine, P) => engine.inverseCholesky(P),
    'inverseCholesky of what has none': (engine, P) => engine.inverseCholesky(engine.multiply(P, -1)),
    eigenSymmetric: (engine, P) => engine.eigenSymmetric(P),
    areFinite: (engine, P, v) => ({
      all: engine.areFinite([P, v]),
      none: engine.areFinite([P, engine.log(engine.multiply(v, -1))]),
    }),
    'eigenSymmetric of what is not finite': (engine, P) => engine.eigenSymmetric(engine.log(engine.multiply(P, -1))),
  };

/** Members of the seam that make no tensors from tensors. */
const OTHERS = ['name', 'precision', 'read', 'allFinite', 'scope', 'dispose', 'isTensor', 'compiler', 'liveTensors'];

const random = seededRandom(5);
const N = 4;

function uploadInputs(engine: Engine): { P: Tensor; v: Tensor } {
  return engine.scope(() => {
    const root = engine.tensor(
      Array.from({ length: N * N }, () => 2 * random() - 1),
      [N, N],
    );
    const P = engine.add(
      engine.matMul(root, root, { transposeRight: true }),
      engine.diagonal(engine.tensor(new Array(N).fill(0.5), [N])),
    );
    return { P, v: engine.tensor(Array.from({ length: N }, () => 0.5 + random()), [N]) }; // prettier-ignore
  });
}

describe.each(presentEngines())('on the %s engine', async (name) => {
  const engine = await loadEngine(name);
  /** Whether there are graphs at all. */
  const graphs = engine.compiler === null ? 0 : 1;
  const tolerance = engine.precision === 'float64' ? 1e-12 : 1e-6;

  let before: number;
  beforeEach(() => {
    before = engine.liveTensors;
  });
  afterEach(() => {
    expect(engine.liveTensors).toBe(before);
  });

  const dispose = (value: unknown): void => {
    engine.dispose(tensorsIn(value, engine.isTensor));
  };

  /** All tensors of a result on the host. */
  const hostOf = (value: unknown) =>
    [...tensorsIn(value, engine.isTensor)].map((tensor) => ({ shape: tensor.shape, values: [...engine.read(tensor)] }));

  function expectClose(actual: unknown, expected: unknown): void {
    const [a, b] = [hostOf(actual), hostOf(expected)];
    expect(a.map(({ shape }) => shape)).toEqual(b.map(({ shape }) => shape));
    for (const [index, { values }] of b.entries()) {
      const scale = Math.max(1, ...values.filter(Number.isFinite).map(Math.abs));
      for (const [i, value] of values.entries()) {
        const other = a[index]!.values[i]!;
        if (Number.isNaN(value)) expect(other).toBeNaN();
        else expect(Math.abs(other - value) / scale).toBeLessThan(tolerance);
      }
    }
  }

  /** Three calls, which are the eager one, the traced one and the graph's, with new inputs each, against the function itself. */
  function expectSame<Inputs>(compute: (inputs: Inputs) => unknown, makeInputs: () => Inputs): void {
    const compiled = compile(engine, compute, OPTIONS);
    for (let call = 0; call < 4; call++) {
      const inputs = makeInputs();
      const expected = engine.scope(() => compute(inputs));
      const actual = compiled.call(inputs);
      expectClose(actual, expected);
      dispose([inputs, expected, actual]);
    }
    expect(compiled.graphs).toBe(graphs);
    compiled.dispose();
  }

  it.each(Object.keys(OPERATIONS))('%s', (operation) => {
    expectSame(
      ({ P, v }: { P: Tensor; v: Tensor }) => OPERATIONS[operation]!(engine, P, v),
      () => uploadInputs(engine),
    );
  });

  it('every operation of the seam is among these', () => {
    const tested = new Set(Object.keys(OPERATIONS).map((key) => /^\w+/.exec(key)![0]));
    expect([...tested, ...OTHERS].sort()).toEqual(Object.keys(engine).sort());
  });

  it.each(['full', 'diagonal', 'paper-faithful'] as const)(
    'the value recursion, batch coupling %s',
    (batchCoupling) => {
      const B = 5;
      const matrix = (rows: number, columns: number): Tensor =>
      engine.tensor(Array.from({ length: rows * columns }, () => 2 * random() - 1), [rows, columns]); // prettier-ignore
      const makeInputs = () => ({
        h: engine.tensor(Array.from({ length: B }, () => 0.5 + random()), [B]), // prettier-ignore
        s: engine.tensor(Array.from({ length: B }, () => 0.1 * random()), [B]), // prettier-ignore
        layers: [1, 2, 3].map((t) => ({ input: matrix(B, t + 2), gradient: matrix(B, t + 1) })),
      });
      expectSame(({ h, s, layers }: ReturnType<typeof makeInputs>) => {
        const stages = layers.map(({ input, gradient }) => {
          const rows = { kind: 'outer', input, output: gradient } as const;
          return {
            blocks: [{ columns: rows, transformed: rows, weights: null, plainStep: null }],
            learningRate: 0.5,
          };
        });
        const options = { coupling: 'feedback', batchCoupling, valueRegularization: 0 } as const;
        const systems = valueRecursion(engine, stages, h, B, options);
        return systems.map((system) => {
          const solver = prepareSolver(engine, system, { choleskyRows: 1024, iterations: 10 });
          return { solver, kappa: coefficients(engine, solver, s) };
        });
      }, makeInputs);
    },
  );

  it('keeps plain data, maps and tensors that stay as they are', () => {
    const compiled = compile(
      engine,
      ({ state, x }: { state: { kind: 'average'; kept: Tensor; mean: Tensor }; x: Tensor }) => {
        const mean = engine.add(engine.multiply(state.mean, 0.5), x);
        return { state: { ...state, mean }, map: new Map([['mean', mean], ['twice', engine.multiply(mean, 2)]]), count: 2, none: null }; // prettier-ignore
      },
      OPTIONS,
    );
    const kept = engine.tensor([7], [1]);
    let state = { kind: 'average' as const, kept, mean: engine.tensor([0], [1]) };
    for (let call = 1; call <= 4; call++) {
      const x = engine.tensor([call], [1]);
      const result = compiled.call({ state, x });
      expect(result.count).toBe(2);
      expect(result.none).toBeNull();
      expect(result.state.kind).toBe('average');
      expect(result.state.kept).toBe(kept);
      expect(result.map.get('mean')).toBe(result.state.mean);
      expect(engine.read(result.map.get('twice')!)[0]).toBe(2 * engine.read(result.state.mean)[0]!);
      dispose([x, state.mean, result.map.get('twice')]);
      state = result.state;
    }
    expect(engine.read(state.mean)[0]).toBe(((1 / 2 + 2) / 2 + 3) / 2 + 4);
    dispose(state);
    compiled.dispose();
  });

  it('tells inputs of another form apart: shapes, numbers, a tensor that is there twice', () => {
    const compiled = compile(
      engine,
      ({ a, b, factor }: { a: Tensor; b: Tensor; factor: number }) => engine.multiply(engine.subtract(a, b), factor),
      OPTIONS,
    );
    const value = (a: Tensor, b: Tensor, factor: number): number => {
      const result = compiled.call({ a, b, factor });
      const read = engine.read(result)[0]!;
      dispose([result]);
      return read;
    };
    const [one, two, three] = [engine.tensor([1], [1]), engine.tensor([2, 2], [2]), engine.tensor([3], [1])];
    for (let call = 0; call < 4; call++) {
      expect(value(three, one, 1)).toBe(2);
      expect(value(three, one, -1)).toBe(-2);
      expect(value(three, three, 1)).toBe(0);
      expect(value(two, one, 1)).toBe(1);
    }
    expect(compiled.graphs).toBe(4 * graphs);
    dispose([one, two, three]);
    compiled.dispose();
    expect(compiled.graphs).toBe(0);
  });

  it('keeps as many graphs as it may, the last used', () => {
    const compiled = compile(engine, ({ x, n }: { x: Tensor; n: number }) => engine.multiply(x, n), {
      ...OPTIONS,
      capacity: 2,
    });
    const x = engine.tensor([1], [1]);
    for (const n of [1, 1, 2, 2, 1, 3, 3, 3, 2, 1]) {
      const result = compiled.call({ x, n });
      expect(engine.read(result)[0]).toBe(n);
      dispose([result]);
      expect(compiled.graphs).toBeLessThanOrEqual(2);
    }
    dispose([x]);
    compiled.dispose();
  });

  it.each([
    ['it reads a tensor', (x: Tensor) => engine.multiply(x, engine.read(x)[0]!)],
    ['it reads a tensor', (x: Tensor) => (engine.allFinite([x]) ? engine.multiply(x, 2) : x)],
    ['it uses a tensor that is not among its inputs', null],
  ])('computes operation by operation where %s', (reason, compute) => {
    const other = engine.tensor([2], [1]);
    const reports: string[] = [];
    const compiled = compile(engine, compute ?? ((x: Tensor) => engine.multiply(x, other)), {
      capacity: 4,
      report: (text) => reports.push(text),
    });
    const x = engine.tensor([2], [1]);
    for (let call = 0; call < 4; call++) {
      const result = compiled.call(x);
      expect(engine.read(result)[0]).toBe(4);
      dispose([result]);
    }
    expect(reports).toEqual(engine.compiler === null ? [] : [reason]);
    dispose([x, other]);
  });

  it('passes on an error of the function, and is as before', () => {
    const compiled = compile(
      engine,
      ({ x, fails }: { x: Tensor; fails: boolean }) => {
        const twice = engine.multiply(x, 2);
        if (fails) throw new RangeError('no');
        return twice;
      },
      OPTIONS,
    );
    const x = engine.tensor([2], [1]);
    for (let call = 0; call < 3; call++) {
      expect(() => compiled.call({ x, fails: true })).toThrow(RangeError);
      dispose([compiled.call({ x, fails: false })]);
    }
    expect(compiled.graphs).toBe(graphs);
    dispose([x]);
    compiled.dispose();
  });

  it('a compiled function inside a compiled function becomes part of it', () => {
    const inner = compile(engine, (x: Tensor) => engine.multiply(x, 3), OPTIONS);
    expectSame(
      (x: Tensor) => engine.add(inner.call(x), 1),
      () => engine.tensor([random()], [1]),
    );
    inner.dispose();
  });
});
