/**
 * Kernel mode: a client computes N_t in a metric of its own, or in the service's inverse Kronecker factors, and makes the changes
 * from what it gets back; they are the dense oracle's.
 */
import { describe, expect, it } from 'vitest';
import { readCoefficients, solveCoefficients } from '../../clients/js/coefficients.ts';
import { ReplyTensors } from '../../clients/js/reply-tensors.ts';
import { INITIAL_STATE } from '../../gpu-worker/optimizer/state.ts';
import type { Engine } from '../../gpu-worker/tensor/engine.ts';
import { presentEngines } from '../../gpu-worker/tensor/index.ts';
import { createReferenceEngine } from '../../gpu-worker/tensor/reference.ts';
import { kernelTrainer } from '../../gpu-worker/training/kernel-trainer.ts';
import type { Trainer } from '../../gpu-worker/training/trainer.ts';
import {
  kernelDefinitionSchema,
  type KernelDefinition,
  type KernelDefinitionInput,
} from '../../shared/kernel-definition.ts';
import { sentColumns } from '../../shared/optimizer.ts';
import { encode, type NamedTensor } from '../../shared/safetensors.ts';
import type { StepMetrics } from '../../shared/session.ts';
import { packAllSymmetric, packSymmetric, unpackAllSymmetric, unpackSymmetric } from '../../shared/triangle.ts';
import {
  ddpStep as oracleStep,
  diagonalStep,
  sampleGradients,
  type Coupling as OracleCoupling,
  type Problem,
} from '../oracle/bellman.ts';
import {
  add,
  build,
  columnVector,
  identity,
  inverse,
  kron,
  multiply,
  reshape,
  scale,
  transpose,
  type Matrix,
  zeros,
} from '../oracle/matrix.ts';
import {
  averagedFactors,
  batchFactors,
  dampedFactors,
  truncatedInverse,
  type LayerStatistics,
} from '../oracle/metric.ts';
import { paperStep } from '../oracle/paper.ts';
import {
  backpropagate,
  forward,
  gaussianMatrix,
  losses,
  mulberry32,
  prediction,
  randomBatch,
  randomProblem,
  type Batch,
  type Network,
} from '../oracle/network.ts';
import { oracleJudgedEngine } from './engines.ts';
import { applyPolicies, columnGradients, configurationFor, relativeError, stepOn, TOLERANCE } from './drive.ts';

const WIDTHS = [4, 5, 3];
const BATCH = 6;
const ETA = 2;
const OUTPUTS = 3;

function scenario(seed: number, batches: number): { network: Network; batches: Batch[] } {
  const options = { activation: 'tanh', loss: 'softmax-cross-entropy', batchSize: BATCH } as const;
  const { network, batch } = randomProblem({ widths: WIDTHS, seed, ...options });
  const random = mulberry32(seed + 100);
  const more = Array.from({ length: batches - 1 }, () => randomBatch(random, WIDTHS, options.loss, BATCH));
  return { network, batches: [batch, ...more] };
}

type Optimizer = NonNullable<KernelDefinitionInput['optimizer']>;

function definitionFor(network: Network, optimizer: Optimizer, withFactors = false): KernelDefinition {
  return kernelDefinitionSchema.parse({
    mode: 'kernel',
    layers: network.map(({ weights }, t) => ({
      name: `layer${t}`,
      ...(withFactors ? { factors: { inputs: weights.rows, outputs: weights.cols } } : {}),
    })),
    optimizer: { learningRate: { kind: 'constant', value: ETA }, ...optimizer },
  });
}

/** What the client's passes over a batch yield: J, the mean loss gradient D̄ if it is not of J, and the losses. */
interface Passes {
  readonly phi: Float64Array;
  readonly layers: readonly { readonly J: Matrix; readonly meanGradient: Matrix | null }[];
}

function passesOver(network: Network, batch: Batch, { optimizer }: KernelDefinition): Passes {
  const trajectory = forward(network, batch.inputs);
  const { inputs, outputGradients } = backpropagate(network, trajectory, batch.objective);
  const columns = columnGradients(network, trajectory, batch, optimizer.terminalCurvature);
  return {
    phi: losses(prediction(trajectory), batch.objective),
    layers: inputs.map((input, t) => {
      const D = sampleGradients(input, outputGradients[t]!);
      if (columns === null) return { J: D, meanGradient: null };
      const mean = multiply(transpose(D), columnVector(new Float64Array(D.rows).fill(1 / D.rows)));
      return { J: sampleGradients(input, columns[t]!), meanGradient: mean };
    }),
  };
}

