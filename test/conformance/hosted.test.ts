/**
 * The hosted step. On dense nets against the dense oracle, second forward pass included; on every other model against a dense
 * Gauss–Newton solve with a Jacobian from finite differences, and against its own linearisation.
 */
import { describe, expect, it } from 'vitest';
import type { Weights } from '../../gpu-worker/model/parameters.ts';
import { dropoutStream } from '../../gpu-worker/model/streams.ts';
import { forward as modelForward, type Mode } from '../../gpu-worker/model/trajectory.ts';
import { expandLoss } from '../../gpu-worker/optimizer/losses/loss.ts';
import {
  hostedConfiguration,
  hostedStep,
  initialHostedState,
  type HostedBatch,
  type HostedConfiguration,
  type HostedState,
} from '../../gpu-worker/session/hosted-step.ts';
import { tensorsIn, type Engine } from '../../gpu-worker/tensor/engine.ts';
import { loadEngine, presentEngines } from '../../gpu-worker/tensor/index.ts';
import { hostedDefinitionSchema, type HostedDefinitionInput } from '../../shared/hosted.ts';
import type { LossInput } from '../../shared/loss.ts';
import { gaussian, seededRandom } from '../../shared/random.ts';
import { PARAMETER_NAMES } from '../../shared/step.ts';
import { MODELS } from '../model/models.ts';
import {
  ddpStep as oracleStep,
  denseGaussNewtonStep,
  terminalWeights,
  type LossScale,
  type Problem,
  type TerminalCurvature,
} from '../oracle/bellman.ts';
import {
  add,
  build,
  columnVector,
  identity,
  multiply,
  scale,
  solve,
  subtract,
  transpose,
  type Matrix,
} from '../oracle/matrix.ts';
import { identityMetric, kroneckerMetric } from '../oracle/metric.ts';
import {
  backpropagate,
  forward,
  losses,
  prediction,
  randomProblem,
  type Batch,
  type Network,
  type RandomProblem,
} from '../oracle/network.ts';
import { asMatrix, relativeError, TOLERANCE } from './drive.ts';

type OptimizerInput = NonNullable<HostedDefinitionInput['optimizer']>;

const KRONECKER = { damping: 0.03, decay: 0.8, eta: 2 };
const NETS: readonly Omit<RandomProblem, 'seed'>[] = [
  { widths: [5, 3], activation: 'linear', loss: 'softmax-cross-entropy', batchSize: 6 },
  { widths: [4, 5, 3], activation: 'linear', loss: 'mse', batchSize: 6 },
  { widths: [4, 5, 3], activation: 'tanh', loss: 'softmax-cross-entropy', batchSize: 7 },
  { widths: [6, 5, 4, 3], activation: 'relu', loss: 'softmax-cross-entropy', batchSize: 8 },
  { widths: [3, 4, 4, 3, 2], activation: 'sigmoid', loss: 'mse', batchSize: 5 },
  { widths: [4, 6, 2], activation: 'tanh', loss: 'mse', batchSize: 1 },
];
const CURVATURES: readonly TerminalCurvature[] = [
  { kind: 'gradient' },
  { kind: 'gradient', lossScale: { floor: 0.5, ceiling: 100 } },
  { kind: 'gauss-newton' },
];

function definitionFor(net: Omit<RandomProblem, 'seed'>, optimizer: OptimizerInput): HostedDefinitionInput {
  const { activation } = net;
  const layers = net.widths.slice(1).flatMap((outputs, t) => {
    const dense = { kind: 'dense', name: `layer${t}`, outputs } as const;
    const isLast = t === net.widths.length - 2;
    return isLast || activation === 'linear' ? [dense] : [dense, { kind: activation } as const];
  });
  return { model: { input: [net.widths[0]!], layers }, loss: { kind: net.loss }, optimizer };
}

function weightsOf(engine: Engine, network: Network): Weights {
  return network.map(({ weights: { rows, cols, data } }) => ({
    weight: engine.tensor(data.slice(0, (rows - 1) * cols), [rows - 1, cols]),
    bias: engine.tensor(data.slice((rows - 1) * cols), [cols]),
  }));
}

