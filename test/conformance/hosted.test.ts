/**
 * The hosted step. On dense nets against the dense oracle, second forward pass included; on every other model against a dense
 * Gauss–Newton solve with a Jacobian from finite differences, and against its own linearisation.
 */
import { describe, expect, it } from 'vitest';
import type { Weights } from '../../gpu-worker/model/parameters.ts';
import { curvatureStream, dropoutStream } from '../../gpu-worker/model/streams.ts';
import { forward as modelForward, type Mode } from '../../gpu-worker/model/trajectory.ts';
import { expandLoss } from '../../gpu-worker/optimizer/losses/loss.ts';
import {
  hostedConfiguration,
  hostedStep,
  initialHostedState,
  type HostedBatch,
  type HostedConfiguration,
  type HostedState,
} from '../../gpu-worker/training/hosted-step.ts';
import { tensorsIn, type Engine } from '../../gpu-worker/tensor/engine.ts';
import { loadEngine, presentEngines } from '../../gpu-worker/tensor/index.ts';
import { oracleJudgedEngine } from './engines.ts';
import { hostedDefinitionSchema, type HostedDefinitionInput } from '../../shared/hosted-definition.ts';
import type { LossInput } from '../../shared/loss.ts';
import { gaussian, seededRandom } from '../../shared/random.ts';
import { PARAMETER_NAMES } from '../../shared/parameter-names.ts';
import { MODELS } from '../model/models.ts';
import {
  ddpStep as oracleStep,
  denseGaussNewtonStep,
  linearise,
  predictionJacobians,
  sampleGradients,
  terminalValue,
  terminalWeights,
  type LossScale,
  type Problem,
  type TerminalCurvature,
} from '../oracle/bellman.ts';
import {
  add,
  at,
  build,
  columnVector,
  identity,
  multiply,
  scale,
  solve,
  subtract,
  transpose,
  vec,
  type Matrix,
} from '../oracle/matrix.ts';
import { adamMetric, ekfacMetric, identityMetric, kroneckerMetric, type LayerStatistics } from '../oracle/metric.ts';
import {
  backpropagate,
  backpropagateFrom,
  forward,
  hessianRoots,
  losses,
  mulberry32,
  prediction,
  randomBatch,
  randomProblem,
  type Batch,
  type Network,
  type Objective,
  type RandomProblem,
} from '../oracle/network.ts';
import { asMatrix, parametersOf, relativeError, TOLERANCE } from './drive.ts';

type OptimizerInput = NonNullable<HostedDefinitionInput['optimizer']>;

const KRONECKER = { damping: 0.03, decay: 0.8, eta: 2 };
const ADAM = { epsilon: 0.01, decay: 0.9, eta: KRONECKER.eta, secondMoment: 'mean-gradient' } as const;
const NETS: readonly Omit<RandomProblem, 'seed'>[] = [
  { widths: [5, 3], activation: 'linear', loss: 'softmax-cross-entropy', batchSize: 6 },
  { widths: [4, 5, 3], activation: 'linear', loss: 'mse', batchSize: 6 },
  { widths: [4, 5, 3], activation: 'tanh', loss: 'softmax-cross-entropy', batchSize: 7 },
  { widths: [6, 5, 4, 3], activation: 'relu', loss: 'softmax-cross-entropy', batchSize: 8 },
  { widths: [3, 4, 4, 3, 2], activation: 'sigmoid', loss: 'mse', batchSize: 5 },
  { widths: [4, 6, 2], activation: 'tanh', loss: 'mse', batchSize: 1 },
];
/** A terminal curvature of the product; gauss-newton with as many columns as outputs. */
type Curvature =
  | { readonly kind: 'gradient'; readonly lossScale?: LossScale }
  | { readonly kind: 'gauss-newton' }
  | { readonly kind: 'sampled-fisher' };

const CURVATURES: readonly Curvature[] = [
  { kind: 'gradient' },
  { kind: 'gradient', lossScale: { floor: 0.5, ceiling: 100 } },
  { kind: 'gauss-newton' },
  { kind: 'sampled-fisher' },
];
const METRICS = ['identity', 'kronecker', 'ekfac', 'adam'] as const;
type Metric = (typeof METRICS)[number];

/** S_i of every sample, n_T × r; null where the loss gradients are the columns. */
function terminalColumns(curvature: Curvature, output: Matrix, objective: Objective): Matrix[] | null {
  switch (curvature.kind) {
    case 'gradient':
      return null;
    case 'gauss-newton':
      return hessianRoots(output, objective);
    case 'sampled-fisher':
      return sampledColumns(output, objective, curvatureStream(0, 0));
  }
}