const tensor = (name: string, values: Float64Array, shape: readonly number[] = [values.length]): NamedTensor => ({
  name,
  shape,
  values,
});
const packed = (name: string, { data, rows }: Matrix): NamedTensor =>
  tensor(name, packSymmetric(Float64Array.from(data), rows) as Float64Array);

/** The body of a step whose kernels are made with these P⁻¹. */
function bodyOf(
  { layers: declared, optimizer }: KernelDefinition,
  { phi, layers }: Passes,
  inverses: readonly Matrix[],
  more: readonly NamedTensor[] = [],
): Uint8Array<ArrayBuffer> {
  const kernels = layers.flatMap(({ J, meanGradient }, t) => {
    const { name } = declared[t]!;
    const N = multiply(J, inverses[t]!, transpose(J));
    const rows = Array.from({ length: N.rows }, (_, i) => N.data[i * N.rows + i]!);
    const kernel =
      optimizer.batchCoupling === 'diagonal'
        ? tensor(`layers.${name}.gram_diagonal`, Float64Array.from(rows))
        : packed(`layers.${name}.gram`, N);
    if (meanGradient === null) return [kernel];
    const predicted = multiply(J, inverses[t]!, meanGradient);
    const shape = [BATCH, sentColumns(optimizer.terminalCurvature)];
    return [kernel, tensor(`layers.${name}.gram_mean_grad`, Float64Array.from(predicted.data), shape)];
  });
  return encode([tensor('losses', Float64Array.from(phi)), ...kernels, ...more]);
}

interface Reply {
  readonly tensors: ReplyTensors;
  readonly metrics: StepMetrics;
}

function take(trainer: Trainer, body: Uint8Array): Reply {
  const { answer, metrics } = trainer.step(body);
  return { tensors: new ReplyTensors(answer.body), metrics };
}

/** −η_t P⁻¹(D̄ + Jᵀκ), [n, c]. */
function changeFor(
  network: Network,
  t: number,
  passes: Passes,
  P: Matrix,
  eta: number,
  kappa: ArrayLike<number>,
): Matrix {
  const { J, meanGradient } = passes.layers[t]!;
  const weighted = multiply(transpose(J), columnVector(kappa));
  const gradient = meanGradient === null ? weighted : add(weighted, meanGradient);
  const { rows, cols } = network[t]!.weights;
  return reshape(scale(multiply(P, gradient), -eta), rows, cols);
}

/** The changes that a client makes of a reply, in the second forward pass where the reply has factors. */
function changesFrom(
  network: Network,
  batch: Batch,
  passes: Passes,
  inverses: readonly Matrix[],
  { tensors }: Reply,
): Matrix[] {
  const rate = (t: number): number => tensors.number(`layers.layer${t}.learning_rate`);
  if (tensors.has('layers.layer0.coefficients')) {
    return network.map((_, t) =>
      changeFor(network, t, passes, inverses[t]!, rate(t), tensors.values(`layers.layer${t}.coefficients`)),
    );
  }
  const policies = network.map((_, t) => ({
    change: (s: ArrayLike<number> | null) => {
      const kappa = solveCoefficients(readCoefficients(tensors, `layer${t}`), s);
      const { data, rows, cols } = changeFor(network, t, passes, inverses[t]!, rate(t), kappa);
      const values = Float64Array.from(data);
      return { weight: values.slice(0, (rows - 1) * cols), bias: values.slice((rows - 1) * cols) };
    },
  }));
  return applyPolicies(policies, network, batch, 'network');
}

/** A symmetric positive definite matrix that is nothing in particular: the client's own metric. */
function ownMetric(m: number, seed: number): Matrix {
  const root = gaussianMatrix(mulberry32(seed), m, m);
  return add(scale(multiply(root, transpose(root)), 1 / m), scale(identity(m), 0.5));
}