function truthOf({ objective }: Batch) {
  const values = objective.kind === 'mse' ? objective.targets.data : objective.labels;
  return { values, sampleWeights: null };
}

const mean = (values: ArrayLike<number>): number =>
  Array.from(values).reduce((sum, value) => sum + value, 0) / values.length;

describe.each(presentEngines())('dense nets on the %s engine, against the oracle', async (engineName) => {
  const engine = await loadEngine(engineName);
  const tolerance = TOLERANCE[engine.precision];

  function check(
    net: Omit<RandomProblem, 'seed'>,
    metric: 'identity' | 'kronecker',
    curvature: TerminalCurvature,
    coupling: 'layerwise' | 'value' | 'feedback' | 'gauss-newton-step',
  ): void {
    const { network, batch } = randomProblem({ ...net, seed: 17 });
    const trajectory = forward(network, batch.inputs);
    const phi = losses(prediction(trajectory), batch.objective);
    const lossScale: LossScale | null = (curvature.kind === 'gradient' ? curvature.lossScale : null) ?? null;
    const h = terminalWeights(phi, lossScale ?? undefined);
    const { inputs, outputGradients } = backpropagate(network, trajectory, batch.objective);
    const problem: Problem = {
      network,
      batch,
      curvature,
      controlMetrics: network.map(({ weights }, t) =>
        metric === 'identity'
          ? identityMetric(weights.rows * weights.cols, KRONECKER.eta)
          : kroneckerMetric(
              [{ inputs: inputs[t]!, outputGradients: outputGradients[t]!, terminalWeights: h }],
              KRONECKER,
            ),
      ),
    };
    const { eta, damping, decay } = KRONECKER;
    const definition = definitionFor(net, {
      learningRate: { kind: 'constant', value: eta },
      metric: metric === 'identity' ? { kind: 'identity' } : { kind: 'kronecker', damping, decay },
      terminalCurvature:
        curvature.kind === 'gradient'
          ? { kind: 'gradient', lossScale }
          : { kind: 'gauss-newton', columns: net.widths.at(-1)! },
      coupling,
    });
    const configuration = hostedConfiguration(hostedDefinitionSchema.parse(definition));
    const { changes, result } = engine.scope(() => {
      const initial = { ...initialHostedState(engine, configuration), weights: weightsOf(engine, network) };
      const input = engine.tensor(batch.inputs.data, [batch.inputs.rows, batch.inputs.cols]);
      const step = hostedStep(engine, configuration, initial, { input, truth: truthOf(batch) });
      return {
        result: step,
        changes: step.state.weights.map(({ weight, bias }, t) => {
          const after = asMatrix(engine.read(weight!), engine.read(bias!), network[t]!.weights.cols);
          return subtract(after, network[t]!.weights);
        }),
      };
    });
    const oracle = coupling === 'gauss-newton-step' ? null : oracleStep(problem, coupling);
    const expected = oracle?.deltaU ?? denseGaussNewtonStep(problem);
    // In float32 the change is the difference of two weights, and so is its rounding.
    for (const [t, change] of changes.entries()) expect(relativeError(change, expected[t]!)).toBeLessThan(tolerance);
    expect(Math.abs(result.lossBefore / mean(phi) - 1)).toBeLessThan(tolerance);
    if (oracle !== null) expect(Math.abs(result.lossAfter / mean(oracle.losses) - 1)).toBeLessThan(tolerance);
    engine.dispose(tensorsIn(result, engine.isTensor));
  }

  const cases = NETS.flatMap((net) =>
    CURVATURES.flatMap((curvature) =>
      (['identity', 'kronecker'] as const)
        // Here the oracle's factors are those of the loss gradients.
        .filter((metric) => metric === 'identity' || curvature.kind === 'gradient')
        .map((metric) => ({
          net,
          metric,
          curvature,
          name: `${net.widths.join('-')} ${net.activation} ${net.loss}, ${metric}, ${JSON.stringify(curvature)}`,
        })),
    ),
  );
  it.each(cases)('$name', ({ net, metric, curvature }) => {
    for (const coupling of ['layerwise', 'value', 'feedback', 'gauss-newton-step'] as const) {
      check(net, metric, curvature, coupling);
    }
  });
});