/** The gradient of every sample's loss for a truth drawn from the prediction, from the stream of the first step with seed 0. */
function sampledColumns(output: Matrix, { kind }: Objective, random: () => number): Matrix[] {
  return Array.from({ length: output.rows }, (_, i) => {
    if (kind === 'mse') return build(output.cols, 1, () => gaussian(random));
    const weights = Array.from({ length: output.cols }, (__, j) => Math.exp(at(output, i, j)));
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    let rest = random() * total;
    const label = weights.findIndex((weight) => (rest -= weight) < 0);
    return build(output.cols, 1, (j) => weights[j]! / total - (j === label ? 1 : 0));
  });
}

/** What the oracle's metric sees of every layer. */
function statistics(
  network: Network,
  { inputs, objective }: Batch,
  columns: readonly Matrix[] | null,
  h: Float64Array,
): { rows: LayerStatistics; meanGradient: Matrix }[] {
  const trajectory = forward(network, inputs);
  const own = backpropagate(network, trajectory, objective);
  const r = columns?.[0]?.cols ?? 1;
  const passes =
    columns === null
      ? [own.outputGradients]
      : Array.from({ length: r }, (_, rho) => {
          const gradient = build(inputs.rows, columns[0]!.rows, (i, j) => at(columns[i]!, j, rho));
          return backpropagateFrom(network, trajectory, gradient).outputGradients;
        });
  return own.inputs.map((x, t) => {
    const gradients = own.outputGradients[t]!;
    const rows = build(x.rows * r, gradients.cols, (index, j) => at(passes[index % r]![t]!, Math.floor(index / r), j));
    const weights = columns === null ? h : new Float64Array(x.rows * r).fill(1);
    const shares = build(x.rows, 1, () => 1 / x.rows);
    return {
      rows: { inputs: x, outputGradients: rows, terminalWeights: weights },
      meanGradient: multiply(transpose(sampleGradients(x, gradients)), shares),
    };
  });
}

function definitionFor(net: Omit<RandomProblem, 'seed'>, optimizer: OptimizerInput): HostedDefinitionInput {
  const { activation } = net;
  const layers = net.widths.slice(1).flatMap((outputs, t) => {
    const dense = { kind: 'dense', name: `layer${t}`, outputs } as const;
    const isLast = t === net.widths.length - 2;
    return isLast || activation === 'linear' ? [dense] : [dense, { kind: activation } as const];
  });
  return {
    mode: 'hosted',
    model: { input: [net.widths[0]!], layers },
    loss: { kind: net.loss },
    optimizer,
  };
}

function weightsOf(engine: Engine, network: Network): Weights {
  return network.map(({ weights }) => parametersOf(engine, weights));
}

function truthOf({ objective }: Batch) {
  const values = objective.kind === 'mse' ? objective.targets.data : objective.labels;
  return { values, sampleWeights: null };
}

const mean = (values: ArrayLike<number>): number =>
  Array.from(values).reduce((sum, value) => sum + value, 0) / values.length;

