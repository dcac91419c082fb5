/** What stands around the step: learning-rate rules, groups, momentum and limits, against steps that the oracle has judged. */
import { describe, expect, it } from 'vitest';
import { INITIAL_STATE } from '../../gpu-worker/optimizer/state.ts';
import type { StepResult } from '../../gpu-worker/optimizer/step.ts';
import { loadEngine, presentEngines } from '../../gpu-worker/tensor/index.ts';
import { ddpStep as oracleStep, type Problem } from '../oracle/bellman.ts';
import { add, multiply, scale, transpose, type Matrix } from '../oracle/matrix.ts';
import { identityMetric } from '../oracle/metric.ts';
import {
  backpropagate,
  forward,
  losses,
  mulberry32,
  prediction,
  randomBatch,
  randomProblem,
  type Batch,
  type Network,
} from '../oracle/network.ts';
import { changesOf, configurationFor, relativeError, stepOn, type OptimizerInput, TOLERANCE } from './drive.ts';

const WIDTHS = [4, 5, 3];

function scenario(): { network: Network; batches: Batch[] } {
  const { network, batch } = randomProblem({
    widths: WIDTHS,
    activation: 'tanh',
    loss: 'softmax-cross-entropy',
    batchSize: 6,
    seed: 11,
  });
  const random = mulberry32(12);
  return { network, batches: [batch, ...[1, 2, 3].map(() => randomBatch(random, WIDTHS, 'softmax-cross-entropy', 6))] };
}

const norm = (changes: readonly Matrix[]): number => Math.hypot(...changes.flatMap(({ data }) => [...data]));