const SCALED = { kind: 'gradient', lossScale: { floor: 0.5, ceiling: 100 } } as const;
const COUPLINGS = ['layerwise', 'value', 'gauss-newton-step', 'feedback'] as const;
const CASES = [
  ...COUPLINGS.flatMap((coupling) => [
    { coupling, terminalCurvature: SCALED },
    { coupling, terminalCurvature: SCALED, valueRegularization: 0.3 },
    ...(coupling === 'gauss-newton-step'
      ? []
      : [{ coupling, terminalCurvature: SCALED, batchCoupling: 'diagonal' } as const]),
    ...(['paper-faithful', 'paper-averaged'] as const).map((batchCoupling) => {
      return { coupling, terminalCurvature: { kind: 'gradient', lossScale: null }, batchCoupling } as const;
    }),
  ]),
  ...(['layerwise', 'value', 'gauss-newton-step'] as const).map((coupling) => ({
    coupling,
    terminalCurvature: { kind: 'gauss-newton', columns: OUTPUTS } as const,
  })),
];

function expectedChanges(problem: Problem, { optimizer }: KernelDefinition): Matrix[] {
  const { coupling, batchCoupling } = optimizer;
  const oracleCoupling: OracleCoupling = coupling === 'gauss-newton-step' ? 'linear-feedback' : coupling;
  if (batchCoupling === 'full') return [...oracleStep(problem, oracleCoupling).deltaU];
  if (batchCoupling === 'diagonal') return diagonalStep(problem, oracleCoupling);
  // In this mode the metric is the client's, whatever the recursion passes back.
  const { network, batch, controlMetrics } = problem;
  const ofPaper = { network, batches: [batch], controlMetric: (t: number): Matrix => controlMetrics[t]! };
  return paperStep(ofPaper, oracleCoupling, batchCoupling);
}

function problemFor(
  network: Network,
  batch: Batch,
  { optimizer }: KernelDefinition,
  metrics: readonly Matrix[],
): Problem {
  const { terminalCurvature: curvature, valueRegularization } = optimizer;
  return {
    network,
    batch,
    curvature:
      curvature.kind === 'gauss-newton'
        ? { kind: 'gauss-newton' }
        : {
            kind: 'gradient',
            ...(curvature.kind === 'gradient' && curvature.lossScale !== null
              ? { lossScale: curvature.lossScale }
              : {}),
          },
    controlMetrics: metrics.map((P) => scale(P, 1 / ETA)),
    valueRegularization,
  };
}

