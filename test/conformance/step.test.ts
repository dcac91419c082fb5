/** The product's step against the dense float64 oracle: engine × metric × coupling × terminal curvature, on random small nets. */
import { describe, expect, it } from 'vitest';
import { INITIAL_STATE } from '../../gpu-worker/optimizer/state.ts';
import type { StepResult } from '../../gpu-worker/optimizer/step.ts';
import { presentEngines } from '../../gpu-worker/tensor/index.ts';
import { oracleJudgedEngine } from './engines.ts';
import {
  ddpStep as oracleStep,
  denseGaussNewtonStep,
  preconditionedStep,
  terminalWeights,
  type LossScale,
  type Problem,
} from '../oracle/bellman.ts';
import { build, type Matrix } from '../oracle/matrix.ts';
import { identityMetric, kroneckerMetric, type LayerStatistics } from '../oracle/metric.ts';
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
  type RandomProblem,
} from '../oracle/network.ts';
import {
  applyPolicies,
  changesOf,
  configurationFor,
  policiesOf,
  relativeError,
  stepOn,
  type OptimizerInput,
  TOLERANCE,
} from './drive.ts';

const KRONECKER = { damping: 0.03, decay: 0.8, eta: 2 };
const LOSS_SCALES: readonly (LossScale | null)[] = [null, { floor: 0.5, ceiling: 100 }];
const NETS: readonly Omit<RandomProblem, 'seed'>[] = [
  { widths: [5, 3], activation: 'linear', loss: 'softmax-cross-entropy', batchSize: 6 },
  { widths: [4, 5, 3], activation: 'tanh', loss: 'softmax-cross-entropy', batchSize: 7 },
  { widths: [6, 5, 4, 3], activation: 'relu', loss: 'softmax-cross-entropy', batchSize: 8 },
  { widths: [3, 4, 4, 3, 2], activation: 'sigmoid', loss: 'mse', batchSize: 5 },
  { widths: [4, 6, 2], activation: 'tanh', loss: 'mse', batchSize: 1 },
];

/** A network, and several batches that the step sees one after the other. */
function scenario(
  net: Omit<RandomProblem, 'seed'>,
  seed: number,
  batches: number,
): { network: Network; batches: Batch[] } {
  const { network, batch } = randomProblem({ ...net, seed });
  const random = mulberry32(seed + 1000);
  const more = Array.from({ length: batches - 1 }, () => randomBatch(random, net.widths, net.loss, net.batchSize));
  return { network, batches: [batch, ...more] };
}

function statistics(network: Network, batch: Batch, lossScale: LossScale | null): LayerStatistics[] {
  const trajectory = forward(network, batch.inputs);
  const { inputs, outputGradients } = backpropagate(network, trajectory, batch.objective);
  const h = terminalWeights(losses(prediction(trajectory), batch.objective), lossScale ?? undefined);
  return inputs.map((x, t) => ({ inputs: x, outputGradients: outputGradients[t]!, terminalWeights: h }));
}

/** The oracle's problem on the last batch, with a metric averaged over the first `averaged` batches. */
function oracleProblem(
  network: Network,
  batches: readonly Batch[],
  metric: 'identity' | 'kronecker',
  lossScale: LossScale | null,
  averaged = batches.length,
): Problem {
  const perBatch = batches.slice(0, averaged).map((batch) => statistics(network, batch, lossScale));
  return {
    network,
    batch: batches.at(-1)!,
    curvature: lossScale === null ? { kind: 'gradient' } : { kind: 'gradient', lossScale },
    controlMetrics: network.map(({ weights }, t) =>
      metric === 'identity'
        ? identityMetric(weights.rows * weights.cols, KRONECKER.eta)
        : kroneckerMetric(
            perBatch.map((layers) => layers[t]!),
            KRONECKER,
          ),
    ),
  };
}

function optimizerFor(
  metric: 'identity' | 'kronecker',
  coupling: 'layerwise' | 'value' | 'feedback',
  lossScale: LossScale | null,
  refreshEvery = 1,
): OptimizerInput {
  const { damping, decay, eta } = KRONECKER;
  return {
    learningRate: { kind: 'constant', value: eta },
    metric: metric === 'identity' ? { kind: 'identity' } : { kind: 'kronecker', damping, decay, refreshEvery },
    terminalCurvature: { kind: 'gradient', lossScale },
    coupling,
  };
}