describe.each(presentEngines())('engine %s', async (name) => {
  const engine = await loadEngine(name);
  const tolerance = TOLERANCE[engine.precision];
  const { network, batches } = scenario();

  /** The results of one step per batch. */
  function run(optimizer: OptimizerInput): { result: StepResult; changes: Matrix[] }[] {
    const configuration = configurationFor(network, { coupling: 'value', metric: { kind: 'identity' }, ...optimizer });
    let state = INITIAL_STATE;
    return batches.map((batch) => {
      const result = stepOn(engine, configuration, state, network, batch);
      state = result.state;
      return { result, changes: changesOf(engine, result, network) };
    });
  }

  function expectEqual(actual: readonly Matrix[], expected: readonly Matrix[]): void {
    for (const [t, change] of expected.entries()) expect(relativeError(actual[t]!, change)).toBeLessThan(tolerance);
  }

  const constant = (value: number): OptimizerInput => ({ learningRate: { kind: 'constant', value } });

  it('a schedule gives every step the η it states', () => {
    const scheduled = run({ learningRate: { kind: 'step', value: 4, factor: 0.5, every: 1 } });
    for (const [n, { result, changes }] of scheduled.entries()) {
      expect(result.learningRate).toBeCloseTo(4 * 0.5 ** n, 12);
      expectEqual(changes, run(constant(4 * 0.5 ** n))[n]!.changes);
    }
  });

  it('a group’s factor is an η of its own for its layers: the oracle with another R', () => {
    const problem: Problem = {
      network,
      batch: batches[0]!,
      curvature: { kind: 'gradient' },
      controlMetrics: network.map(({ weights }, t) => identityMetric(weights.rows * weights.cols, t === 1 ? 2 * 7 : 2)),
    };
    const [first] = run({
      ...constant(2),
      terminalCurvature: { kind: 'gradient', lossScale: null },
      groups: [{ pattern: '*1', learningRateFactor: 7 }],
    });
    expectEqual(first!.changes, oracleStep(problem, 'value').deltaU);
  });

  describe('the leverage rule', () => {
    const rule: OptimizerInput = { learningRate: { kind: 'leverage', value: 3, decay: 0.5 } };

    it('takes the step of the constant η it reports', () => {
      for (const [n, { result, changes }] of run(rule).entries()) {
        expectEqual(changes, run(constant(result.learningRate))[n]!.changes);
      }
    });

    it('is c over the bias-corrected average of mean h·Σ‖a‖²‖g‖²/B', () => {
      const leverages = batches.map((batch) => {
        const trajectory = forward(network, batch.inputs);
        const { inputs, outputGradients } = backpropagate(network, trajectory, batch.objective);
        const phi = losses(prediction(trajectory), batch.objective);
        const h = phi.map((loss) => Math.min(100, Math.max(0.5, 1 / (2 * loss))));
        const square = (matrix: Matrix, i: number): number =>
          multiply(matrix, transpose(matrix)).data[i * matrix.rows + i]!;
        return (
          h.reduce((sum, weight, i) => {
            const kernel = inputs.reduce(
              (total, x, t) => total + (square(x, i) + 1) * square(outputGradients[t]!, i),
              0,
            );
            return sum + weight * kernel;
          }, 0) /
          (h.length * h.length)
        );
      });
      const results = run(rule);
      for (const [n, { result }] of results.entries()) {
        const weights = leverages.slice(0, n + 1).map((_, k) => 0.5 ** (n - k));
        const average =
          weights.reduce((sum, weight, k) => sum + weight * leverages[k]!, 0) /
          weights.reduce((sum, weight) => sum + weight, 0);
        expect(Math.abs(result.learningRate / (3 / average) - 1)).toBeLessThan(tolerance);
      }
    });
  });

  it('momentum adds a share of the last velocity', () => {
    const plain = run(constant(2)).map(({ changes }) => changes);
    let velocity: Matrix[] | null = null;
    for (const [n, { changes }] of run({ ...constant(2), momentum: 0.7 }).entries()) {
      const last: Matrix[] | null = velocity;
      velocity = plain[n]!.map((change, t) => (last === null ? change : add(scale(last[t]!, 0.7), change)));
      expectEqual(changes, velocity);
    }
  });

  it('maximumNorm scales all layers alike, and leaves a shorter update alone', () => {
    const { changes } = run(constant(2))[0]!;
    const limit = norm(changes) / 3;
    expectEqual(run({ ...constant(2), maximumNorm: limit })[0]!.changes, changes.map((change) => scale(change, 1 / 3))); // prettier-ignore
    expectEqual(run({ ...constant(2), maximumNorm: 4 * limit })[0]!.changes, changes);
  });

  it('maximumPredictedDecrease limits what the update predicts, to first order', () => {
    const batch = batches[0]!;
    const trajectory = forward(network, batch.inputs);
    const { inputs, outputGradients } = backpropagate(network, trajectory, batch.objective);
    const phi = losses(prediction(trajectory), batch.objective);
    const loss = phi.reduce((sum, value) => sum + value, 0) / phi.length;
    const predicted = (changes: readonly Matrix[]): number =>
      changes.reduce((sum, { data, rows, cols }, t) => {
        for (let i = 0; i < phi.length; i++) {
          for (let row = 0; row < rows; row++) {
            const a = row < rows - 1 ? inputs[t]!.data[i * (rows - 1) + row]! : 1;
            for (let j = 0; j < cols; j++)
              sum += (a * outputGradients[t]!.data[i * cols + j]! * data[row * cols + j]!) / phi.length;
          }
        }
        return sum;
      }, 0);
    const { changes } = run(constant(50))[0]!;
    const share = -predicted(changes) / loss;
    expect(share).toBeGreaterThan(0);
    const limited = run({ ...constant(50), maximumPredictedDecrease: share / 4 })[0]!.changes;
    expectEqual(limited, changes.map((change) => scale(change, 1 / 4))); // prettier-ignore
    expect(Math.abs(-predicted(limited) / loss / (share / 4) - 1)).toBeLessThan(10 * tolerance);
    expectEqual(run({ ...constant(50), maximumPredictedDecrease: 2 * share })[0]!.changes, changes);
  });
});