describe.each(presentEngines())('engine %s', async (name) => {
  const engine = await oracleJudgedEngine(name);
  const tolerance = TOLERANCE[engine.precision];

  function expectEqual(actual: readonly Matrix[], expected: readonly Matrix[]): void {
    expect(actual).toHaveLength(expected.length);
    for (const [t, matrix] of actual.entries()) expect(relativeError(matrix, expected[t]!)).toBeLessThan(tolerance);
  }

  it.each(CASES)(
    'the client’s own metric: $coupling, $batchCoupling, $terminalCurvature.kind, ε = $valueRegularization',
    (optimizer) => {
      const { network, batches } = scenario(11, 1);
      const definition = definitionFor(network, optimizer);
      // Of the paper's recursion to the letter nothing would be left for the first layers at a smaller one.
      const size = definition.optimizer.batchCoupling === 'paper-faithful' ? 50 : 1;
      const metrics = network.map(({ weights }, t) => scale(ownMetric(weights.rows * weights.cols, t), size));
      const inverses = metrics.map(inverse);
      const passes = passesOver(network, batches[0]!, definition);
      const trainer = kernelTrainer(engine, definition);
      const before = engine.liveTensors;
      const reply = take(trainer, bodyOf(definition, passes, inverses));
      const changes = changesFrom(network, batches[0]!, passes, inverses, reply);
      expectEqual(changes, expectedChanges(problemFor(network, batches[0]!, definition, metrics), definition));
      trainer.close();
      expect(engine.liveTensors).toBe(before);
    },
  );

  it('groups give layers learning rates of their own', () => {
    const { network, batches } = scenario(12, 1);
    const groups = [{ pattern: '*0', learningRateFactor: 0.25 }];
    const definition = definitionFor(network, { coupling: 'value', terminalCurvature: SCALED, groups });
    const metrics = network.map(({ weights }, t) => ownMetric(weights.rows * weights.cols, t));
    const inverses = metrics.map(inverse);
    const passes = passesOver(network, batches[0]!, definition);
    const reply = take(kernelTrainer(engine, definition), bodyOf(definition, passes, inverses));
    expect(reply.tensors.number('layers.layer0.learning_rate')).toBe(ETA / 4);
    const problem = problemFor(network, batches[0]!, definition, metrics.map((P, t) => scale(P, t === 0 ? 4 : 1))); // prettier-ignore
    expectEqual(changesFrom(network, batches[0]!, passes, inverses, reply), [...oracleStep(problem, 'value').deltaU]);
  });

  describe('the service’s Kronecker factors', () => {
    const METRIC = { kind: 'kronecker', damping: 0.03, decay: 0.8 } as const;

    function statisticsOf(network: Network, batch: Batch): LayerStatistics[] {
      const { inputs, outputGradients } = backpropagate(network, forward(network, batch.inputs), batch.objective);
      const terminalWeights = new Float64Array(BATCH).fill(1);
      return inputs.map((input, t) => ({ inputs: input, outputGradients: outputGradients[t]!, terminalWeights }));
    }

    function factorTensors(network: Network, batch: Batch): NamedTensor[] {
      return statisticsOf(network, batch).flatMap((statistics, t) => {
        const { A, Gamma } = batchFactors(statistics);
        return [packed(`layers.layer${t}.factor.input`, A), packed(`layers.layer${t}.factor.output_grad`, Gamma)];
      });
    }

    /** The damped factors averaged over these batches. */
    function damped(network: Network, batches: readonly Batch[], t: number): { A: Matrix; Gamma: Matrix } {
      const statistics = batches.map((batch) => statisticsOf(network, batch)[t]!);
      return dampedFactors(averagedFactors(statistics, METRIC.decay), METRIC.damping);
    }

    const asSquare = (values: Float32Array | Float64Array, n: number): Matrix => {
      const matrix = unpackSymmetric(values, n);
      return build(n, n, (i, j) => matrix[i * n + j]!);
    };

    /** Steps of a client that sends statistics with every second of them and uses whatever inverses it has. */
    function train(engineUsed: Engine, settles: boolean, steps: number) {
      const { network, batches } = scenario(13, steps);
      const optimizer: Optimizer = {
        coupling: 'value',
        terminalCurvature: { kind: 'gradient', lossScale: null },
        metric: METRIC,
      };
      const definition = definitionFor(network, optimizer, true);
      const trainer = kernelTrainer(engineUsed, definition);
      let held = network.map(() => 0);
      let factors = network.map(({ weights }) => ({ A: identity(weights.rows), Gamma: identity(weights.cols) }));
      const history = batches.map((batch, n) => {
        const passes = passesOver(network, batch, definition);
        const inverses = factors.map(({ A, Gamma }) => kron(A, Gamma));
        const versions = tensor('metric_versions', Float64Array.from(held));
        const statistics = n % 2 === 0 ? factorTensors(network, batch) : [];
        const body = bodyOf(definition, passes, inverses, [versions, ...statistics]);
        const reply = take(trainer, body);
        if (settles) trainer.settle();
        const used = factors;
        const carried = network.map((_, t) => reply.tensors.has(`layers.layer${t}.metric.input_inverse`));
        factors = factors.map((before, t) => {
          if (!carried[t]) return before;
          const { rows, cols } = network[t]!.weights;
          return {
            A: asSquare(reply.tensors.values(`layers.layer${t}.metric.input_inverse`), rows),
            Gamma: asSquare(reply.tensors.values(`layers.layer${t}.metric.output_grad_inverse`), cols),
          };
        });
        held = [...reply.tensors.values('metric_versions')];
        const changes = changesFrom(network, batch, passes, inverses, reply);
        return { batch, body, reply, used, carried, held, changes };
      });
      trainer.close();
      return { network, batches, definition, history };
    }

    it('come with the first step’s reply, later with the one after the step that made them due, and are the oracle’s', () => {
      const { network, batches, definition, history } = train(engine, true, 5);
      expect(history.map(({ held }) => held[0])).toEqual([1, 1, 1, 2, 2]);
      expect(history.map(({ carried }) => carried)).toEqual([[true, true], [false, false], [false, false], [true, true], [false, false]]); // prettier-ignore
      expect(history.map(({ reply }) => reply.metrics.refreshed)).toEqual([true, false, true, false, true]);
      // Of which batches the factors were made that each step's kernels stand on.
      const averaged = [[], [0], [0], [0], [0, 2]];
      for (const [n, { batch, used, changes }] of history.entries()) {
        const seen = averaged[n]!.map((index) => batches[index]!);
        const expected = network.map(({ weights }, t) =>
          seen.length === 0 ? { A: identity(weights.rows), Gamma: identity(weights.cols) } : damped(network, seen, t),
        );
        expectEqual(used.map(({ A }) => A), expected.map(({ A }) => inverse(A))); // prettier-ignore
        expectEqual(used.map(({ Gamma }) => Gamma), expected.map(({ Gamma }) => inverse(Gamma))); // prettier-ignore
        const metrics = expected.map(({ A, Gamma }) => kron(A, Gamma));
        expectEqual(changes, expectedChanges(problemFor(network, batch, definition, metrics), definition));
      }
    });

    it('are the same whether the refresh is done after the reply or when the next step comes', () => {
      const [after, lazily] = [true, false].map((settles) => train(engine, settles, 4).history);
      for (const [n, { body, reply }] of after!.entries()) {
        expect(lazily![n]!.body).toEqual(body);
        expect(lazily![n]!.reply).toEqual(reply);
      }
    });

    /** A⁻¹ or Γ⁻¹ of a layer that a reply carries, by block. */
    const inversesIn = ({ tensors }: Reply, t: number, side: 'input' | 'output_grad', n: number): Matrix[] =>
      unpackAllSymmetric(tensors.values(`layers.layer${t}.metric.${side}_inverse`), n).map((matrix) =>
        build(n, n, (i, j) => matrix[i * n + j]!),
      );

    describe.each([{ rank: null }, { rank: 3 }])('with a first input factor frozen at rank $rank', ({ rank }) => {
      const frozen = { kind: 'frozen', batches: 2, rank, damping: 0.5 } as const;
      const withoutFirstInput = (tensors: readonly NamedTensor[]) =>
        tensors.filter(({ name: each }) => each !== 'layers.layer0.factor.input');

      it('its statistics come from the first batches alone, and may be left out from then on', () => {
        const { network, batches } = scenario(16, 5);
        const optimizer: Optimizer = {
          coupling: 'value',
          terminalCurvature: { kind: 'gradient', lossScale: null },
          metric: { ...METRIC, firstInputFactor: frozen },
        };
        const definition = definitionFor(network, optimizer, true);
        const trainer = kernelTrainer(engine, definition);
        let inverses = network.map(({ weights }) => ({ A: identity(weights.rows), Gamma: identity(weights.cols) }));
        // Of which batches the factors were made that each step's kernels stand on.
        const averaged = [[], [0], [0], [0, 1], [0, 1, 2]];
        for (const [n, batch] of batches.entries()) {
          const seen = averaged[n]!.map((index) => batches[index]!);
          const expected = network.map(({ weights }, t) => {
            if (seen.length === 0) return { A: identity(weights.rows), Gamma: identity(weights.cols) };
            const all = damped(network, seen, t);
            if (t > 0 || seen.length < 2) return { A: inverse(all.A), Gamma: inverse(all.Gamma) };
            const { Gamma } = averagedFactors(
              seen.map((each) => statisticsOf(network, each)[t]!),
              METRIC.decay,
            );
            const { A } = averagedFactors(batches.slice(0, 2).map((each) => statisticsOf(network, each)[t]!), METRIC.decay); // prettier-ignore
            const split = dampedFactors({ A, Gamma }, METRIC.damping);
            return { A: truncatedInverse(A, rank ?? A.rows, 0.5), Gamma: inverse(split.Gamma) };
          });
          expectEqual(inverses.map(({ A }) => A), expected.map(({ A }) => A)); // prettier-ignore
          expectEqual(inverses.map(({ Gamma }) => Gamma), expected.map(({ Gamma }) => Gamma)); // prettier-ignore
          const passes = passesOver(network, batch, definition);
          const P = inverses.map(({ A, Gamma }) => kron(A, Gamma));
          const statistics = factorTensors(network, batch);
          const body = bodyOf(definition, passes, P, n < 2 ? statistics : withoutFirstInput(statistics));
          const reply = take(trainer, body);
          if (rank === null) {
            const metrics = expected.map(({ A, Gamma }) => kron(inverse(A), inverse(Gamma)));
            const changes = changesFrom(network, batch, passes, P, reply);
            expectEqual(changes, expectedChanges(problemFor(network, batch, definition, metrics), definition));
          }
          inverses = inverses.map((_, t) => {
            const { rows, cols } = network[t]!.weights;
            return { A: inversesIn(reply, t, 'input', rows)[0]!, Gamma: inversesIn(reply, t, 'output_grad', cols)[0]! };
          });
        }
        trainer.close();
      });

      it('statistics without it are refused until it is frozen', () => {
        const { network, batches } = scenario(17, 1);
        const definition = definitionFor(network, { coupling: 'value', metric: { ...METRIC, firstInputFactor: frozen } }, true); // prettier-ignore
        const trainer = kernelTrainer(engine, definition);
        const passes = passesOver(network, batches[0]!, definition);
        const P = network.map(({ weights }) => identity(weights.rows * weights.cols));
        const body = bodyOf(definition, passes, P, withoutFirstInput(factorTensors(network, batches[0]!)));
        expect(() => trainer.step(body)).toThrow(expect.objectContaining({ code: 'missing_tensor' }) as unknown);
        trainer.close();
      });
    });

    it('of a convolution with groups are the oracle’s, group by group', () => {
      const [GROUPS, inputs, outputs, STEPS] = [3, 4, 2, 3];
      const random = mulberry32(18);
      const batches = Array.from({ length: STEPS }, () =>
        Array.from({ length: GROUPS }, (): LayerStatistics => ({
          inputs: gaussianMatrix(random, BATCH, inputs - 1),
          outputGradients: gaussianMatrix(random, BATCH, outputs),
          terminalWeights: new Float64Array(BATCH).fill(1),
        })),
      );
      const definition = kernelDefinitionSchema.parse({
        mode: 'kernel',
        layers: [{ name: 'layer0', factors: { inputs, outputs, groups: GROUPS } }, { name: 'layer1' }],
        optimizer: { coupling: 'value', metric: METRIC },
      });
      const rows = (factor: string, matrices: readonly Matrix[]): NamedTensor => {
        const n = matrices[0]!.rows;
        const values = packAllSymmetric(Float64Array.from(matrices.flatMap(({ data }) => [...data])), n);
        return tensor(`layers.layer0.factor.${factor}`, values as Float64Array, [GROUPS, values.length / GROUPS]);
      };
      const trainer = kernelTrainer(engine, definition);
      const replies = batches.map((groups) => {
        const factors = groups.map(batchFactors);
        const kernel = packSymmetric(Float64Array.from(identity(BATCH).data), BATCH) as Float64Array;
        const body = encode([
          tensor('losses', new Float64Array(BATCH).fill(1)),
          tensor('layers.layer0.gram', kernel),
          tensor('layers.layer1.gram', kernel),
          rows('input', factors.map(({ A }) => A)), // prettier-ignore
          rows('output_grad', factors.map(({ Gamma }) => Gamma)), // prettier-ignore
        ]);
        return take(trainer, body);
      });
      // The first refresh is part of its step; what the second batch makes due comes with the third reply.
      for (const [reply, seen] of [
        [replies[0]!, 1],
        [replies[2]!, 2],
      ] as const) {
        // prettier-ignore
        const expected = Array.from({ length: GROUPS }, (_, group) =>
          dampedFactors(averagedFactors(batches.slice(0, seen).map((groups) => groups[group]!), METRIC.decay), METRIC.damping), // prettier-ignore
        );
        expectEqual(inversesIn(reply, 0, 'input', inputs), expected.map(({ A }) => inverse(A))); // prettier-ignore
        expectEqual(inversesIn(reply, 0, 'output_grad', outputs), expected.map(({ Gamma }) => inverse(Gamma))); // prettier-ignore
      }
      expect(replies.map(({ tensors }) => [...tensors.values('metric_versions')])).toEqual([[1, 0], [1, 0], [2, 0]]); // prettier-ignore
      trainer.close();
    });

    it('that have no inverse later on keep the last good one, and count it', () => {
      const { network, batches } = scenario(14, 1);
      const definition = definitionFor(network, { coupling: 'value', metric: { ...METRIC, decay: 0 } }, true);
      const passes = passesOver(network, batches[0]!, definition);
      const inverses = network.map(({ weights }) => identity(weights.rows * weights.cols));
      const trainer = kernelTrainer(engine, definition);
      const good = factorTensors(network, batches[0]!);
      // Symmetric with a positive diagonal, and indefinite.
      const indefinite = good.map((each) =>
        each.name === 'layers.layer1.factor.output_grad'
          ? { ...each, values: Float64Array.of(1, 5, 0, 1, 0, 1) }
          : each,
      );
      const first = take(trainer, bodyOf(definition, passes, inverses, good));
      expect(first.metrics.failedFactorizations).toBe(0);
      take(trainer, bodyOf(definition, passes, inverses, indefinite));
      const third = take(trainer, bodyOf(definition, passes, inverses));
      expect(third.metrics.failedFactorizations).toBe(1);
      expect([...third.tensors.values('metric_versions')]).toEqual([2, 1]);
      expect(third.tensors.values('layers.layer1.metric.output_grad_inverse')).toEqual(
        first.tensors.values('layers.layer1.metric.output_grad_inverse'),
      );
      trainer.close();
    });
  });
});

