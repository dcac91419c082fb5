/**
 * Every combination of the optimizer's options against the dense float64 oracle: engine × metric × terminal curvature ×
 * batch coupling × coupling, for dense layers, on random small nets with a history of batches.
 */
import { describe, expect, it } from 'vitest';
import { inverseMetric, updateMetric } from '../../gpu-worker/optimizer/curvature/metric.ts';
import { coefficients, prepareSolver } from '../../gpu-worker/optimizer/ddp/coefficients.ts';
import { INITIAL_STATE, type MetricState, type OptimizerState } from '../../gpu-worker/optimizer/state.ts';
import { settleRefreshes, type StepResult } from '../../gpu-worker/optimizer/step.ts';
import { presentEngines } from '../../gpu-worker/tensor/index.ts';
import { oracleJudgedEngine } from './engines.ts';
import { ProblemError } from '../../shared/errors.ts';
import { optimizerSchema, type BatchCoupling, type ControlMetric, type Coupling } from '../../shared/optimizer.ts';
import { sessionDefinitionSchema, type SessionDefinitionInput } from '../../shared/session.ts';
import {
  ddpStep as oracleStep,
  denseGaussNewtonStep,
  diagonalStep,
  sampleGradients,
  terminalWeights,
  type Coupling as OracleCoupling,
  type LossScale,
  type Problem,
  type TerminalCurvature as OracleCurvature,
} from '../oracle/bellman.ts';
import {
  add,
  at,
  build,
  columnVector,
  diagonal,
  multiply,
  scale,
  solve,
  subtract,
  transpose,
  type Matrix,
} from '../oracle/matrix.ts';
import {
  adamMetric,
  ekfacMetric,
  identityMetric,
  kroneckerMetric,
  rmspropMetric,
  type LayerStatistics,
} from '../oracle/metric.ts';
import { paperStep, type PaperProblem, type PaperReading } from '../oracle/paper.ts';
import {
  backpropagate,
  backpropagateFrom,
  forward,
  gaussianMatrix,
  hessianRoots,
  lossGradients,
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

const ETA = 2;
/** Of the paper's recursion to the letter, where at the other one nothing of most samples is left for the first stages. */
const PAPER_ETA = 0.02;

const METRICS = [
  { kind: 'identity' },
  { kind: 'rmsprop', decay: 0.9, epsilon: 0.01 },
  { kind: 'adam', decay: 0.9, epsilon: 0.01, secondMoment: 'per-sample' },
  { kind: 'kronecker', damping: 0.03, decay: 0.8, refreshEvery: 2 },
  { kind: 'ekfac', damping: 0.03, decay: 0.8, refreshEvery: 2 },
].map(metricWith);
const PAPER_READINGS = ['paper-faithful', 'paper-averaged'] as const;
const BATCH_COUPLINGS = ['full', 'diagonal', ...PAPER_READINGS] as const;
const COUPLINGS: readonly Coupling[] = ['layerwise', 'value', 'gauss-newton-step', 'feedback'];

/** A metric of the product with its defaults filled in. */
function metricWith(options: unknown): ControlMetric {
  return optimizerSchema.parse({ metric: options }).metric;
}

/** A terminal curvature of the product, and how its columns are chosen. */
type Curvature =
  | { readonly kind: 'gradient'; readonly lossScale: LossScale | null; readonly title: string }
  /** As many columns as outputs, or fewer: random combinations of a root's columns. */
  | { readonly kind: 'gauss-newton'; readonly columns: 'all' | 'fewer'; readonly title: string }
  | { readonly kind: 'sampled-fisher'; readonly title: string };

const GRADIENT: Curvature = { kind: 'gradient', lossScale: null, title: 'gradient, h = 1' };
const CURVATURES: readonly Curvature[] = [
  GRADIENT,
  { kind: 'gradient', lossScale: { floor: 0.5, ceiling: 100 }, title: 'gradient, h by the loss' },
  { kind: 'gauss-newton', columns: 'all', title: 'gauss-newton, r = C' },
  { kind: 'gauss-newton', columns: 'fewer', title: 'gauss-newton, r < C' },
  { kind: 'sampled-fisher', title: 'sampled-fisher' },
];

type Net = Omit<RandomProblem, 'seed'>;
const NETS: readonly Net[] = [
  { widths: [5, 3], activation: 'linear', loss: 'softmax-cross-entropy', batchSize: 6 },
  { widths: [4, 5, 3], activation: 'tanh', loss: 'softmax-cross-entropy', batchSize: 5 },
  { widths: [6, 5, 4, 3], activation: 'relu', loss: 'softmax-cross-entropy', batchSize: 6 },
  { widths: [3, 4, 4, 3, 2], activation: 'sigmoid', loss: 'mse', batchSize: 5 },
  { widths: [4, 6, 2], activation: 'tanh', loss: 'mse', batchSize: 1 },
];

/** One batch and, unless the loss gradients are the columns, S_i of each of its samples. */
interface Observation {
  readonly batch: Batch;
  readonly columns: readonly Matrix[] | null;
}

interface Scenario {
  readonly network: Network;
  /** Oldest first. */
  readonly history: readonly Observation[];
}

function scenario(net: Net, seed: number, curvature: Curvature, batches = 3): Scenario {
  const { network, batch } = randomProblem({ ...net, seed });
  const random = mulberry32(seed + 1000);
  const more = Array.from({ length: batches - 1 }, () => randomBatch(random, net.widths, net.loss, net.batchSize));
  const history = [batch, ...more].map((each): Observation => {
    return { batch: each, columns: terminalColumns(network, each, curvature, random) };
  });
  return { network, history };
}

function terminalColumns(
  network: Network,
  { inputs, objective }: Batch,
  curvature: Curvature,
  random: () => number,
): Matrix[] | null {
  if (curvature.kind === 'gradient') return null;
  const output = prediction(forward(network, inputs));
  if (curvature.kind === 'sampled-fisher') {
    const gradients = lossGradients(output, drawn(output, objective.kind, random));
    return Array.from({ length: output.rows }, (_, i) => build(output.cols, 1, (j) => at(gradients, i, j)));
  }
  const roots = hessianRoots(output, objective);
  if (curvature.columns === 'all') return roots;
  return roots.map((root) => multiply(root, gaussianMatrix(random, root.cols, output.cols - 1)));
}

/** Labels, or targets of unit variance, drawn from the network's own prediction. */
function drawn(output: Matrix, loss: Objective['kind'], random: () => number): Objective {
  if (loss === 'mse') return { kind: loss, targets: add(output, gaussianMatrix(random, output.rows, output.cols)) };
  const labels = Array.from({ length: output.rows }, (_, i) => {
    const weights = Array.from({ length: output.cols }, (__, j) => Math.exp(at(output, i, j)));
    let rest = random() * weights.reduce((sum, weight) => sum + weight, 0);
    const label = weights.findIndex((weight) => (rest -= weight) < 0);
    return label === -1 ? weights.length - 1 : label;
  });
  return { kind: loss, labels };
}

function columnCount({ columns }: Observation): number {
  return columns?.[0]?.cols ?? 1;
}

/** What the oracle sees of every layer in one batch: rows of the terminal curvature, and the samples' loss gradients, B × m. */
function statistics(
  network: Network,
  observation: Observation,
  curvature: Curvature,
): { rows: LayerStatistics; gradients: Matrix }[] {
  const { batch, columns } = observation;
  const trajectory = forward(network, batch.inputs);
  const { inputs, outputGradients } = backpropagate(network, trajectory, batch.objective);
  const B = batch.inputs.rows;
  const lossScale = curvature.kind === 'gradient' ? curvature.lossScale : null;
  const h = terminalWeights(losses(prediction(trajectory), batch.objective), lossScale ?? undefined);
  const r = columnCount(observation);
  const passes = Array.from({ length: columns === null ? 0 : r }, (_, rho) => {
    const gradient = build(B, columns![0]!.rows, (i, j) => at(columns![i]!, j, rho));
    return backpropagateFrom(network, trajectory, gradient).outputGradients;
  });
  return inputs.map((x, t) => {
    const own = outputGradients[t]!;
    const rows = build(B * r, own.cols, (index, j) => at(passes[index % r]?.[t] ?? own, Math.floor(index / r), j));
    return {
      rows: { inputs: x, outputGradients: rows, terminalWeights: Array.from({ length: B * r }, (_, i) => h[i] ?? 1) },
      gradients: sampleGradients(x, own),
    };
  });
}

interface ProblemOptions {
  readonly eta?: number;
  readonly valueRegularization?: number;
  readonly metricHistory?: readonly Observation[];
  readonly costGradients?: readonly Matrix[];
}

/** The oracle's problem on the last batch of the history. */
function oracleProblem(
  { network, history }: Scenario,
  metric: ControlMetric,
  curvature: Curvature,
  { eta = ETA, valueRegularization = 0, metricHistory = history, costGradients }: ProblemOptions = {},
): Problem {
  const perBatch = metricHistory.map((observation) => statistics(network, observation, curvature));
  const last = history.at(-1)!;
  return {
    network,
    batch: last.batch,
    curvature: oracleCurvature(curvature, last),
    valueRegularization,
    ...(costGradients === undefined ? {} : { costGradients }),
    controlMetrics: network.map((_, t) => {
      const layer = perBatch.map((layers) => layers[t]!);
      return oracleMetric(metric, layer.map(({ rows }) => rows), layer.map(({ gradients }) => gradients), eta); // prettier-ignore
    }),
  };
}

/** R of a layer from its statistics in every batch, oldest first. */
function oracleMetric(
  metric: ControlMetric,
  rows: readonly LayerStatistics[],
  gradients: readonly Matrix[],
  eta: number,
): Matrix {
  switch (metric.kind) {
    case 'identity':
      return identityMetric(gradients[0]!.cols, eta);
    case 'rmsprop':
      return rmspropMetric(gradients, { ...metric, eta });
    case 'adam':
      return adamMetric(gradients, { ...metric, eta });
    case 'kronecker':
      return kroneckerMetric(rows, { ...metric, eta });
    case 'ekfac':
      return ekfacMetric(rows, { ...metric, eta });
  }
}

function oracleCurvature(curvature: Curvature, { columns }: Observation): OracleCurvature {
  if (columns !== null) return { kind: 'columns', columns };
  if (curvature.kind !== 'gradient' || curvature.lossScale === null) return { kind: 'gradient' };
  return { kind: 'gradient', lossScale: curvature.lossScale };
}

/** The oracle's step, whose second forward pass goes through the network only for `feedback`. */
function expectedStep(problem: Problem, coupling: Coupling, batchCoupling: 'full' | 'diagonal'): readonly Matrix[] {
  const name: OracleCoupling = coupling === 'gauss-newton-step' ? 'linear-feedback' : coupling;
  return batchCoupling === 'full' ? oracleStep(problem, name).deltaU : diagonalStep(problem, name);
}

/** The step of one of the paper's recursions on the last batch of the history. */
function expectedPaperStep(
  { network, history }: Scenario,
  metric: ControlMetric,
  curvature: Curvature,
  coupling: Coupling,
  reading: PaperReading,
  { eta = PAPER_ETA, costGradients }: Pick<ProblemOptions, 'eta' | 'costGradients'> = {},
): Matrix[] {
  const { lossScale = null } = curvature.kind === 'gradient' ? curvature : {};
  const problem: PaperProblem = {
    network,
    batches: history.map(({ batch }) => batch),
    ...(lossScale === null ? {} : { lossScale }),
    ...(costGradients === undefined ? {} : { costGradients }),
    controlMetric: (_, seen) => oracleMetric(metric, seen.map(({ rows }) => rows), seen.map(({ Qu }) => Qu), eta), // prettier-ignore
  };
  return paperStep(problem, coupling === 'gauss-newton-step' ? 'linear-feedback' : coupling, reading);
}

function optimizerFor(
  metric: ControlMetric,
  curvature: Curvature,
  columns: number,
  rest: Partial<OptimizerInput>,
): OptimizerInput {
  const { kind } = curvature;
  return {
    learningRate: { kind: 'constant', value: ETA },
    metric,
    terminalCurvature:
      kind === 'gradient'
        ? { kind, lossScale: curvature.lossScale }
        : kind === 'gauss-newton'
          ? { kind, columns }
          : { kind },
    ...rest,
  };
}

function isPaperReading(batchCoupling: BatchCoupling): batchCoupling is PaperReading {
  return batchCoupling === 'paper-faithful' || batchCoupling === 'paper-averaged';
}

const PAPER_RATE = { kind: 'constant', value: PAPER_ETA } as const;

/**
 * An eigenbasis is arbitrary where a factor has none to speak of, and with the paper's recursions the metric of one stage enters the
 * statistics of the one before it: only a metric that is made anew at every step does not depend on it.
 */
function paperMetric(metric: ControlMetric): ControlMetric {
  return metric.kind === 'ekfac' ? { ...metric, refreshEvery: 1 } : metric;
}

function paperOptions(metric: ControlMetric, batchCoupling: BatchCoupling): Partial<OptimizerInput> {
  return isPaperReading(batchCoupling) ? { learningRate: PAPER_RATE, metric: paperMetric(metric) } : {};
}

/** Whether the service takes the combination. */
function isTaken(
  metric: ControlMetric,
  curvature: Curvature,
  coupling: Coupling,
  batchCoupling: BatchCoupling,
): boolean {
  if (curvature.kind !== 'gradient' && batchCoupling !== 'full') return false;
  return coupling !== 'feedback' || (curvature.kind === 'gradient' && metric.kind !== 'ekfac');
}

/** Whether these tests can evaluate it: a policy in sample factors; test/conformance/layers.test.ts judges inverse factors. */
function isJudged(...[metric, curvature, coupling, batchCoupling]: Parameters<typeof isTaken>): boolean {
  const hasSampleFactors = ['identity', 'kronecker'].includes(metric.kind);
  return isTaken(metric, curvature, coupling, batchCoupling) && (coupling !== 'feedback' || hasSampleFactors);
}

/** What the service says against a definition: the field's path and the message. */
function objections(
  optimizer: unknown,
  rest: Partial<SessionDefinitionInput> = {},
): { path: string; message: string }[] {
  const layers = [{ name: 'a', kind: 'dense', inputs: 3, outputs: 2 }];
  const { error } = sessionDefinitionSchema.safeParse({ layers, optimizer, ...rest });
  return (error?.issues ?? []).map(({ path, message }) => ({ path: path.join('.'), message }));
}

/** An error of the oracle's solution x in the norm of S: √((x − y)ᵀ S (x − y)). */
function energyNorm(S: Matrix, difference: Matrix): number {
  return Math.sqrt(at(multiply(transpose(difference), S, difference), 0, 0));
}

const memo = new Map<string, unknown>();
/** The same oracle answers all engines. */
function once<Value>(key: string, make: () => Value): Value {
  if (!memo.has(key)) memo.set(key, make());
  return memo.get(key) as Value;
}

const title = (net: Net): string =>
  `${net.activation} ${net.widths.join('-')}, ${net.loss}, B = ${String(net.batchSize)}`;

describe.each(presentEngines())('engine %s', async (name) => {
  const engine = await oracleJudgedEngine(name);
  const tolerance = TOLERANCE[engine.precision];

  function run({ network, history }: Scenario, optimizer: OptimizerInput, state: OptimizerState = INITIAL_STATE) {
    const configuration = configurationFor(network, optimizer);
    let result: StepResult | undefined;
    for (const { batch, columns } of history) {
      result = stepOn(engine, configuration, result?.state ?? state, network, batch, columns ?? undefined);
    }
    return { configuration, result: result! };
  }

  /** The changes of the last step, by the second forward pass where the reply is a policy. */
  function changes(scene: Scenario, optimizer: OptimizerInput): Matrix[] {
    return engine.scope(() => {
      const { configuration, result } = run(scene, optimizer);
      if (result.reply.kind === 'update') return changesOf(engine, result, scene.network);
      const policies = policiesOf(engine, configuration, result);
      return applyPolicies(policies, scene.network, scene.history.at(-1)!.batch, 'network');
    });
  }

  function expectEqual(
    actual: readonly Matrix[],
    expected: readonly Matrix[],
    within: number = tolerance,
    of = '',
  ): void {
    expect(actual).toHaveLength(expected.length);
    for (const [t, change] of actual.entries()) {
      expect(relativeError(change, expected[t]!), `layer ${String(t)}, ${of}`).toBeLessThan(within);
    }
  }

  describe.each(METRICS)('metric $kind', (metric) => {
    describe.each(CURVATURES)('terminal curvature $title', (curvature) => {
      const batchCouplings = curvature.kind === 'gradient' ? BATCH_COUPLINGS : (['full'] as const);
      describe.each(batchCouplings)('batch coupling %s', (batchCoupling) => {
        const valid = COUPLINGS.filter((coupling) => isJudged(metric, curvature, coupling, batchCoupling));
        it.each(valid)('%s: the step is the oracle’s', (coupling) => {
          for (const [index, net] of NETS.entries()) {
            const scene = once(`${curvature.title} ${index}`, () => scenario(net, 7 + index, curvature));
            const problem = once(`${metric.kind} ${curvature.title} ${index}`, () =>
              oracleProblem(scene, metric, curvature),
            );
            const expected = once(`${metric.kind} ${curvature.title} ${index} ${coupling} ${batchCoupling}`, () =>
              isPaperReading(batchCoupling)
                ? expectedPaperStep(scene, paperMetric(metric), curvature, coupling, batchCoupling)
                : expectedStep(problem, coupling, batchCoupling),
            );
            const columns = columnCount(scene.history[0]!);
            const options = { coupling, batchCoupling, ...paperOptions(metric, batchCoupling) };
            const actual = changes(scene, optimizerFor(metric, curvature, columns, options));
            expectEqual(actual, expected, tolerance, title(net));
            if (coupling === 'gauss-newton-step' && batchCoupling === 'full') {
              const joint = once(`${metric.kind} ${curvature.title} ${index} joint`, () =>
                denseGaussNewtonStep(problem),
              );
              expectEqual(actual, joint, tolerance, `jointly, ${title(net)}`);
            }
          }
        });
      });
    });
  });

  describe.each([0.05, 2])('V_xx regularised by %d', (valueRegularization) => {
    describe.each(CURVATURES)('terminal curvature $title', (curvature) => {
      const batchCouplings = curvature.kind === 'gradient' ? (['full', 'diagonal'] as const) : (['full'] as const);
      describe.each(batchCouplings)('batch coupling %s', (batchCoupling) => {
        it.each(COUPLINGS.filter((coupling) => isJudged(METRICS[0]!, curvature, coupling, batchCoupling)))(
          '%s: the step is the oracle’s',
          (coupling) => {
            for (const [position, metric] of METRICS.entries()) {
              if (!isJudged(metric, curvature, coupling, batchCoupling)) continue;
              const index = position % 2 === 0 ? 1 : 3;
              const net = NETS[index]!;
              const scene = once(`${curvature.title} ${index}`, () => scenario(net, 7 + index, curvature));
              const key = `${metric.kind} ${curvature.title} ${index} ${coupling} ${batchCoupling} ${valueRegularization}`;
              const expected = once(key, () =>
                expectedStep(oracleProblem(scene, metric, curvature, { valueRegularization }), coupling, batchCoupling),
              );
              const options = { coupling, batchCoupling, valueRegularization };
              const optimizer = optimizerFor(metric, curvature, columnCount(scene.history[0]!), options);
              expectEqual(changes(scene, optimizer), expected, tolerance, `${metric.kind}, ${title(net)}`);
            }
          },
        );
      });
    });
  });

  describe.each([
    { biases: false, valueRegularization: 0 },
    { biases: true, valueRegularization: 0 },
    { biases: true, valueRegularization: 0.3 },
  ])('weight decay as a running cost, biases $biases, V_xx regularised by $valueRegularization', (options) => {
    const { biases, valueRegularization } = options;
    const rate = 0.3;
    /** The second layer's group decays twice as fast, the third's not at all. */
    const groups = [
      { pattern: '*1', weightDecayFactor: 2 },
      { pattern: '*2', weightDecayFactor: 0 },
    ];
    const factor = (t: number): number => groups.find(({ pattern }) => pattern === `*${t}`)?.weightDecayFactor ?? 1;
    const costGradientsOf = (network: Network): Matrix[] =>
      network.map(({ weights }, t) => {
        const decays = (row: number): boolean => biases || row < weights.rows - 1;
        const gradient = build(weights.rows, weights.cols, (i, j) => (decays(i) ? rate * factor(t) * at(weights, i, j) : 0));
        return columnVector(gradient.data);
      }); // prettier-ignore

    describe.each(CURVATURES)('terminal curvature $title', (curvature) => {
      const batchCouplings = BATCH_COUPLINGS.filter(
        (batchCoupling) =>
          batchCoupling === 'full' ||
          (curvature.kind === 'gradient' && (batchCoupling === 'diagonal' || valueRegularization === 0)),
      );
      describe.each(batchCouplings)('batch coupling %s', (batchCoupling) => {
        it.each(COUPLINGS.filter((coupling) => isJudged(METRICS[0]!, curvature, coupling, batchCoupling)))(
          '%s: the step is the oracle’s',
          (coupling) => {
            for (const [position, metric] of METRICS.entries()) {
              if (!isJudged(metric, curvature, coupling, batchCoupling)) continue;
              const index = position % 2 === 0 ? 2 : 3;
              const net = NETS[index]!;
              const scene = once(`${curvature.title} ${index}`, () => scenario(net, 7 + index, curvature));
              const key = `decay ${metric.kind} ${curvature.title} ${index} ${JSON.stringify(options)}`;
              const costGradients = costGradientsOf(scene.network);
              const problem = once(key, () =>
                oracleProblem(scene, metric, curvature, { valueRegularization, costGradients }),
              );
              const expected = once(`${key} ${coupling} ${batchCoupling}`, () =>
                isPaperReading(batchCoupling)
                  ? expectedPaperStep(scene, paperMetric(metric), curvature, coupling, batchCoupling, { costGradients })
                  : expectedStep(problem, coupling, batchCoupling),
              );
              const weightDecay = { kind: 'running-cost', rate, biases } as const;
              const own = paperOptions(metric, batchCoupling);
              const chosen = { coupling, batchCoupling, valueRegularization, weightDecay, groups, ...own };
              const optimizer = optimizerFor(metric, curvature, columnCount(scene.history[0]!), chosen);
              const actual = changes(scene, optimizer);
              expectEqual(actual, expected, tolerance, `${metric.kind}, ${title(net)}`);
              if (coupling === 'gauss-newton-step' && batchCoupling === 'full' && valueRegularization === 0) {
                expectEqual(actual, denseGaussNewtonStep(problem), tolerance, `jointly, ${metric.kind}, ${title(net)}`);
              }
            }
          },
        );
      });
    });
  });

  describe('a metric’s history', () => {
    // More samples than inputs and smooth activations: no factor has a null space of more than one dimension. In a larger one an
    // eigenbasis is arbitrary, and between two refreshes EKFAC's second moments, which new batches may have there, depend on it.
    const net: Net = { widths: [4, 4, 3], activation: 'tanh', loss: 'mse', batchSize: 8 };

    const metrics = METRICS.flatMap((metric) =>
      'refreshEvery' in metric
        ? [1, 2, 3, 5].map((every) => ({
            metric: metricWith({ ...metric, refreshEvery: every }),
            name: `${metric.kind}, refreshed every ${every}`,
          }))
        : [{ metric, name: metric.kind }],
    );
    it.each(metrics)('$name: every one of seven steps is the oracle’s', ({ metric }) => {
      for (const curvature of [CURVATURES[1]!, CURVATURES[2]!]) {
        const scene = once(`history ${curvature.title}`, () => scenario(net, 71, curvature, 7));
        const columns = columnCount(scene.history[0]!);
        const optimizer = optimizerFor(metric, curvature, columns, { coupling: 'value' });
        const configuration = configurationFor(scene.network, optimizer);
        let state = INITIAL_STATE;
        for (const [k, { batch, columns: given }] of scene.history.entries()) {
          const result = stepOn(engine, configuration, state, scene.network, batch, given ?? undefined);
          state = result.state;
          const seen = { ...scene, history: scene.history.slice(0, k + 1) };
          const expected = once(`history ${JSON.stringify(metric)} ${curvature.title} ${k}`, () =>
            expectedStep(oracleProblem(seen, metric, curvature), 'value', 'full'),
          );
          expectEqual(changesOf(engine, result, scene.network), expected, tolerance, `step ${k}, ${curvature.title}`);
          expect(result.refreshed).toBe('refreshEvery' in metric && k % metric.refreshEvery === 0);
        }
        expect(state).toMatchObject({ step: 7, failedFactorizations: 0 });
      }
    });

    describe.each(PAPER_READINGS)('of the %s recursion, made in the backward pass', (batchCoupling) => {
      it.each(metrics)('$name: every one of seven steps is the oracle’s', ({ metric }) => {
        const scene = once('history of the paper', () => scenario(net, 71, GRADIENT, 7));
        const optimizer = optimizerFor(metric, GRADIENT, 1, {
          coupling: 'value',
          batchCoupling,
          learningRate: PAPER_RATE,
        });
        const configuration = configurationFor(scene.network, optimizer);
        let state = INITIAL_STATE;
        for (const [k, { batch }] of scene.history.entries()) {
          const result = stepOn(engine, configuration, state, scene.network, batch);
          state = result.state;
          const seen = { ...scene, history: scene.history.slice(0, k + 1) };
          const expected = once(`history ${JSON.stringify(metric)} ${batchCoupling} ${k}`, () =>
            expectedPaperStep(seen, metric, GRADIENT, 'value', batchCoupling),
          );
          expectEqual(changesOf(engine, result, scene.network), expected, tolerance, `step ${k}`);
        }
      });
    });

    it.each(METRICS)('$kind: a copied state continues bit for bit', (metric) => {
      const curvature = CURVATURES[3]!;
      const scene = scenario(net, 72, curvature, 12);
      const options = { coupling: 'gauss-newton-step', valueRegularization: 0.1 } as const;
      const optimizer = optimizerFor(metric, curvature, columnCount(scene.history[0]!), options);
      const configuration = configurationFor(scene.network, optimizer);
      let state = INITIAL_STATE;
      let copied = INITIAL_STATE;
      for (const { batch, columns } of scene.history) {
        const step = (from: OptimizerState) =>
          stepOn(engine, configuration, from, scene.network, batch, columns ?? undefined);
        const before = snapshot(engine, state);
        const straight = step(state);
        expect(snapshot(engine, state)).toBe(before);
        const continued = step(copied);
        expect(changesOf(engine, continued, scene.network)).toEqual(changesOf(engine, straight, scene.network));
        state = straight.state;
        copied = restored(engine, snapshot(engine, continued.state));
        expect(snapshot(engine, copied)).toBe(snapshot(engine, state));
      }
    });
  });

  describe('conjugate gradients', () => {
    const iterative = (iterations: number) => ({ solver: { choleskyRows: 0, iterations } });

    it.each(CURVATURES)('with twice as many iterations as rows it is the factorised step: $title', (curvature) => {
      for (const metric of METRICS) {
        for (const index of [1, 3]) {
          const net = NETS[index]!;
          const scene = once(`${curvature.title} ${index}`, () => scenario(net, 7 + index, curvature));
          const columns = columnCount(scene.history[0]!);
          const coupling = 'gauss-newton-step';
          const factorised = changes(scene, optimizerFor(metric, curvature, columns, { coupling }));
          // Rounding costs conjugate gradients their orthogonality, and with it some iterations beyond the rows.
          const options = { coupling, ...iterative(2 * columns * net.batchSize) } as const;
          const iterated = changes(scene, optimizerFor(metric, curvature, columns, options));
          expectEqual(iterated, factorised, engine.precision === 'float64' ? 1e-8 : tolerance, title(net));
        }
      }
    });

    it('is used above choleskyRows and only there', () => {
      const scene = scenario(NETS[1]!, 8, GRADIENT);
      const step = (choleskyRows: number) =>
        changes(scene, optimizerFor(METRICS[0]!, GRADIENT, 1, { coupling: 'value', solver: { choleskyRows, iterations: 1 } })); // prettier-ignore
      const factorised = changes(scene, optimizerFor(METRICS[0]!, GRADIENT, 1, { coupling: 'value' }));
      expect(step(5)).toEqual(factorised);
      expect(relativeError(step(4)[0]!, factorised[0]!)).toBeGreaterThan(1e-3);
    });

    const random = mulberry32(91);
    const systems = [4, 12, 40].map((rows) => {
      // B·H⁻¹ + J Jᵀ: a few large eigenvalues over a floor, with rows of different size.
      const J = gaussianMatrix(random, rows, Math.max(2, rows / 4));
      const sizes = diagonal(Array.from({ length: rows }, () => 10 ** (2 * random() - 1)));
      const floor = diagonal(Array.from({ length: rows }, () => rows * (0.5 + random())));
      return { S: add(floor, multiply(sizes, J, transpose(J), sizes)), b: gaussianMatrix(random, rows, 1) };
    });

    it.each(systems)(
      'its error in the norm of S falls with every iteration, faster than steepest descent’s',
      (system) => {
        const { S, b } = system;
        const n = b.rows;
        const exact = solve(S, b);
        const approximation = (iterations: number): Matrix => {
          const target = engine.tensor(b.data, [n]);
          const full = { kind: 'full', S: engine.tensor(S.data, [n, n]), target } as const;
          const solver = prepareSolver(engine, full, { choleskyRows: n - 1, iterations });
          return columnVector(engine.read(coefficients(engine, solver, null)));
        };
        let descent = scale(b, 0);
        let last = energyNorm(S, exact);
        const floor = last * (engine.precision === 'float64' ? 1e-11 : 1e-4);
        for (let iteration = 1; iteration <= 5; iteration++) {
          const error = energyNorm(S, subtract(approximation(iteration), exact));
          expect(error).toBeLessThan(Math.max(last, floor));
          last = error;
          const residual = subtract(b, multiply(S, descent));
          const direction = build(n, 1, (i) => at(residual, i, 0) / at(S, i, i));
          const length = at(multiply(transpose(direction), residual), 0, 0) / energyNorm(S, direction) ** 2;
          descent = add(descent, scale(direction, length));
          const steepest = energyNorm(S, subtract(descent, exact));
          // The first iterations of both are the same.
          if (iteration > 1) expect(error).toBeLessThan(Math.max(steepest, floor));
        }
      },
    );

    it.each(systems)('more iterations than the system has rows leave the solution as it is', ({ S, b }) => {
      const n = b.rows;
      const full = { kind: 'full', S: engine.tensor(S.data, [n, n]), target: engine.tensor(b.data, [n]) } as const;
      const s = gaussianMatrix(mulberry32(92), n, 1);
      const solver = prepareSolver(engine, full, { choleskyRows: 0, iterations: 10 * n });
      const kappa = columnVector(engine.read(coefficients(engine, solver, engine.tensor(s.data, [n]))));
      expect(relativeError(kappa, solve(S, add(b, s)))).toBeLessThan(tolerance);
      const nothing = { ...full, target: engine.tensor(new Float32Array(n), [n]) };
      const zero = coefficients(engine, prepareSolver(engine, nothing, { choleskyRows: 0, iterations: 5 }), null);
      expect([...engine.read(zero)].every((value) => value === 0)).toBe(true);
    });
  });

  describe('a refresh that fails', () => {
    // One layer. The damping is so small that it vanishes beside the factors: whether they can be inverted is up to the batch.
    const net: Net = { widths: [4, 3], activation: 'linear', loss: 'mse', batchSize: 8 };
    const options = { kind: 'kronecker', damping: 1e-40, decay: 0, refreshEvery: 2 };
    const metric = metricWith(options);

    it('keeps the last good factorisation, counts, and succeeds; the next refresh is good again', () => {
      const { network, history } = scenario(net, 81, GRADIENT, 5);
      // Two samples with the same input, all ones: A is all ones, and no pivot of it but the first is positive.
      const targets = gaussianMatrix(mulberry32(82), 2, 3);
      const singular: Batch = { inputs: build(2, 4, () => 1), objective: { kind: 'mse', targets } };
      const batches = history.map(({ batch }, k) => (k === 2 ? singular : batch));
      const configuration = configurationFor(network, optimizerFor(metric, GRADIENT, 1, { coupling: 'value' }));
      const kept = ({ metrics }: OptimizerState) => snapshot(engine, inverseMetric(metrics![0]![0]!));
      let state = INITIAL_STATE;
      const inverses: string[] = [];
      for (const [k, batch] of batches.entries()) {
        const result = stepOn(engine, configuration, state, network, batch);
        expect(result.refreshed).toBe(k % 2 === 0);
        expect(result.state.failedFactorizations).toBe(k < 2 ? 0 : 1);
        if (k < 4) {
          // The first batch's factorisation serves until the refresh of the last step.
          const seen = { network, history: [{ batch, columns: null }] };
          const problem = oracleProblem(seen, metric, GRADIENT, { metricHistory: history.slice(0, 1) });
          expectEqual(changesOf(engine, result, network), expectedStep(problem, 'value', 'full'));
        }
        ({ state } = result);
        inverses.push(kept(state));
      }
      expect(inverses.slice(1, 4)).toEqual([inverses[0], inverses[0], inverses[0]]);
      expect(inverses[4]).not.toBe(inverses[0]);
    });

    it('with a refreshLag the failure is found and counted when the refresh would have been used', () => {
      const { network, history } = scenario(net, 81, GRADIENT, 6);
      const targets = gaussianMatrix(mulberry32(82), 2, 3);
      const singular: Batch = { inputs: build(2, 4, () => 1), objective: { kind: 'mse', targets } };
      const lagging = metricWith({ ...options, refreshLag: 1 });
      const configuration = configurationFor(network, optimizerFor(lagging, GRADIENT, 1, { coupling: 'value' }));
      for (const settles of [false, true]) {
        let state = INITIAL_STATE;
        const inverses: string[] = [];
        for (const [k, { batch }] of history.entries()) {
          ({ state } = stepOn(engine, configuration, state, network, k === 2 ? singular : batch));
          if (settles) state = settleRefreshes(engine, configuration.optimizer, state);
          // Begun with step 2, used with step 3.
          expect(state.failedFactorizations).toBe(k < 3 ? 0 : 1);
          inverses.push(snapshot(engine, inverseMetric(state.metrics![0]![0]!)));
        }
        expect(inverses.slice(1, 5)).toEqual(new Array(4).fill(inverses[0]));
        expect(inverses[5]).not.toBe(inverses[0]);
      }
    });

    it.each(['kronecker', 'ekfac'] as const)('%s: factors that overflow keep the last good bases', (kind) => {
      const option = metricWith({ kind, damping: 0.01, decay: 0, refreshEvery: 2 });
      const update = (state: MetricState | null, size: number, step: number) => {
        const gradients = {
          kind: 'outer',
          input: engine.tensor(
            [1, 2, 3, -1, 0.5, 1].map((value) => size * value),
            [2, 3],
          ),
          output: engine.tensor([1, 2, 2, -1], [2, 2]),
        } as const;
        const statistics = {
          lossGradients: gradients,
          gradientWeights: null,
          costGradient: null,
          columns: gradients,
          rowWeights: engine.tensor([1, 1], [2]),
          batch: 2,
          isFirstLayer: false,
        };
        return updateMetric(engine, option, state, statistics, step, 'a');
      };
      const size = engine.precision === 'float64' ? 1e200 : 1e25;
      const first = update(null, 1, 0);
      expect(first.refreshFailed).toBe(false);
      const failed = update(first.state, size, 2);
      expect(failed.refreshFailed).toBe(true);
      const basis = (state: MetricState) => {
        const { input, output } = inverseMetric(state);
        return snapshot(engine, [input, output]);
      };
      expect(basis(failed.state)).toBe(basis(first.state));
      // Between two refreshes nothing is factorised, so nothing can fail; the first time there is nothing to keep.
      expect(update(first.state, size, 1).refreshFailed).toBe(false);
      expect(() => update(null, size, 0)).toThrow(ProblemError);
    });

    it('a step that overflows is refused by its layer’s name and leaves the state as it was', () => {
      for (const each of METRICS) {
        const scene = scenario({ ...NETS[2]!, activation: 'linear' }, 83, GRADIENT, 3);
        const optimizer = optimizerFor(each, GRADIENT, 1, { coupling: 'value' });
        const { configuration, result } = run(scene, optimizer);
        const before = snapshot(engine, result.state);
        const live = engine.liveTensors;
        const [{ batch }] = scene.history as [Observation];
        const size = engine.precision === 'float64' ? 1e170 : 1e25;
        const huge = { ...batch, inputs: scale(batch.inputs, size) };
        expect(() => engine.scope(() => stepOn(engine, configuration, result.state, scene.network, huge))).toThrow(
          expect.objectContaining({
            code: 'numerical_failure',
            details: expect.objectContaining({ param: expect.stringMatching(/^layers\.layer\d$/) as string }) as object,
          }),
        );
        expect(engine.liveTensors).toBe(live);
        expect(snapshot(engine, result.state)).toBe(before);
        stepOn(engine, configuration, result.state, scene.network, batch);
      }
    });
  });
});

describe('combinations the service refuses', () => {
  const gradientOnly = [{ kind: 'gauss-newton', columns: 2 }, { kind: 'sampled-fisher' }] as const;

  it('takes every other combination', () => {
    for (const metric of METRICS) {
      for (const curvature of CURVATURES) {
        for (const coupling of COUPLINGS) {
          for (const batchCoupling of BATCH_COUPLINGS) {
            const found = objections(optimizerFor(metric, curvature, 2, { coupling, batchCoupling }));
            expect(found.length === 0).toBe(isTaken(metric, curvature, coupling, batchCoupling));
          }
        }
      }
    }
  });

  it.each(gradientOnly)('batch coupling by the sample with terminal curvature %o', (terminalCurvature) => {
    for (const batchCoupling of BATCH_COUPLINGS.slice(1)) {
      const [found, ...others] = objections({
        terminalCurvature,
        batchCoupling,
        coupling: 'value',
        learningRate: { kind: 'constant' },
      });
      expect(others).toEqual([]);
      expect(found).toMatchObject({ path: 'optimizer.batchCoupling' });
      expect(found!.message).toContain(`"${terminalCurvature.kind}"`);
    }
  });

  it.each(gradientOnly)('feedback with terminal curvature %o', (terminalCurvature) => {
    const [found] = objections({ terminalCurvature, coupling: 'feedback' });
    expect(found).toMatchObject({ path: 'optimizer.coupling' });
    expect(found!.message).toContain(`the terminal curvature is "${terminalCurvature.kind}"`);
    expect(objections({ terminalCurvature, coupling: 'gauss-newton-step' })).toEqual([]);
  });

  it.each(['ekfac'])('a policy, and so feedback, with metric %s', (kind) => {
    const [feedback] = objections({ metric: { kind }, coupling: 'feedback' });
    expect(feedback).toMatchObject({ path: 'optimizer.coupling' });
    expect(feedback!.message).toContain(`the metric is "${kind}"`);
    const [policy] = objections({ metric: { kind }, coupling: 'value' }, { reply: 'policy' });
    expect(policy).toMatchObject({ path: 'reply' });
    expect(policy!.message).toContain(`the metric is "${kind}"`);
  });

  it('a policy with what needs the finished update', () => {
    for (const option of [{ momentum: 0.5 }, { lookahead: {} }, { maximumNorm: 1 }, { maximumPredictedDecrease: 1 }]) {
      const [name] = Object.keys(option);
      const [found] = objections({ ...option, coupling: 'feedback' });
      expect(found).toMatchObject({ path: 'optimizer.coupling', message: expect.stringContaining(name!) as string });
      expect(objections({ ...option, coupling: 'value' })).toEqual([]);
    }
  });

  it('a policy that predicts by itself, and an update that cannot be known', () => {
    const [policy] = objections({ coupling: 'gauss-newton-step' }, { reply: 'policy' });
    expect(policy).toMatchObject({ path: 'reply', message: expect.stringContaining('"gauss-newton-step"') as string });
    const [update] = objections({ coupling: 'feedback' }, { reply: 'update' });
    expect(update).toMatchObject({ path: 'reply', message: expect.stringContaining('"feedback"') as string });
  });

  it.each(PAPER_READINGS)('a regularised %s recursion', (batchCoupling) => {
    const optimizer = { batchCoupling, coupling: 'value', learningRate: { kind: 'constant' } };
    expect(objections({ ...optimizer, valueRegularization: 0 })).toEqual([]);
    expect(objections({ ...optimizer, valueRegularization: 0.1 })).toMatchObject([
      { path: 'optimizer.valueRegularization', message: expect.stringContaining(batchCoupling) as string },
    ]);
  });

  it.each(PAPER_READINGS)('the leverage rule with a metric that depends on η, as of %s', (batchCoupling) => {
    const learningRate = { kind: 'leverage' };
    expect(objections({ learningRate, batchCoupling: 'full' })).toEqual([]);
    expect(objections({ learningRate, batchCoupling })).toMatchObject([
      { path: 'optimizer.learningRate.kind', message: expect.stringContaining(batchCoupling) as string },
    ]);
  });

  it.each([
    ['optimizer.metric.epsilon', { metric: { kind: 'adam', epsilon: 0 } }],
    ['optimizer.metric.decay', { metric: { kind: 'rmsprop', decay: 1 } }],
    ['optimizer.metric.damping', { metric: { kind: 'ekfac', damping: 0 } }],
    ['optimizer.metric.refreshEvery', { metric: { kind: 'ekfac', refreshEvery: 0.5 } }],
    ['optimizer.metric.kind', { metric: { kind: 'newton' } }],
    ['optimizer.terminalCurvature.columns', { terminalCurvature: { kind: 'gauss-newton' }, coupling: 'value' }],
    ['optimizer.terminalCurvature.columns', { terminalCurvature: { kind: 'gauss-newton', columns: 0 }, coupling: 'value' }], // prettier-ignore
    ['optimizer.terminalCurvature.lossScale', { terminalCurvature: { kind: 'gradient', lossScale: { floor: 2, ceiling: 1 } } }], // prettier-ignore
    ['optimizer.coupling', { coupling: 'both' }],
    ['optimizer.batchCoupling', { batchCoupling: 'none' }],
    ['optimizer.valueRegularization', { valueRegularization: -1 }],
    ['optimizer.solver.iterations', { solver: { iterations: 0 } }],
    ['optimizer.solver.choleskyRows', { solver: { choleskyRows: -1 } }],
    ['optimizer.weightDecay.rate', { weightDecay: { kind: 'decoupled', rate: 1 } }],
    ['optimizer.weightDecay.rate', { weightDecay: { kind: 'running-cost', rate: -1 } }],
    ['optimizer.weightDecay.kind', { weightDecay: { kind: 'l1', rate: 0.1 } }],
    ['optimizer.groups.0.weightDecayFactor', { weightDecay: { kind: 'decoupled', rate: 0.1 }, groups: [{ pattern: '*', weightDecayFactor: 10 }] }], // prettier-ignore
    ['optimizer.groups.0.weightDecayFactor', { groups: [{ pattern: '*', weightDecayFactor: -1 }] }],
    ['optimizer.lookahead.steps', { lookahead: { steps: 0 } }],
    ['optimizer.lookahead.interpolation', { lookahead: { interpolation: 0 } }],
  ])('%s out of its range: %o', (path, optimizer) => {
    expect(objections(optimizer).map((each) => each.path)).toContain(path);
  });
});