describe.each(presentEngines())('dense nets on the %s engine, against the oracle', async (engineName) => {
  const engine = await oracleJudgedEngine(engineName);
  const tolerance = TOLERANCE[engine.precision];

  function check(
    net: Omit<RandomProblem, 'seed'>,
    metric: Metric,
    curvature: Curvature,
    coupling: 'layerwise' | 'value' | 'feedback' | 'gauss-newton-step',
    weightDecay: OptimizerInput['weightDecay'] = null,
  ): void {
    const { network, batch } = randomProblem({ ...net, seed: 17 });
    const trajectory = forward(network, batch.inputs);
    const phi = losses(prediction(trajectory), batch.objective);
    const lossScale: LossScale | null = (curvature.kind === 'gradient' ? curvature.lossScale : null) ?? null;
    const h = terminalWeights(phi, lossScale ?? undefined);
    const columns = terminalColumns(curvature, prediction(trajectory), batch.objective);
    const seen = statistics(network, batch, columns, h);
    const decaying = network.map(({ weights: { rows, cols, data } }) =>
      columnVector(data.map((value, index) => (index < (rows - 1) * cols ? (weightDecay?.rate ?? 0) * value : 0))),
    );
    const problem: Problem = {
      network,
      batch,
      curvature: curvature.kind === 'sampled-fisher' ? { kind: 'columns', columns: columns! } : curvature,
      ...(weightDecay?.kind === 'running-cost' ? { costGradients: decaying } : {}),
      ...(weightDecay?.kind === 'decoupled' ? { decoupledDecay: decaying } : {}),
      controlMetrics: seen.map(({ rows, meanGradient }, t) => {
        switch (metric) {
          case 'identity':
            return identityMetric(network[t]!.weights.data.length, KRONECKER.eta);
          case 'kronecker':
            return kroneckerMetric([rows], KRONECKER);
          case 'ekfac':
            return ekfacMetric([rows], KRONECKER);
          case 'adam':
            return adamMetric([transpose(meanGradient)], ADAM);
        }
      }),
    };
    const { eta, damping, decay } = KRONECKER;
    const metrics: Record<Metric, OptimizerInput['metric']> = {
      identity: { kind: 'identity' },
      kronecker: { kind: 'kronecker', damping, decay },
      ekfac: { kind: 'ekfac', damping, decay },
      adam: { kind: 'adam', decay: ADAM.decay, epsilon: ADAM.epsilon },
    };
    const terminal = {
      gradient: { kind: 'gradient', lossScale },
      'gauss-newton': { kind: 'gauss-newton', columns: net.widths.at(-1)! },
      'sampled-fisher': { kind: 'sampled-fisher' },
    } as const;
    const definition = definitionFor(net, {
      learningRate: { kind: 'constant', value: eta },
      metric: metrics[metric],
      terminalCurvature: terminal[curvature.kind],
      coupling,
      weightDecay,
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
    if (oracle !== null && coupling === 'feedback') {
      expect(Math.abs(result.lossAfter! / mean(oracle.losses) - 1)).toBeLessThan(tolerance);
    } else {
      expect(result.lossAfter).toBeNull();
    }
    engine.dispose(tensorsIn(result, engine.isTensor));
  }

  it.each(['gauss-newton-step', 'feedback'] as const)(
    'the Levenberg–Marquardt rule with %s: every second step judges the last one on its own batch',
    (coupling) => {
      const net = { ...NETS[2]!, batchSize: 12 };
      const rule = { kind: 'levenberg-marquardt', initial: 1, every: 2, factor: 1.5 } as const;
      const terminal: TerminalCurvature = { kind: 'gradient', lossScale: { floor: 0.5, ceiling: 100 } };
      const definition = definitionFor(net, { learningRate: rule, metric: { kind: 'identity' }, coupling });
      const configuration = hostedConfiguration(hostedDefinitionSchema.parse(definition));
      const random = mulberry32(20);
      const { network } = randomProblem({ ...net, seed: 19 });
      engine.scope(() => {
        let state: HostedState = {
          ...initialHostedState(engine, configuration),
          weights: weightsOf(engine, network),
        };
        const networkOf = ({ weights }: HostedState): Network =>
          network.map((stage, t) => {
            const { weight, bias } = weights[t]!;
            return { ...stage, weights: asMatrix(engine.read(weight!), engine.read(bias!), stage.weights.cols) };
          });
        const meanLossOf = (layers: Network, { inputs, objective }: Batch): number =>
          mean(losses(prediction(forward(layers, inputs)), objective));
        let eta: number = rule.initial;
        let last: { network: Network; predicted: number } | null = null;
        const moves = new Set<number>();
        let batch = randomBatch(random, net.widths, net.loss, net.batchSize);
        for (let n = 0; n < 10; n++) {
          // The labels are random, so that a step does well on its own batch only, which every fourth step meets again.
          if (n % 4 !== 0) batch = randomBatch(random, net.widths, net.loss, net.batchSize);
          const now = networkOf(state);
          expect(state.previousWeights === null).toBe(n === 0 || n % 2 === 1);
          if (n > 0 && n % 2 === 0) {
            const ratio = (meanLossOf(now, batch) - meanLossOf(last!.network, batch)) / last!.predicted;
            const factor: number = last!.predicted >= 0 ? 1 : ratio > 0.75 ? 1.5 : ratio < 0.25 ? 1 / 1.5 : 1;
            moves.add(factor);
            eta *= factor;
          }
          const input = engine.tensor(batch.inputs.data, [batch.inputs.rows, batch.inputs.cols]);
          const step = hostedStep(engine, configuration, state, { input, truth: truthOf(batch) });
          expect(Math.abs(step.learningRate / eta - 1)).toBeLessThan(1e-12);
          ({ state } = step);
          const controlMetrics = now.map(({ weights }) => identityMetric(weights.data.length, eta));
          const problem: Problem = { network: now, batch, curvature: terminal, controlMetrics };
          const { deltaU } = oracleStep(problem, 'linear-feedback');
          const trajectory = forward(now, batch.inputs);
          const { Vx, Vxx } = terminalValue(prediction(trajectory), batch, terminal);
          const { controls } = predictionJacobians(linearise(now, trajectory));
          const deltaX = controls.map((J, t) => multiply(J, vec(deltaU[t]!))).reduce((sum, term) => add(sum, term));
          const predicted = add(multiply(transpose(Vx), deltaX), scale(multiply(transpose(deltaX), Vxx, deltaX), 0.5));
          last = { network: now, predicted: predicted.data[0]! };
        }
        expect(moves.size).toBeGreaterThan(1);
      });
    },
  );

  it.each(['value', 'gauss-newton-step', 'feedback'] as const)(
    'lookahead with %s: every third step the weights go back, and lossAfter, where there is one, is theirs',
    (coupling) => {
      const net = NETS[2]!;
      const { network, batch } = randomProblem({ ...net, seed: 18 });
      const optimizer: OptimizerInput = {
        learningRate: { kind: 'constant', value: 1 },
        metric: { kind: 'kronecker', refreshEvery: 2 },
        coupling,
        momentum: coupling === 'feedback' ? 0 : 0.5,
      };
      const configure = (more: OptimizerInput) =>
        hostedConfiguration(hostedDefinitionSchema.parse(definitionFor(net, { ...optimizer, ...more })));
      engine.scope(() => {
        const configuration = configure({});
        const data = {
          input: engine.tensor(batch.inputs.data, [batch.inputs.rows, batch.inputs.cols]),
          truth: truthOf(batch),
        };
        const matrices = ({ weights }: HostedState): Matrix[] =>
          weights.map(({ weight, bias }, t) =>
            asMatrix(engine.read(weight!), engine.read(bias!), network[t]!.weights.cols),
          );
        const initial = { ...initialHostedState(engine, configuration), weights: weightsOf(engine, network) };
        let state: HostedState = initial;
        let reference: HostedState = initial;
        let slow = matrices(initial);
        for (let n = 0; n < 7; n++) {
          const step = hostedStep(engine, configure({ lookahead: { steps: 3, interpolation: 0.25 } }), state, data);
          ({ state } = step);
          reference = hostedStep(engine, configuration, reference, data).state;
          if ((n + 1) % 3 === 0) {
            slow = matrices(reference).map((fast, t) => add(slow[t]!, scale(subtract(fast, slow[t]!), 0.25)));
            reference = { ...reference, weights: slow.map((weights) => parametersOf(engine, weights)) };
          }
          const expected = matrices(reference);
          for (const [t, weights] of matrices(state).entries()) {
            expect(relativeError(weights, expected[t]!)).toBeLessThan(tolerance);
          }
          const changed = network.map((stage, t) => ({ ...stage, weights: matrices(state)[t]! }));
          const after = mean(losses(prediction(forward(changed, batch.inputs)), batch.objective));
          if (coupling === 'feedback') expect(Math.abs(step.lossAfter! / after - 1)).toBeLessThan(tolerance);
          else expect(step.lossAfter).toBeNull();
        }
      });
    },
  );

  const cases = NETS.flatMap((net) =>
    CURVATURES.flatMap((curvature) =>
      METRICS.map((metric) => ({
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

  it.each([
    { kind: 'running-cost', rate: 0.3 },
    { kind: 'decoupled', rate: 0.1 },
  ] as const)('with weight decay, $kind', (weightDecay) => {
    for (const net of NETS) {
      for (const metric of ['identity', 'kronecker'] as const) {
        for (const coupling of ['layerwise', 'value', 'feedback'] as const) {
          check(net, metric, CURVATURES[1]!, coupling, weightDecay);
        }
      }
      for (const coupling of ['value', 'feedback'] as const) {
        check(net, 'identity', CURVATURES[2]!, coupling, weightDecay);
      }
    }
  });
});

const B = 4;
const CROSS_ENTROPY: LossInput = { kind: 'softmax-cross-entropy' };

function setUp(name: string, optimizer: OptimizerInput, loss: LossInput = CROSS_ENTROPY, seed = 2) {
  const definition = hostedDefinitionSchema.parse({ mode: 'hosted', model: MODELS[name], loss, optimizer, seed });
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
      const { state: next, lossBefore } = hostedStep(engine, configuration, state, batch(engine));
      // The first step again, so that the same features are dropped.
      const { lossBefore: lossAfter } = hostedStep(engine, configuration, { ...state, weights: next.weights }, batch(engine));
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