describe('the learning rate', () => {
  const engine = createReferenceEngine();

  it.each([
    { kind: 'leverage', value: 3, decay: 0.7 },
    { kind: 'levenberg-marquardt', initial: 4, every: 1, factor: 2 },
    { kind: 'cosine', value: 2, steps: 5, warmUpSteps: 2 },
  ] as const)('$kind: as in layers mode', (learningRate) => {
    const { network, batches } = scenario(15, 4);
    const options = { learningRate, terminalCurvature: SCALED, coupling: 'gauss-newton-step' } as const;
    const definition = definitionFor(network, options);
    const configuration = configurationFor(network, { ...options, metric: { kind: 'identity' } });
    const trainer = kernelTrainer(engine, definition);
    const inverses = network.map(({ weights }) => identity(weights.rows * weights.cols));
    let state = INITIAL_STATE;
    for (const [n, batch] of batches.entries()) {
      const passes = passesOver(network, batch, definition);
      const isJudging = learningRate.kind === 'levenberg-marquardt' && n > 0;
      const previous = isJudging ? passes.phi.map((loss) => loss * (n % 2 === 0 ? 1.5 : 0.7)) : null;
      const more = previous === null ? [] : [tensor('previous_losses', Float64Array.from(previous))];
      const reply = take(trainer, bodyOf(definition, passes, inverses, more));
      const result = stepOn(engine, configuration, state, network, batch, undefined, previous);
      ({ state } = result);
      expect(reply.metrics.learningRate).toBeCloseTo(result.learningRate, 10);
    }
    trainer.close();
  });

  it('leverage: a kernel of zeros, which brings statistics alone, is no leverage', () => {
    const { network, batches } = scenario(15, 2);
    const definition = definitionFor(network, {
      learningRate: { kind: 'leverage', value: 3, warmUpSteps: 0 },
      terminalCurvature: SCALED,
    });
    const [first, second] = batches;
    const inverses = network.map(({ weights }) => identity(weights.rows * weights.cols));
    const nothing = inverses.map(({ rows, cols }) => zeros(rows, cols));
    const body = (batch: typeof first, metric: typeof inverses): Uint8Array =>
      bodyOf(definition, passesOver(network, batch!, definition), metric);
    const rate = (trainer: Trainer, step: Uint8Array): number => take(trainer, step).metrics.learningRate;
    const plain = kernelTrainer(engine, definition);
    const prepared = kernelTrainer(engine, definition);
    expect(rate(prepared, body(first, nothing))).toBe(3);
    expect(rate(prepared, body(second, inverses))).toBe(rate(plain, body(second, inverses)));
    plain.close();
    prepared.close();
  });
});
