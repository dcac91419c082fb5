/** The regularised recursion keeps its digits in float32 where εS is large and ill conditioned. */
import { expect, it } from 'vitest';
import { valueRecursion } from '../../gpu-worker/optimizer/ddp/value-recursion.ts';
import type { Engine } from '../../gpu-worker/tensor/engine.ts';
import { loadEngine } from '../../gpu-worker/tensor/index.ts';
import { mulberry32 } from '../oracle/network.ts';

const BATCH = 32;
const INPUTS = 10;
const OUTPUTS = 4;

/** κ of the first of three stages with nearly equal samples and terminal weights from 0.5 to 100. */
function firstCoefficients(engine: Engine, learningRate: number, valueRegularization: number): Float64Array {
  const random = mulberry32(3);
  const noise = (): number => 2 * random() - 1;
  const stages = Array.from({ length: 3 }, () => {
    const common = Array.from({ length: INPUTS }, noise);
    const inputs = Float32Array.from({ length: BATCH * INPUTS }, (_, k) => common[k % INPUTS]! + 0.1 * noise());
    const outputs = Float32Array.from({ length: BATCH * OUTPUTS }, noise);
    const columns = {
      kind: 'outer' as const,
      input: engine.tensor(inputs, [BATCH, INPUTS]),
      output: engine.tensor(outputs, [BATCH, OUTPUTS]),
    };
    return { blocks: [{ columns, transformed: columns, weights: null, plainStep: null }], learningRate };
  });
  const h = engine.tensor(Float64Array.from({ length: BATCH }, (_, i) => (i % 2 === 0 ? 100 : 0.5)), [BATCH]); // prettier-ignore
  const [first] = valueRecursion(engine, stages, h, BATCH, {
    terminalCurvature: { kind: 'gradient', lossScale: null },
    coupling: 'value',
    batchCoupling: 'full',
    valueRegularization,
  });
  if (first?.kind !== 'full') throw new Error('no full system');
  return Float64Array.from(engine.read(engine.choleskySolve(engine.cholesky(first.S), first.target)));
}

it.each([
  [1, 1],
  [10, 1],
  [1, 10],
  [10, 10],
  [100, 10],
])('η = %d, ε = %d: float32 agrees with float64 to 1e-3', async (learningRate, epsilon) => {
  const exact = firstCoefficients(await loadEngine('reference'), learningRate, epsilon);
  const rounded = firstCoefficients(await loadEngine('wasm'), learningRate, epsilon);
  const size = Math.max(...exact.map(Math.abs));
  const error = Math.max(...exact.map((value, i) => Math.abs(value - rounded[i]!))) / size;
  expect(error).toBeLessThan(1e-3);
});
