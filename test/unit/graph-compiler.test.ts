/** A graph computes what its operations compute one by one: every operation of the seam, and pieces of the step. */
import { afterEach, describe, expect, it } from 'vitest';
import { coefficients, prepareSolver } from '../../gpu-worker/optimizer/ddp/coefficients.ts';
import { valueRecursion } from '../../gpu-worker/optimizer/ddp/value-recursion.ts';
import { createDeferredEngine } from '../../gpu-worker/tensor/deferred/engine.ts';
import { CompilationError, type Compile } from '../../gpu-worker/tensor/deferred/programs.ts';
import { tensorsIn, type Engine, type Tensor } from '../../gpu-worker/tensor/engine.ts';
import { findBinding, loadBinding } from '../../gpu-worker/tensor/tensorflow/binding.ts';
import { createTensorFlowEngine, type TensorFlowEngine } from '../../gpu-worker/tensor/tensorflow/operations.ts';
import type { WindowGeometry } from '../../shared/convolution.ts';
import { seededRandom } from '../../shared/random.ts';
import { stock } from './stock-binding.ts';

/** Over images of 4×2. */
const WINDOW: WindowGeometry = {
  rows: { kernel: 3, stride: 2, dilation: 1, padding: [1, 0], outputs: 2 },
  columns: { kernel: 2, stride: 1, dilation: 1, padding: [0, 1], outputs: 2 },
};

function imagesOf(engine: Engine, P: Tensor): Tensor {
  return engine.reshape(P, [2, 4, 2, 1]);
}

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
    reverse: (engine, P) => engine.reverse(P, 1),
    convolution: (engine, P) =>
      engine.convolution(imagesOf(engine, P), engine.reshape(engine.slice(P, 0, 0, 3), [3, 2, 1, 2]), WINDOW),
    maxPool: (engine, P) => engine.maxPool(imagesOf(engine, P), WINDOW),
    maxPoolGradient: (engine, P) => {
      const images = imagesOf(engine, P);
      const largest = engine.maxPool(images, WINDOW);
      return engine.maxPoolGradient(images, largest, engine.exp(largest), WINDOW);
    },
    exp: (engine, P) => engine.exp(P),
    log: (engine, _, v) => engine.log(v),
    tanh: (engine, P) => engine.tanh(P),
    sigmoid: (engine, P) => engine.sigmoid(P),
    softplus: (engine, P) => engine.softplus(P),
    erf: (engine, P) => engine.erf(P),
    isPositive: (engine, P) => engine.isPositive(engine.subtract(P, 0.5)),
    largest: (engine, P) => engine.largest(P, 0),
    identity: (engine) => engine.identity(3),
    diagonal: (engine, _, v) => engine.diagonal(v),
    diagonalOf: (engine, P) => engine.diagonalOf(P),
    cholesky: (engine, P) => engine.cholesky(P),
    'cholesky of what has none': (engine, P) => engine.cholesky(engine.multiply(P, -1)),
    choleskySolve: (engine, P, v) => engine.choleskySolve(engine.cholesky(P), v),
    inverseCholesky: (engine, P) => engine.inverseCholesky(P),
    'inverseCholesky of what has none': (engine, P) => engine.inverseCholesky(engine.multiply(P, -1)),
    eigenSymmetric: (engine, P) => engine.eigenSymmetric(P),
    isFinite: (engine, P, v) => ({
      all: engine.isFinite([P, v]),
      none: engine.isFinite([P, engine.log(engine.multiply(v, -1))]),
    }),
    'eigenSymmetric of what is not finite': (engine, P) => engine.eigenSymmetric(engine.log(engine.multiply(P, -1))),
  };

/** Members of the seam that make no tensors from tensors. */
const OTHERS = ['name', 'precision', 'read', 'evaluate', 'scope', 'dispose', 'isTensor', 'liveTensors'];

const N = 4;

function catchError(act: () => unknown): unknown {
  try {
    return act();
  } catch (error) {
    return error;
  }
}