describe.each(presentEngines())('engine %s', async (name) => {
  const engine = await oracleJudgedEngine(name);
  const tolerance = TOLERANCE[engine.precision];

  /** Steps through all batches; the last step's result. */
  function run(
    network: Network,
    batches: readonly Batch[],
    optimizer: OptimizerInput,
    reply: 'auto' | 'policy' = 'auto',
  ) {
    const configuration = configurationFor(network, optimizer, reply);
    let result: StepResult | undefined;
    for (const batch of batches) {
      result = stepOn(engine, configuration, result?.state ?? INITIAL_STATE, network, batch);
    }
    return { configuration, result: result! };
  }

  function expectEqual(actual: readonly Matrix[], expected: readonly Matrix[]): void {
    expect(actual).toHaveLength(expected.length);
    for (const [t, change] of actual.entries()) expect(relativeError(change, expected[t]!)).toBeLessThan(tolerance);
  }

  const cases = NETS.flatMap((net, index) =>
    LOSS_SCALES.flatMap((lossScale) =>
      (['identity', 'kronecker'] as const).map((metric) => ({
        net,
        seed: 7 + index,
        lossScale,
        metric,
        title: `${metric}, ${lossScale === null ? 'h = 1' : 'h by the loss'}, ${net.activation} ${net.widths.join('-')}, ${net.loss}, B = ${String(net.batchSize)}`,
      })),
    ),
  );

  describe.each(cases)('$title', ({ net, seed, lossScale, metric }) => {
    const { network, batches } = scenario(net, seed, 3);
    const problem = oracleProblem(network, batches, metric, lossScale);

    it.each(['layerwise', 'value'] as const)('%s: the update is the oracle’s', (coupling) => {
      const { result } = run(network, batches, optimizerFor(metric, coupling, lossScale));
      expectEqual(changesOf(engine, result, network), oracleStep(problem, coupling).deltaU);
    });

    it('layerwise as a policy: without a predicted change it is the update', () => {
      const { configuration, result } = run(network, batches, optimizerFor(metric, 'layerwise', lossScale), 'policy');
      const [first] = policiesOf(engine, configuration, result);
      const expected = oracleStep(problem, 'layerwise').deltaU[0]!;
      const { weight, bias } = first!.change(null);
      const actual = build(expected.rows, expected.cols, (i, j) =>
        i < expected.rows - 1 ? weight![i * expected.cols + j]! : bias![j]!,
      );
      expect(relativeError(actual, expected)).toBeLessThan(tolerance);
    });

    it('feedback: the policy, applied in the network’s second forward pass, is the oracle’s', () => {
      const { configuration, result } = run(network, batches, optimizerFor(metric, 'feedback', lossScale));
      const policies = policiesOf(engine, configuration, result);
      expectEqual(applyPolicies(policies, network, batches.at(-1)!, 'network'), oracleStep(problem, 'feedback').deltaU);
    });

    it('feedback on the linearised network lands on the dense damped Gauss–Newton step over all layers', () => {
      const { configuration, result } = run(network, batches, optimizerFor(metric, 'feedback', lossScale));
      const policies = policiesOf(engine, configuration, result);
      expectEqual(applyPolicies(policies, network, batches.at(-1)!, 'linearised'), denseGaussNewtonStep(problem));
    });
  });

  it('uses the inverses of the last refresh between two refreshes', () => {
    const net = NETS[1]!;
    const { network, batches } = scenario(net, 31, 4);
    const { result } = run(network, batches, optimizerFor('kronecker', 'value', null, 3));
    expect(result.refreshed).toBe(true);
    const beforeRefresh = run(network, batches.slice(0, 3), optimizerFor('kronecker', 'value', null, 3));
    expect(beforeRefresh.result.refreshed).toBe(false);
    const problem = oracleProblem(network, batches.slice(0, 3), 'kronecker', null, 1);
    expectEqual(changesOf(engine, beforeRefresh.result, network), oracleStep(problem, 'value').deltaU);
  });

  it('without Q_ux, as η → 0, it is the plain preconditioned step', () => {
    const { network, batches } = scenario(NETS[2]!, 5, 1);
    const eta = 1e-6;
    const optimizer: OptimizerInput = {
      learningRate: { kind: 'constant', value: eta },
      metric: { kind: 'identity' },
      terminalCurvature: { kind: 'gradient', lossScale: null },
      coupling: 'layerwise',
    };
    const problem: Problem = {
      ...oracleProblem(network, batches, 'identity', null),
      controlMetrics: network.map(({ weights }) => identityMetric(weights.rows * weights.cols, eta)),
    };
    const { result } = run(network, batches, optimizer);
    const expected = preconditionedStep(problem);
    // The closed form differs from it by a term of the order η·N/B.
    for (const [t, change] of changesOf(engine, result, network).entries()) {
      expect(relativeError(change, expected[t]!)).toBeLessThan(Math.max(tolerance, 1e-4));
    }
  });

  it('linear-quadratic case: one undamped step lands on the dense optimum', () => {
    // One affine stage, scalar output, squared error: with h = 1/(2φ) unclamped, h φ_x φ_xᵀ is the exact Hessian. The problem is
    // overdetermined (12 samples, 4 parameters), so that the optimum is unique and the step must find it in least squares.
    const { network, batches } = scenario({ widths: [3, 1], activation: 'linear', loss: 'mse', batchSize: 12 }, 3, 1);
    const batch = batches[0]!;
    const optimizer: OptimizerInput = {
      learningRate: { kind: 'constant', value: engine.precision === 'float64' ? 1e6 : 1e3 },
      metric: { kind: 'identity' },
      terminalCurvature: { kind: 'gradient', lossScale: { floor: 1e-12, ceiling: 1e6 } },
      coupling: 'feedback',
    };
    const { configuration, result } = run(network, batches, optimizer);
    const changes = applyPolicies(policiesOf(engine, configuration, result), network, batch, 'network');
    const optimum = denseGaussNewtonStep({
      network,
      batch,
      curvature: { kind: 'gauss-newton' },
      controlMetrics: [identityMetric(4, 1e12)],
    });
    expect(relativeError(changes[0]!, optimum[0]!)).toBeLessThan(engine.precision === 'float64' ? 1e-4 : 2e-2);
  });
});
