/**
 * What stands around the step: learning-rate rules, groups, momentum, lookahead, decoupled weight decay and limits, against steps
 * that the oracle has judged.
 */
import { describe, expect, it } from 'vitest';
import { INITIAL_STATE, type OptimizerState } from '../../gpu-worker/optimizer/state.ts';
import type { StepResult } from '../../gpu-worker/optimizer/step.ts';
import { withLookahead } from '../../gpu-worker/optimizer/update/lookahead.ts';
import { presentEngines } from '../../gpu-worker/tensor/index.ts';
import { oracleJudgedEngine } from './engines.ts';
import { optimizerSchema } from '../../shared/optimizer.ts';
import {
  ddpStep as oracleStep,
  linearise,
  predictionJacobians,
  terminalValue,
  type Problem,
  type TerminalCurvature,
} from '../oracle/bellman.ts';
import {
  add,
  at,
  build,
  columnVector,
  multiply,
  scale,
  subtract,
  transpose,
  vec,
  type Matrix,
} from '../oracle/matrix.ts';
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
import {
  applyPolicies,
  changesOf,
  configurationFor,
  policiesOf,
  relativeError,
  restored,
  snapshot,
  stepOn,
  type OptimizerInput,
  TOLERANCE,
} from './drive.ts';

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
  const engine = await oracleJudgedEngine(name);
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
    const warmUpSteps = 2;
    const rule: OptimizerInput = { learningRate: { kind: 'leverage', value: 3, decay: 0.5, warmUpSteps } };

    it('takes the step of the constant η it reports', () => {
      for (const [n, { result, changes }] of run(rule).entries()) {
        expectEqual(changes, run(constant(result.learningRate))[n]!.changes);
      }
    });

    it('is c, warmed up, over the bias-corrected average of mean h·Σ‖a‖²‖g‖²/B', () => {
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
        const value = 3 * Math.min(1, (n + 1) / (warmUpSteps + 1));
        expect(Math.abs(result.learningRate / (value / average) - 1)).toBeLessThan(tolerance);
      }
    });
  });

  it('the leverage rule refuses a batch whose leverage overflows, though each of its kernels is finite', () => {
    const { network: single, batch } = randomProblem({
      widths: [4, 3],
      activation: 'linear',
      loss: 'softmax-cross-entropy',
      batchSize: 24,
      seed: 14,
    });
    const optimizer: OptimizerInput = {
      coupling: 'value',
      batchCoupling: 'diagonal',
      metric: { kind: 'identity' },
      terminalCurvature: { kind: 'gradient', lossScale: null },
    };
    // A gradient has a norm of at most √2, four inputs one of 2 max|x|: a kernel is no larger than eight tenths of the largest number.
    const largest = engine.precision === 'float64' ? Number.MAX_VALUE : 3.4e38;
    const length = Math.max(...[...batch.inputs.data].map(Math.abs));
    const huge = { ...batch, inputs: scale(batch.inputs, Math.sqrt(largest / 10) / length) };
    const step = (learningRate: OptimizerInput['learningRate']): StepResult =>
      stepOn(engine, configurationFor(single, { ...optimizer, learningRate }), INITIAL_STATE, single, huge);
    step({ kind: 'constant', value: 1e-30 });
    expect(() => step({ kind: 'leverage', value: 3 })).toThrow(
      expect.objectContaining({ code: 'numerical_failure', message: expect.stringContaining('leverage') as string }),
    );
  });

  describe('the Levenberg–Marquardt rule', () => {
    const rule = { kind: 'levenberg-marquardt', initial: 20, every: 1, factor: 2, minimum: 5, maximum: 40 } as const;
    const random = mulberry32(13);
    const fresh = Array.from({ length: 12 }, () => randomBatch(random, WIDTHS, 'softmax-cross-entropy', 6));
    const lossesOf = (net: Network, { inputs, objective }: Batch): Float64Array =>
      losses(prediction(forward(net, inputs)), objective);
    const mean = (values: Float64Array): number => values.reduce((sum, value) => sum + value, 0) / values.length;

    /** V_xᵀδX + ½ δXᵀV_xxδX with δX = 𝒥δu: what the model predicts for the mean loss. */
    function model(net: Network, batch: Batch, curvature: TerminalCurvature, changes: readonly Matrix[]): number {
      const trajectory = forward(net, batch.inputs);
      const { Vx, Vxx } = terminalValue(prediction(trajectory), batch, curvature);
      const { controls } = predictionJacobians(linearise(net, trajectory));
      const deltaX = controls.map((J, t) => multiply(J, vec(changes[t]!))).reduce((sum, term) => add(sum, term));
      const linear = at(multiply(transpose(Vx), deltaX), 0, 0);
      return linear + at(multiply(transpose(deltaX), Vxx, deltaX), 0, 0) / 2;
    }

    const scaled: TerminalCurvature = { kind: 'gradient', lossScale: { floor: 0.5, ceiling: 100 } };
    const gaussNewton: OptimizerInput = { terminalCurvature: { kind: 'gauss-newton', columns: 3 } };
    const cases: readonly (readonly [string, OptimizerInput, TerminalCurvature])[] = [
      ['value', { coupling: 'value' }, scaled],
      ['gauss-newton-step', { coupling: 'gauss-newton-step' }, scaled],
      ['feedback, predicted linearly', { coupling: 'feedback' }, scaled],
      ['value, gauss-newton', { coupling: 'value', ...gaussNewton }, { kind: 'gauss-newton' }],
      ['gauss-newton-step, gauss-newton', { coupling: 'gauss-newton-step', ...gaussNewton }, { kind: 'gauss-newton' }],
      ['momentum and a limit', { coupling: 'value', momentum: 0.8, maximumNorm: 3 }, scaled],
      ['decoupled weight decay', { coupling: 'value', weightDecay: { kind: 'decoupled', rate: 0.05 } }, scaled],
      ['decoupled weight decay with feedback', { coupling: 'feedback', weightDecay: { kind: 'decoupled', rate: 0.05 } }, scaled], // prettier-ignore
      ['weight decay as a running cost', { coupling: 'value', weightDecay: { kind: 'running-cost', rate: 0.05 } }, scaled],
    ]; // prettier-ignore

    it.each(cases)('moves η as the next batch says: %s', (_, options, curvature) => {
      const configuration = configurationFor(network, { metric: { kind: 'identity' }, learningRate: rule, ...options });
      let state = INITIAL_STATE;
      let net = network;
      let eta: number = rule.initial;
      let last: { net: Network; predicted: number } | null = null;
      const moves = new Set<number>();
      for (const [n, batch] of fresh.entries()) {
        // Every third step brings no losses, and leaves η as it is.
        const judged: typeof last = n % 3 === 2 ? null : last;
        const previous = judged === null ? null : lossesOf(judged.net, batch);
        if (judged !== null && previous !== null) {
          const ratio = (mean(lossesOf(net, batch)) - mean(previous)) / judged.predicted;
          const factor = judged.predicted >= 0 ? 1 : ratio > 0.75 ? 2 : ratio < 0.25 ? 0.5 : 1;
          moves.add(factor);
          eta = Math.min(rule.maximum, Math.max(rule.minimum, eta * factor));
        }
        const result = stepOn(engine, configuration, state, net, batch, undefined, previous);
        expect(result.learningRate).toBe(eta);
        ({ state } = result);
        let applied: readonly Matrix[];
        let predicted: readonly Matrix[];
        if (result.reply.kind === 'policy') {
          const policies = policiesOf(engine, configuration, result);
          applied = applyPolicies(policies, net, batch, 'network');
          // A decay beside the policies is part of the change, but no layer's prediction of the others' contains it.
          const bare = configurationFor(network, { ...configuration.optimizer, learningRate: { kind: 'constant', value: eta }, weightDecay: null }); // prettier-ignore
          const plain = applyPolicies(policiesOf(engine, bare, stepOn(engine, bare, INITIAL_STATE, net, batch)), net, batch, 'linearised'); // prettier-ignore
          const { weightDecay } = configuration.optimizer;
          predicted = plain.map((change, t) =>
            build(change.rows, change.cols, (i, j) => {
              const decays = i < change.rows - 1 && weightDecay !== null;
              return at(change, i, j) - (decays ? weightDecay.rate * at(net[t]!.weights, i, j) : 0);
            }),
          );
        } else {
          applied = changesOf(engine, result, net);
          predicted = applied;
        }
        last = { net, predicted: model(net, batch, curvature, predicted) };
        expect(Math.abs(engine.read(state.predictedChange!)[0]! / last.predicted - 1)).toBeLessThan(50 * tolerance);
        net = net.map((stage, t) => ({ ...stage, weights: add(stage.weights, applied[t]!) }));
      }
      expect(moves.size).toBeGreaterThan(1);
    });

    it('refuses losses that come with the first step, by name', () => {
      const configuration = configurationFor(network, { learningRate: rule, coupling: 'value' });
      const batch = fresh[0]!;
      expect(() =>
        stepOn(engine, configuration, INITIAL_STATE, network, batch, undefined, lossesOf(network, batch)),
      ).toThrow(
        expect.objectContaining({
          code: 'unknown_tensor',
          details: expect.objectContaining({ param: 'previous_losses' }) as object,
        }),
      );
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

  describe('lookahead', () => {
    const options: OptimizerInput = { ...constant(2), momentum: 0.7, weightDecay: { kind: 'decoupled', rate: 0.1 } };
    const fast = run(options).map(({ changes }) => changes);

    it.each([
      { steps: 1, interpolation: 0.3 },
      { steps: 2, interpolation: 0.5 },
      { steps: 3, interpolation: 0.8 },
      { steps: 5, interpolation: 0.5 },
    ])(
      'every $steps steps the parameters go back to φ + $interpolation(θ − φ), with momentum and decay',
      (lookahead) => {
        const { steps, interpolation } = lookahead;
        let slow = network.map(({ weights }) => weights);
        let now = slow;
        let after = slow;
        for (const [n, { changes, result }] of run({ ...options, lookahead }).entries()) {
          now = now.map((weights, t) => add(weights, fast[n]![t]!));
          if ((n + 1) % steps === 0) {
            slow = slow.map((weights, t) => add(weights, scale(subtract(now[t]!, weights), interpolation)));
            now = slow;
          }
          after = after.map((weights, t) => add(weights, changes[t]!));
          expectEqual(after, now);
          expect(result.state.displacement === null).toBe((n + 1) % steps === 0);
        }
      },
    );

    it('by hand: changes of 1, 2, 3 and 4 with k = 2 and α = 1/4 become 1, 2 − ¾·3, 3 and 4 − ¾·7', () => {
      const lookahead = optimizerSchema.parse({ lookahead: { steps: 2, interpolation: 0.25 } }).lookahead!;
      let displacement: OptimizerState['displacement'] = null;
      const applied = [1, 2, 3, 4].map((change, step) => {
        const next = withLookahead(engine, lookahead, displacement, [[engine.tensor([change], [1, 1])]], step);
        ({ displacement } = next);
        return engine.read(next.changes[0]![0]!)[0];
      });
      expect(applied).toEqual([1, -0.25, 3, -1.25]);
    });

    it('with α = 1 changes nothing, bit for bit', () => {
      const same = run({ ...options, lookahead: { steps: 2, interpolation: 1 } }).map(({ changes }) => changes);
      expect(same).toEqual(fast);
    });

    it('a copied state continues bit for bit', () => {
      const input: OptimizerInput = { coupling: 'value', ...options, lookahead: { steps: 3 } };
      const configuration = configurationFor(network, input);
      let straight = INITIAL_STATE;
      let copied = INITIAL_STATE;
      for (const batch of [...batches, ...batches]) {
        const one = stepOn(engine, configuration, straight, network, batch);
        const other = stepOn(engine, configuration, copied, network, batch);
        expect(changesOf(engine, other, network)).toEqual(changesOf(engine, one, network));
        straight = one.state;
        copied = restored(engine, snapshot(engine, other.state));
        expect(snapshot(engine, copied)).toBe(snapshot(engine, straight));
      }
    });
  });

  it('decoupled weight decay takes its share of the parameters, by the schedule, beside momentum and R', () => {
    const schedule: OptimizerInput = { learningRate: { kind: 'step', value: 4, factor: 0.5, every: 1 }, momentum: 0.7 };
    const groups = [{ pattern: '*1', weightDecayFactor: 3 }];
    const without = run({ ...schedule, groups });
    for (const biases of [false, true]) {
      const weightDecay = { kind: 'decoupled', rate: 0.1, biases } as const;
      for (const [n, { changes }] of run({ ...schedule, groups, weightDecay }).entries()) {
        const decayed = without[n]!.changes.map((change, t) => {
          const { weights } = network[t]!;
          const share = 0.1 * 0.5 ** n * (t === 1 ? 3 : 1);
          return build(change.rows, change.cols, (i, j) => {
            const decays = biases || i < weights.rows - 1;
            return at(change, i, j) - (decays ? share * at(weights, i, j) : 0);
          });
        });
        expectEqual(changes, decayed);
      }
    }
    const full = { kind: 'decoupled', rate: 0.1 } as const;
    const weight = ({ data, rows, cols }: Matrix) => build(rows - 1, cols, (i, j) => data[i * cols + j]!);
    // A warm-up of what is no schedule has no say.
    const [leverage] = run({ learningRate: { kind: 'leverage', value: 3 }, weightDecay: full });
    const [bare] = run({ learningRate: { kind: 'leverage', value: 3 } });
    for (const [t, change] of leverage!.changes.entries()) {
      const decay = scale(weight(network[t]!.weights), -0.1);
      expect(relativeError(weight(change), add(weight(bare!.changes[t]!), decay))).toBeLessThan(tolerance);
    }
  });

  it('decoupled weight decay with a policy: the pass takes it as it goes, and later layers react to it', () => {
    const rate = 0.2;
    const batch = batches[0]!;
    const optimizer: OptimizerInput = {
      ...constant(2),
      metric: { kind: 'identity' },
      terminalCurvature: { kind: 'gradient', lossScale: null },
      coupling: 'feedback',
      weightDecay: { kind: 'decoupled', rate },
    };
    const configuration = configurationFor(network, optimizer);
    const policies = policiesOf(engine, configuration, stepOn(engine, configuration, INITIAL_STATE, network, batch));
    const actual = applyPolicies(policies, network, batch, 'network');
    const problem: Problem = {
      network,
      batch,
      curvature: { kind: 'gradient' },
      controlMetrics: network.map(({ weights }) => identityMetric(weights.data.length, 2)),
      decoupledDecay: network.map(({ weights: { rows, cols, data } }) =>
        columnVector(data.map((value, index) => (index < (rows - 1) * cols ? rate * value : 0))),
      ),
    };
    expectEqual(actual, oracleStep(problem, 'feedback').deltaU);
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