const B = 4;
const CROSS_ENTROPY: LossInput = { kind: 'softmax-cross-entropy' };

function setUp(name: string, optimizer: OptimizerInput, loss: LossInput = CROSS_ENTROPY, seed = 2) {
  const definition = hostedDefinitionSchema.parse({ model: MODELS[name], loss, optimizer, seed });
  const configuration = hostedConfiguration(definition);
  const random = seededRandom(21);
  const { input, outputs } = configuration.program;
  const size = input.reduce((product, length) => product * length, 1);
  const x = Float64Array.from({ length: B * size }, () => gaussian(random));
  const labels = Array.from({ length: B }, () => Math.floor(random() * outputs));
  const batch = (engine: Engine) => ({
    input: engine.tensor(x, [B, ...input]),
    truth: { values: labels, sampleWeights: null },
  });
  return { configuration, batch };
}

const optimizerAt = (eta: number, coupling: NonNullable<OptimizerInput['coupling']>): OptimizerInput => ({
  learningRate: { kind: 'constant', value: eta },
  metric: { kind: 'identity' },
  terminalCurvature: { kind: 'gradient', lossScale: null },
  coupling,
});

/** Weights of all stages one after the other. */
function flat(engine: Engine, weights: Weights): Float64Array {
  return Float64Array.from(
    weights.flatMap((parameters) =>
      PARAMETER_NAMES.flatMap((name) => {
        const tensor = parameters[name];
        return tensor === undefined ? [] : [...engine.read(tensor)];
      }),
    ),
  );
}

function moved(engine: Engine, weights: Weights, index: number, by: number): Weights {
  let offset = 0;
  return weights.map((parameters) =>
    Object.fromEntries(
      PARAMETER_NAMES.flatMap((name) => {
        const tensor = parameters[name];
        if (tensor === undefined) return [];
        const values = engine.read(tensor);
        if (index >= offset && index < offset + values.length) values[index - offset]! += by;
        offset += values.length;
        return [[name, engine.tensor(values, tensor.shape)] as const];
      }),
    ),
  );
}

