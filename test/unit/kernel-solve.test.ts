/** Systems without a session: the edge's own solver against the oracle's elimination, and the worker's engines against the edge's. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { solveKernels } from '../../edge/kernel/solve.ts';
import { presentEngines } from '../../gpu-worker/tensor/index.ts';
import { solveKernels as solveOnWorker } from '../../gpu-worker/training/kernel-solve.ts';
import { decodeSolve, kernelSolveOptionsSchema, type KernelSolveOptions } from '../../shared/kernel-solve.ts';
import { encode, readHeader, readValues, type TensorValues } from '../../shared/safetensors.ts';
import { packSymmetric, unpackLower } from '../../shared/triangle.ts';
import { oracleJudgedEngine } from '../conformance/engines.ts';
import { add, build, columnVector, diagonal, multiply, scale, solve, subtract, transpose, type Matrix } from '../oracle/matrix.ts'; // prettier-ignore
import { gaussianMatrix, mulberry32 } from '../oracle/network.ts';
import { terminalWeights } from '../oracle/bellman.ts';

interface Problem {
  readonly losses: Float64Array;
  readonly kernels: readonly Matrix[];
}

function problem(seed: number, B: number, stages: number): Problem {
  const random = mulberry32(seed);
  const kernels = Array.from({ length: stages }, () => {
    const root = gaussianMatrix(random, B, 3);
    return multiply(root, transpose(root));
  });
  return { losses: Float64Array.from({ length: B }, () => 0.01 + 2 * random()), kernels };
}

function bodyOf(
  { losses, kernels }: Problem,
  Values: typeof Float64Array | typeof Float32Array,
): Uint8Array<ArrayBuffer> {
  const B = losses.length;
  const packed = kernels.flatMap(({ data }) => [...packSymmetric(Float64Array.from(data), B)]);
  return encode([
    { name: 'losses', shape: [B], values: Values.from(losses) },
    { name: 'grams', shape: [kernels.length, (B * (B + 1)) / 2], values: Values.from(packed) },
  ]);
}

const optionsFor = (query: Record<string, string>): KernelSolveOptions => kernelSolveOptionsSchema.parse(query);

function atEdge(body: Uint8Array, options: KernelSolveOptions): Map<string, TensorValues> {
  const tensors = solveKernels(decodeSolve(body, readHeader(body), 'float64'), options);
  return new Map(tensors.map(({ name, values }) => [name, values]));
}

/** κ_t by plain elimination. */
function expectedCoefficients(
  { losses, kernels }: Problem,
  { learningRate, coupling, lossFloor, lossCeiling }: KernelSolveOptions,
): Matrix[] {
  const h = terminalWeights(losses, { floor: lossFloor, ceiling: lossCeiling });
  const terminal = diagonal(h.map((weight) => losses.length / weight));
  let rest = columnVector(h.map((weight) => 1 / weight));
  return kernels.map((N, t) => {
    const sum = (coupling === 'layerwise' ? [N] : kernels.slice(t)).reduce(
      (total, each) => add(total, scale(each, learningRate)),
      terminal,
    );
    const kappa = solve(sum, rest);
    if (coupling === 'gauss-newton-step') rest = subtract(rest, scale(multiply(N, kappa), learningRate));
    return kappa;
  });
}

function expectClose(actual: ArrayLike<number>, expected: ArrayLike<number>, tolerance: number): void {
  const largest = Math.max(...Array.from(expected, Math.abs));
  expect(actual.length).toBe(expected.length);
  for (let i = 0; i < actual.length; i++) expect(Math.abs(actual[i]! - expected[i]!)).toBeLessThan(tolerance * largest);
}

const sizes = { seed: fc.nat(1e6), B: fc.integer({ min: 1, max: 20 }), stages: fc.integer({ min: 1, max: 4 }) };
const couplings = fc.constantFrom('layerwise', 'value', 'gauss-newton-step');

describe('at the edge', () => {
  it('κ solves S κ = 1/h + s, as elimination does', () => {
    fc.assert(
      fc.property(
        fc.record({ ...sizes, coupling: couplings, eta: fc.double({ min: 0.001, max: 100, noNaN: true }) }),
        ({ seed, B, stages, coupling, eta }) => {
          const options = optionsFor({ coupling, learningRate: String(eta), lossFloor: '0.25', lossCeiling: '8' });
          const given = problem(seed, B, stages);
          const kappas = atEdge(bodyOf(given, Float64Array), options).get('coefficients')!;
          expectedCoefficients(given, options).forEach(({ data }, t) => {
            expectClose(kappas.subarray(t * B, (t + 1) * B), data, 1e-9);
          });
        },
      ),
      { seed: 1 },
    );
  });

  it('the factors are those of the same systems', () => {
    const given = problem(7, 9, 3);
    const options = optionsFor({ coupling: 'feedback', reply: 'factors' });
    const reply = atEdge(bodyOf(given, Float64Array), options);
    const kappas = expectedCoefficients(given, { ...options, coupling: 'value' });
    const size = 45;
    for (const [t, kappa] of kappas.entries()) {
      const L = unpackLower(reply.get('chol')!.subarray(t * size, (t + 1) * size), 9);
      const matrix = build(9, 9, (i, j) => L[i * 9 + j]!);
      expectClose(multiply(matrix, transpose(matrix), kappa).data, reply.get('target')!, 1e-10);
    }
  });

  it('answers F32 where the kernels are', () => {
    const [coefficients] = [...atEdge(bodyOf(problem(1, 3, 1), Float32Array), optionsFor({})).values()];
    expect(coefficients).toBeInstanceOf(Float32Array);
  });
});

describe.each(presentEngines())('on the worker’s engine %s', async (name) => {
  const engine = await oracleJudgedEngine(name);
  // Both from float32 kernels; what is compared is the computing.
  const tolerance = engine.precision === 'float64' ? 1e-10 : 1e-4;

  it.each([
    { coupling: 'layerwise', reply: 'coefficients' },
    { coupling: 'value', reply: 'coefficients' },
    { coupling: 'gauss-newton-step', reply: 'coefficients' },
    { coupling: 'feedback', reply: 'factors' },
  ])('$coupling, $reply: the same to rounding', (query) => {
    const live = engine.liveTensors;
    for (const [B, stages] of [
      [1, 1],
      [6, 3],
      [40, 2],
    ] as const) {
      const given = bodyOf(problem(B, B, stages), Float64Array);
      const expected = atEdge(given, optionsFor(query));
      const { body } = solveOnWorker(engine, given, optionsFor(query));
      const header = readHeader(body);
      expect(header.entries.map((entry) => entry.name).toSorted()).toEqual([...expected.keys()].toSorted());
      for (const entry of header.entries) {
        expectClose(readValues(body, header, entry), expected.get(entry.name)!, tolerance);
      }
    }
    expect(engine.liveTensors).toBe(live);
  });
});
