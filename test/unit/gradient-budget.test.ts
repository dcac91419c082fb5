/** Explicit per-sample gradients are made for a range of outputs at a time, so that a wide layer takes no more memory than a narrow one. */
import * as tf from '@tensorflow/tfjs-core';
import { expect, it } from 'vitest';
import { gram, gramDiagonal, secondMoment } from '../../gpu-worker/optimizer/layers/per-sample-gradients.ts';
import type { Engine, Tensor } from '../../gpu-worker/tensor/engine.ts';
import { loadEngine } from '../../gpu-worker/tensor/index.ts';

const wasm = await loadEngine('wasm');
const [B, P, N] = [16, 1, 1024];
/** Outputs whose explicit gradients are as large as the budget, 64 MiB. */
const RANGE = 2 ** 26 / (4 * B * N);

/** The most bytes on the device while something is computed, beyond those before. */
function peakBytes(compute: (engine: Engine) => void): number {
  const before = tf.memory().numBytes;
  let peak = before;
  const watched =
    <Arguments extends readonly unknown[], Result>(operation: (...values: Arguments) => Result) =>
    (...values: Arguments): Result => {
      const result = operation(...values);
      peak = Math.max(peak, tf.memory().numBytes);
      return result;
    };
  const engine: Engine = {
    ...wasm,
    matMul: watched(wasm.matMul),
    square: watched(wasm.square),
    add: watched(wasm.add),
  };
  wasm.scope(() => {
    compute(engine);
  });
  return peak - before;
}

it.each([
  ['a tangent kernel', (engine: Engine, input: Tensor, output: Tensor) => gram(engine, { kind: 'positions', input, output }, null)],
  ['its diagonal', (engine: Engine, input: Tensor, output: Tensor) => gramDiagonal(engine, { kind: 'positions', input, output }, null)],
  ['the second moment', (engine: Engine, input: Tensor, output: Tensor) => {
    const weights = engine.tensor(new Float32Array(B).fill(1), [B]);
    return secondMoment(engine, { kind: 'positions', input, output }, weights, B);
  }],
] as const)('%s of four ranges takes the memory of two', (_, compute) => {
  const peak = (outputs: number): number =>
    peakBytes((engine) => {
      const filled = (width: number): Tensor =>
        engine.tensor(new Float32Array(B * P * width).fill(0.01), [B, P, width]);
      compute(engine, filled(N), filled(outputs));
    });
  // What grows with the outputs is the gradient that is given, and a result as large as the parameters.
  const given = 4 * (B * P + N) * 2 * RANGE;
  expect(peak(4 * RANGE) - peak(2 * RANGE)).toBeLessThanOrEqual(given);
}); // prettier-ignore