describe.each(Object.keys(MODELS))('%s', async (name) => {
  const reference = await loadEngine('reference');
  const wasm = await loadEngine('wasm');
  const hasBatchNorm = JSON.stringify(MODELS[name]).includes('batch-norm');

  /** The change that one step from the initial state makes. */
  function stepChange(
    engine: Engine,
    optimizer: OptimizerInput,
  ): { change: Float64Array; lossBefore: number; lossAfter: number } {
    // prettier-ignore
    return engine.scope(() => {
      const { configuration, batch } = setUp(name, optimizer);
      const state = initialHostedState(engine, configuration);
      const before = flat(engine, state.weights);
      const { state: next, lossBefore, lossAfter } = hostedStep(engine, configuration, state, batch(engine));
      return { change: flat(engine, next.weights).map((value, i) => value - before[i]!), lossBefore, lossAfter };
    });
  }

  it.each(['layerwise', 'value', 'gauss-newton-step', 'feedback'] as const)(
    '%s: a small step decreases the loss',
    (coupling) => {
      for (const engine of [reference, wasm]) {
        const { lossBefore, lossAfter } = stepChange(engine, optimizerAt(1e-2, coupling));
        expect(lossAfter).toBeLessThan(lossBefore);
      }
    },
  );

  it('float32 agrees', () => {
    const exact = stepChange(reference, optimizerAt(0.5, 'feedback')).change;
    const rounded = stepChange(wasm, optimizerAt(0.5, 'feedback')).change;
    expect(relativeError(columnVector(rounded), columnVector(exact))).toBeLessThan(1e-4);
  });

  // Where batch statistics tie samples together, rows are split by input rather than by loss (see normalization.ts).
  if (!hasBatchNorm)
    it('gauss-newton-step is the dense solve with a Jacobian from finite differences', () => {
      const eta = 0.7;
      const { change } = stepChange(reference, optimizerAt(eta, 'gauss-newton-step'));
      const { configuration, batch } = setUp(name, optimizerAt(eta, 'gauss-newton-step'));
      const J = reference.scope(() => lossJacobian(reference, configuration, batch(reference)));
      // (I/η + JᵀJ/B) δu = −Jᵀ1/B with h = 1.
      const m = J.cols;
      const curvature = scale(multiply(transpose(J), J), 1 / B);
      const gradient = scale(multiply(transpose(J), columnVector(new Float64Array(B).fill(1))), 1 / B);
      const expected = solve(add(scale(identity(m), 1 / eta), curvature), scale(gradient, -1));
      expect(relativeError(columnVector(change), expected)).toBeLessThan(1e-6);
    });

  if (!hasBatchNorm)
    it('feedback tends to gauss-newton-step as the step shrinks, and value does not', () => {
      const eta = 1e-3;
      const changeOf = (coupling: NonNullable<OptimizerInput['coupling']>): Matrix =>
        columnVector(stepChange(reference, optimizerAt(eta, coupling)).change);
      const linear = changeOf('gauss-newton-step');
      const missing = relativeError(changeOf('value'), linear);
      const error = relativeError(changeOf('feedback'), linear);
      if (setUp(name, optimizerAt(eta, 'feedback')).configuration.program.stages.length === 1) {
        expect(error).toBeLessThan(1e-12);
        return;
      }
      expect(missing).toBeGreaterThan(1e-5);
      expect(error / missing).toBeLessThan(0.05);
    });

  it('leaves nothing behind in 200 steps, and repeats itself from the same seed', () => {
    const run = (engine: Engine, steps: number, seed: number): Float64Array => {
      const optimizer: OptimizerInput = {
        learningRate: { kind: 'constant', value: 0.1 },
        metric: { kind: 'kronecker', refreshEvery: 7 },
        terminalCurvature: { kind: 'sampled-fisher' },
        coupling: 'feedback',
      };
      const { configuration, batch } = setUp(name, optimizer, CROSS_ENTROPY, seed);
      const before = engine.liveTensors;
      const data = batch(engine);
      let state: HostedState = initialHostedState(engine, configuration);
      const initial = engine.liveTensors;
      let held: number | null = null;
      for (let step = 0; step < steps; step++) {
        const { state: next, terminalWeights: h } = hostedStep(engine, configuration, state, data);
        const kept = tensorsIn(next, engine.isTensor);
        engine.dispose([...tensorsIn(state, engine.isTensor)].filter((tensor) => !kept.has(tensor)));
        engine.dispose([h]);
        state = next;
        held ??= engine.liveTensors;
        expect(engine.liveTensors).toBe(held);
      }
      expect(held).toBeGreaterThan(initial);
      const weights = flat(engine, state.weights);
      engine.dispose(tensorsIn(state, engine.isTensor));
      engine.dispose([data.input]);
      expect(engine.liveTensors).toBe(before);
      return weights;
    };
    run(wasm, 200, 1);
    const once = run(wasm, 8, 1);
    expect(run(wasm, 8, 1)).toEqual(once);
    expect(run(wasm, 8, 2)).not.toEqual(once);
  });
});

/** ∂φ_i/∂u of every sample in all weights together, [B, m], by central differences. */
function lossJacobian(engine: Engine, configuration: HostedConfiguration, { input, truth }: HostedBatch): Matrix {
  const STEP = 1e-5;
  const { program, loss, seed } = configuration;
  const { weights } = initialHostedState(engine, configuration);
  const mode: Mode = { kind: 'training', noise: (operation) => dropoutStream(seed, 0, operation) };
  const lossesAt = (at: Weights): Float64Array =>
    engine.scope(() => {
      const { output } = modelForward(engine, program, (t) => at[t]!, input, mode);
      return Float64Array.from(engine.read(expandLoss(engine, loss, output, truth).values));
    });
  const columns = Array.from(flat(engine, weights), (_, index) =>
    engine.scope(() => {
      const ahead = lossesAt(moved(engine, weights, index, STEP));
      const behind = lossesAt(moved(engine, weights, index, -STEP));
      return ahead.map((value, i) => (value - behind[i]!) / (2 * STEP));
    }),
  );
  return build(B, columns.length, (i, j) => columns[j]![i]!);
}