function uploadInputs(engine: Engine, seed: number): { P: Tensor; v: Tensor } {
  const random = seededRandom(seed);
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

const file = findBinding();

/** Nothing here is to be computed operation by operation. */
function unexpected(reason: string): never {
  throw new Error(reason);
}

describe.skipIf(file === null)('graphs on TensorFlow', () => {
  // Skipped tests are collected, too, and then there is nothing to load.
  const { engine: eager, compile } =
    file === null ? ({} as TensorFlowEngine) : createTensorFlowEngine(loadBinding(file));

  const hostOf = (engine: Engine, value: unknown): { shape: readonly number[]; values: number[] }[] =>
    [...tensorsIn(value, engine.isTensor)].map((tensor) => ({ shape: tensor.shape, values: [...engine.read(tensor)] }));

  /** Three calls with new inputs each, against the operations one by one. */
  function expectSame<Inputs>(
    compute: (engine: Engine, inputs: Inputs) => unknown,
    makeInputs: (engine: Engine, seed: number) => Inputs,
  ): void {
    let graphs = 0;
    const counting: Compile = (computation, inputs) => {
      graphs++;
      return compile(computation, inputs);
    };
    const engine = createDeferredEngine(eager, counting, unexpected);
    const before = engine.liveTensors;
    const run = (on: Engine, call: number): ReturnType<typeof hostOf> =>
      on.scope(() => {
        // Enough operations for a graph.
        const padded = (tensor: Tensor): Tensor =>
          on.multiply(on.multiply(on.multiply(on.multiply(tensor, 2), 2), 0.5), 0.5);
        const result = [...tensorsIn(compute(on, makeInputs(on, call)), on.isTensor)].map(padded);
        on.evaluate(result);
        return hostOf(on, result);
      });
    for (let call = 0; call < 3; call++) {
      const expected = run(eager, call);
      for (const [index, { shape, values }] of run(engine, call).entries()) {
        expect(shape).toEqual(expected[index]!.shape);
        const scale = Math.max(1, ...values.filter(Number.isFinite).map(Math.abs));
        for (const [position, value] of expected[index]!.values.entries()) {
          const other = values[position]!;
          if (Number.isNaN(value)) expect(other).toBeNaN();
          else expect(Math.abs(other - value) / scale).toBeLessThan(1e-6);
        }
      }
    }
    expect(graphs).toBe(1);
    expect(engine.liveTensors).toBe(before);
  }

  it.each(Object.keys(OPERATIONS))('%s', (operation) => {
    expectSame((engine, { P, v }: { P: Tensor; v: Tensor }) => OPERATIONS[operation]!(engine, P, v), uploadInputs);
  });

  it('a chain of ten thousand operations is one graph', () => {
    const engine = createDeferredEngine(eager, compile, unexpected);
    const value = engine.scope(() => {
      let tensor = engine.tensor([0], [1]);
      for (let i = 0; i < 10_000; i++) tensor = engine.add(tensor, 1);
      return engine.read(tensor)[0];
    });
    expect(value).toBe(10_000);
  });

  it('more constants than are kept: none is freed before the operation that takes it', () => {
    const row = eager.tensor(new Float32Array(2000), [2000]);
    for (let length = 1; length <= 2000; length++) {
      expect(eager.scope(() => eager.slice(row, 0, 0, length).shape)).toEqual([length]);
    }
    eager.dispose([row]);
  });

  it('numbers that were equal when the graph was made may differ later', () => {
    const engine = createDeferredEngine(eager, compile, unexpected);
    const polynomial = (a: number, b: number, c: number): number | undefined =>
      engine.scope(() => {
        const { add, multiply, read } = engine;
        const x = engine.tensor([10], [1]);
        return read(add(multiply(add(multiply(x, a), b), x), c))[0];
      });
    expect(polynomial(2, 2, 2)).toBe(222);
    expect(polynomial(1, 2, 3)).toBe(123);
    expect(polynomial(3, 2, 3)).toBe(323);
  });

  describe('that cannot be made', () => {
    const temporary = process.env['TMPDIR'];
    afterEach(() => {
      if (temporary === undefined) delete process.env['TMPDIR'];
      else process.env['TMPDIR'] = temporary;
    });

    // Graphs of npm's bindings go through files.
    const { engine: eager, compile } =
      file === null ? ({} as TensorFlowEngine) : createTensorFlowEngine(stock(loadBinding(file)));

    /** P (P + v)ᵀ and its Cholesky factor, of an engine of its own. */
    const compute = (report: (reason: string) => void): number[] => {
      const engine = createDeferredEngine(eager, compile, report);
      const { P, v } = uploadInputs(engine, 1);
      const result = engine.scope(() => {
        const factor = engine.cholesky(P);
        const product = engine.matMul(P, engine.add(factor, v), { transposeRight: true });
        const results = [engine.multiply(product, 2), factor];
        engine.evaluate(results);
        return results.flatMap((tensor) => [...engine.read(tensor)]);
      });
      engine.dispose([P, v]);
      return result;
    };

    it('for want of a temporary folder: computed operation by operation, to float32 rounding', () => {
      const graph = compute(unexpected);
      const reports: string[] = [];
      process.env['TMPDIR'] = '/nowhere';
      const before = eager.liveTensors;
      const oneByOne = compute((reason) => reports.push(reason));
      const scale = Math.max(...graph.map(Math.abs));
      for (const [index, value] of graph.entries())
        expect(Math.abs(oneByOne[index]! - value) / scale).toBeLessThan(1e-6);
      // Every engine keeps its numbers.
      expect(eager.liveTensors - before).toBeLessThanOrEqual(2);
      expect(reports.length).toBeGreaterThan(0);
      for (const reason of reports)
        expect(reason).toMatch(/^\d+ operations are computed one by one.*ENOENT.*\/nowhere/);
      expect(new Set(reports).size).toBe(reports.length);
    });

    it('because it is more than a function of its inputs: refused', () => {
      const [input, captured] = [eager.tensor([1], [1]), eager.tensor([2], [1])];
      const before = eager.liveTensors;
      expect(() => compile(([x]) => [eager.add(x!, captured)], [input])).toThrow(CompilationError);
      expect(() => compile(() => [captured], [input])).toThrow(CompilationError);
      expect(eager.liveTensors).toBe(before);
      eager.dispose([input, captured]);
    });

    it('because the computation fails: with its own error', () => {
      const input = eager.tensor([1, 2], [2]);
      const before = eager.liveTensors;
      const reason: unknown = catchError(() => compile(([x]) => [eager.matMul(x!, x!)], [input]));
      expect(reason).toBeInstanceOf(Error);
      expect(reason).not.toBeInstanceOf(CompilationError);
      expect(eager.liveTensors).toBe(before);
      eager.dispose([input]);
    });
  });

  it('every operation of the seam is among these', () => {
    const tested = new Set(Object.keys(OPERATIONS).map((key) => /^\w+/.exec(key)![0]));
    expect([...tested, ...OTHERS].sort()).toEqual(Object.keys(eager).sort());
  });

  it.each(['full', 'diagonal', 'paper-faithful', 'paper-averaged'] as const)(
    'the value recursion, batch coupling %s',
    (batchCoupling) => {
      const B = 5;
      const makeInputs = (engine: Engine, seed: number) => {
        const random = seededRandom(seed);
        const filled = (shape: readonly number[], value: () => number): Tensor =>
          engine.tensor(Array.from({ length: shape.reduce((product, size) => product * size, 1) }, value), shape);
        const matrix = (rows: number, columns: number): Tensor => filled([rows, columns], () => 2 * random() - 1);
        return {
          h: filled([B], () => 0.5 + random()),
          s: filled([B], () => 0.1 * random()),
          layers: [1, 2, 3].map((t) => ({ input: matrix(B, t + 2), gradient: matrix(B, t + 1) })),
        };
      };
      expectSame((engine, { h, s, layers }: ReturnType<typeof makeInputs>) => {
        const stages = layers.map(({ input, gradient }) => {
          const rows = { kind: 'outer', input, output: gradient } as const;
          return {
            blocks: [{ columns: rows, transformed: rows, weights: null, plainStep: null }],
            learningRate: 0.5,
          };
        });
        const terminalCurvature = { kind: 'gradient', lossScale: null } as const;
        const options = { terminalCurvature, coupling: 'feedback', batchCoupling, valueRegularization: 0 } as const;
        const systems = valueRecursion(engine, stages, h, B, options);
        return systems.map((system) => {
          const solver = prepareSolver(engine, system, { choleskyRows: 1024, iterations: 10 });
          return { solver, kappa: coefficients(engine, solver, s) };
        });
      }, makeInputs);
    },
  );
});
