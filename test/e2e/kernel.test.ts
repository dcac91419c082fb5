/** Kernel mode through HTTP: the client library against the dense oracle, what travels, and every refusal. */
import { afterAll, beforeAll, describe, expect, it, onTestFailed } from 'vitest';
import { DdpnoptClient, terminalWeights, type KernelTrainingSession } from '../../clients/js/index.ts';
import { startStack, type LocalStack } from '../../deploy/local/stack.ts';
import type { KernelDefinitionInput } from '../../shared/kernel-definition.ts';
import { encode, readHeader, type NamedTensor } from '../../shared/safetensors.ts';
import { applyPolicies, relativeError } from '../conformance/drive.ts';
import { ddpStep as oracleStep, sampleGradients } from '../oracle/bellman.ts';
import { build, columnVector, identity, inverse, kron, multiply, reshape, scale, transpose, type Matrix } from '../oracle/matrix.ts'; // prettier-ignore
import {
  averagedFactors,
  batchFactors,
  dampedFactors,
  truncatedInverse,
  type LayerStatistics,
} from '../oracle/metric.ts';
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
import {
  call,
  create,
  describeSession,
  expectProblem,
  expectSameStep,
  newSession,
  putStep,
  type ExpectedProblem,
} from './support.ts';

let stack: LocalStack;
let client: DdpnoptClient;
beforeAll(async () => {
  stack = await startStack({ engine: 'reference' });
  client = new DdpnoptClient({ url: stack.url });
});
afterAll(() => stack.stop());

const WIDTHS = [5, 4, 3];
const SAMPLES = 7;
const LOSS_SCALE = { floor: 0.5, ceiling: 100 };
const CURVATURE = { kind: 'gradient', lossScale: LOSS_SCALE } as const;

function scenario(count: number): { network: Network; batches: Batch[] } {
  const loss = 'softmax-cross-entropy';
  const { network, batch } = randomProblem({ widths: WIDTHS, activation: 'tanh', loss, batchSize: SAMPLES, seed: 8 });
  const random = mulberry32(9);
  return {
    network,
    batches: [batch, ...Array.from({ length: count - 1 }, () => randomBatch(random, WIDTHS, loss, SAMPLES))],
  };
}

const numbers = ({ data }: Matrix): Float64Array => Float64Array.from(data);
const square = (values: ArrayLike<number>, n: number): Matrix => build(n, n, (i, j) => values[i * n + j]!);

describe('against the oracle', () => {
  it('feedback, with the service’s Kronecker factors: the client uses what inverses it has', async () => {
    const { network, batches } = scenario(4);
    const session = await client.createKernelSession({
      layers: network.map(({ weights }, t) => ({
        name: `layer${t}`,
        factors: { inputs: weights.rows, outputs: weights.cols },
      })),
      optimizer: { metric: { kind: 'kronecker', damping: 0.03 }, terminalCurvature: CURVATURE },
    });
    const used: (number | undefined)[] = [];
    for (const [n, batch] of batches.entries()) {
      const trajectory = forward(network, batch.inputs);
      const { inputs, outputGradients } = backpropagate(network, trajectory, batch.objective);
      const phi = losses(prediction(trajectory), batch.objective);
      const h = terminalWeights(phi, session.session.optimizer.terminalCurvature);
      const J = inputs.map((input, t) => sampleGradients(input, outputGradients[t]!));
      const P = network.map(({ weights }, t) => inverseMetric(session, t, weights));
      used.push(session.inverses.get('layer0')?.version);
      const reply = await session.step({
        losses: phi,
        layers: Object.fromEntries(
          network.map((_, t) => {
            const statistics = { inputs: inputs[t]!, outputGradients: outputGradients[t]!, terminalWeights: h };
            const { A, Gamma } = batchFactors(statistics);
            return [
              `layer${t}`,
              {
                gram: numbers(multiply(J[t]!, P[t]!, transpose(J[t]!))),
                ...(n % 2 === 0 ? { factors: { input: numbers(A), outputGradient: numbers(Gamma) } } : {}),
              },
            ];
          }),
        ),
      });
      if (reply.kind !== 'factors') throw new Error('the reply carries no factors');
      const policies = network.map(({ weights }, t) => ({
        change: (s: ArrayLike<number> | null) => {
          const policy = reply.policies.get(`layer${t}`)!;
          const kappa = columnVector(policy.coefficients(s));
          const change = scale(multiply(P[t]!, transpose(J[t]!), kappa), -policy.learningRate);
          const { rows, cols } = weights;
          const values = numbers(reshape(change, rows, cols));
          return { weight: values.slice(0, (rows - 1) * cols), bias: values.slice((rows - 1) * cols) };
        },
      }));
      const changes = applyPolicies(policies, network, batch, 'network');
      const controlMetrics = P.map((each) => scale(inverse(each), 1 / reply.metrics.learningRate));
      const problem = { network, batch, curvature: CURVATURE, controlMetrics };
      const expected = oracleStep(problem, 'feedback').deltaU;
      for (const [t, change] of changes.entries()) expect(relativeError(change, expected[t]!)).toBeLessThan(1e-10);
    }
    expect(used).toEqual([undefined, 1, 1, 1]);
    expect(session.inverses.get('layer1')!.version).toBe(2);
    // Another process takes the session up: it holds nothing, and gets everything with its first step.
    const other = await client.openKernelSession(session.session.id);
    expect(other.inverses.size).toBe(0);
    const layers = Object.fromEntries(network.map((_, t) => [`layer${t}`, { gram: numbers(identity(SAMPLES)) }]));
    await other.step({ losses: new Float64Array(SAMPLES), layers });
    expect(other.inverses).toEqual(session.inverses);
    await session.delete();
  });

  it('inverses of a convolution with groups, and a first input factor that is frozen and then left out', async () => {
    const random = mulberry32(10);
    const statisticsOf = (inputs: number, outputs: number): LayerStatistics => ({
      inputs: gaussianMatrix(random, SAMPLES, inputs - 1),
      outputGradients: gaussianMatrix(random, SAMPLES, outputs),
      terminalWeights: new Float64Array(SAMPLES).fill(1),
    });
    const first = Array.from({ length: 4 }, () => statisticsOf(5, 3));
    const groups = Array.from({ length: 4 }, () => [statisticsOf(4, 2), statisticsOf(4, 2)]);
    const damping = 0.03;
    const session = await client.createKernelSession({
      layers: [
        { name: 'first', factors: { inputs: 5, outputs: 3 } },
        { name: 'grouped', factors: { inputs: 4, outputs: 2, groups: 2 } },
      ],
      optimizer: {
        coupling: 'value',
        metric: { kind: 'kronecker', damping, firstInputFactor: { kind: 'frozen', batches: 1, rank: 2, damping: 0.5 } },
      },
    });
    const gram = numbers(identity(SAMPLES));
    const joined = (matrices: readonly Matrix[]) => Float64Array.from(matrices.flatMap(({ data }) => [...data]));
    for (const [n, statistics] of first.entries()) {
      const { A, Gamma } = batchFactors(statistics);
      const both = groups[n]!.map(batchFactors);
      await session.step({
        losses: new Float64Array(SAMPLES).fill(1),
        layers: {
          first: { gram, factors: { ...(n === 0 ? { input: numbers(A) } : {}), outputGradient: numbers(Gamma) } },
          grouped: {
            gram,
            factors: {
              input: joined(both.map((each) => each.A)),
              outputGradient: joined(both.map((each) => each.Gamma)),
            },
          },
        },
      });
    }
    // The last reply brings what the step before the last made due.
    const decay = 0.95;
    const { A } = batchFactors(first[0]!);
    const { Gamma } = averagedFactors(first.slice(0, 3), decay);
    const held = session.inverses.get('first')!;
    expect(held.version).toBe(3);
    expect(relativeError(square(held.input, 5), truncatedInverse(A, 2, 0.5))).toBeLessThan(1e-10);
    const outputInverse = inverse(dampedFactors({ A, Gamma }, damping).Gamma);
    expect(relativeError(square(held.outputGradient, 3), outputInverse)).toBeLessThan(1e-10);
    const grouped = session.inverses.get('grouped')!;
    for (const group of [0, 1]) {
      const seen = groups.slice(0, 3).map((each) => each[group]!);
      const expected = dampedFactors(averagedFactors(seen, decay), damping);
      const inputs = grouped.input.subarray(16 * group, 16 * (group + 1));
      expect(relativeError(square(inputs, 4), inverse(expected.A))).toBeLessThan(1e-10);
      const outputs = grouped.outputGradient.subarray(4 * group, 4 * (group + 1));
      expect(relativeError(square(outputs, 2), inverse(expected.Gamma))).toBeLessThan(1e-10);
    }
    await session.delete();
  });

  function inverseMetric({ inverses }: KernelTrainingSession, t: number, { rows, cols }: Matrix): Matrix {
    const held = inverses.get(`layer${t}`);
    return held === undefined
      ? identity(rows * cols)
      : kron(square(held.input, rows), square(held.outputGradient, cols));
  }
});

it('with a metric of the client’s own, what travels is a matter of the batch alone', async () => {
  const session = await client.createKernelSession({
    layers: [{ name: 'a' }, { name: 'b' }],
    optimizer: { coupling: 'value', learningRate: { kind: 'constant' } },
  });
  const input = {
    losses: new Float32Array(SAMPLES).fill(1),
    layers: { a: { gram: gramOf(1) }, b: { gram: gramOf(2) } },
  };
  const reply = await session.step(input);
  if (reply.kind !== 'coefficients') throw new Error('the reply carries no coefficients');
  const triangle = (SAMPLES * (SAMPLES + 1)) / 2;
  const header = 400;
  expect(reply.bytesSent).toBeLessThan(4 * (2 * triangle + SAMPLES) + header);
  expect(reply.bytesReceived).toBeLessThan(8 * 2 * (SAMPLES + 1) + 2 * header);
  expect(reply.changes.get('b')!.coefficients).toHaveLength(SAMPLES);
  expect(reply.changes.get('b')!.learningRate).toBe(10);
  await expect(session.step({ ...input, layers: { a: { gram: gramOf(1) } } })).rejects.toThrow('layers.b.gram');
  const short = { ...input, layers: { ...input.layers, b: { gram: new Float32Array(5) } } };
  await expect(session.step(short)).rejects.toThrow('layers.b.gram has 5 values; 7×7 were expected');
  await expect(client.openSession(session.session.id)).rejects.toThrow('open it with openKernelSession');
  await session.delete();
});

/** A positive definite matrix of the batch's size. */
function gramOf(seed: number): Float32Array {
  const random = mulberry32(seed);
  const root = Float32Array.from({ length: SAMPLES * SAMPLES }, () => random() - 0.5);
  return root.map((_, index) => {
    const [i, j] = [Math.floor(index / SAMPLES), index % SAMPLES];
    let sum = 0;
    for (let k = 0; k < SAMPLES; k++) sum += root[i * SAMPLES + k]! * root[j * SAMPLES + k]!;
    return sum;
  });
}

describe('definitions that are refused', () => {
  const layers = [{ name: 'a' }];
  const factors = { inputs: 3, outputs: 2 };
  it.each<{ title: string; definition: object; param: string; mentions: string[] }>([
    {
      title: 'sizes of a layer',
      definition: { layers: [{ name: 'a', inputs: 3 }] },
      param: 'layers[0].inputs',
      mentions: [],
    },
    {
      title: 'two layers of one name',
      definition: { layers: [...layers, ...layers] },
      param: 'layers[1].name',
      mentions: ['same name'],
    },
    {
      title: 'another metric',
      definition: { layers, optimizer: { metric: { kind: 'adam' } } },
      param: 'optimizer.metric.kind',
      mentions: ['"client"', '"kronecker"'],
    },
    {
      title: 'factors without the metric',
      definition: { layers: [{ name: 'a', factors }] },
      param: 'layers[0].factors',
      mentions: ['metric "kronecker"'],
    },
    {
      title: 'the metric without factors',
      definition: { layers, optimizer: { metric: { kind: 'kronecker' } } },
      param: 'optimizer.metric.kind',
      mentions: ['metric "client"'],
    },
    {
      title: 'a frozen factor of a layer that has none',
      definition: {
        layers: [{ name: 'a' }, { name: 'b', factors }],
        optimizer: { metric: { kind: 'kronecker', firstInputFactor: { kind: 'frozen' } } },
      },
      param: 'optimizer.metric.firstInputFactor',
      mentions: ['the first layer has no factors'],
    },
    {
      title: 'factors that are too large',
      definition: {
        layers: [{ name: 'a', factors: { inputs: 9000, outputs: 2 } }],
        optimizer: { metric: { kind: 'kronecker' } },
      },
      param: 'layers',
      mentions: ['metric "client"'],
    },
    {
      title: 'weight decay',
      definition: { layers, optimizer: { weightDecay: { kind: 'decoupled', rate: 0.1 } } },
      param: 'optimizer.weightDecay',
      mentions: ['yourself', 'mode "layers"'],
    },
    {
      title: 'momentum',
      definition: { layers, optimizer: { momentum: 0.5 } },
      param: 'optimizer.momentum',
      mentions: ['velocity'],
    },
    {
      title: 'a trust region',
      definition: { layers, optimizer: { maximumNorm: 1 } },
      param: 'optimizer.maximumNorm',
      mentions: ['yourself'],
    },
    {
      title: 'coefficients with feedback',
      definition: { layers, reply: 'coefficients' },
      param: 'reply',
      mentions: ['"factors"'],
    },
    {
      title: 'factors with a predicted step',
      definition: { layers, reply: 'factors', optimizer: { coupling: 'gauss-newton-step' } },
      param: 'reply',
      mentions: ['"coefficients"'],
    },
    {
      title: 'a prediction of the diagonal',
      definition: { layers, optimizer: { coupling: 'gauss-newton-step', batchCoupling: 'diagonal' } },
      param: 'optimizer.coupling',
      mentions: ['batchCoupling "full"'],
    },
    {
      title: 'a judgement of the diagonal',
      definition: { layers, optimizer: { learningRate: { kind: 'levenberg-marquardt' }, batchCoupling: 'diagonal' } },
      param: 'optimizer.learningRate.kind',
      mentions: ['"leverage"'],
    },
    {
      title: 'a judgement of other columns',
      definition: {
        layers,
        optimizer: { learningRate: { kind: 'levenberg-marquardt' }, terminalCurvature: { kind: 'sampled-fisher' } },
      },
      param: 'optimizer.learningRate.kind',
      mentions: ['"gradient"'],
    },
    {
      title: 'decay of a group',
      definition: { layers, optimizer: { groups: [{ pattern: 'a', weightDecayFactor: 2 }] } },
      param: 'optimizer.groups[0].weightDecayFactor',
      mentions: ['does not see'],
    },
    { title: 'a model', definition: { layers, model: {} }, param: 'model', mentions: ['mode "kernel"'] },
  ])('$title', async ({ definition, param, mentions }) => {
    const answer = await create(stack.url, { mode: 'kernel', ...definition });
    expectProblem(answer, { status: 422, code: 'invalid_parameter', param, mentions });
  });
});

describe('steps that are refused, and change nothing', () => {
  const definition: KernelDefinitionInput = {
    mode: 'kernel',
    layers: [{ name: 'a', factors: { inputs: 3, outputs: 2 } }, { name: 'b' }],
    optimizer: { coupling: 'value', metric: { kind: 'kronecker' } },
  };
  const packed = (name: string, n: number, seed: number): NamedTensor => {
    const random = mulberry32(seed);
    const values = new Float32Array((n * (n + 1)) / 2);
    let position = 0;
    for (let i = 0; i < n; i++) for (let j = i; j < n; j++) values[position++] = i === j ? n + random() : random();
    return { name, shape: [values.length], values };
  };
  const stepTensors = (seed: number): NamedTensor[] => [
    { name: 'losses', shape: [4], values: Float32Array.of(0.1, 1, 2, 0.4) },
    packed('layers.a.gram', 4, seed),
    packed('layers.b.gram', 4, seed + 1),
    packed('layers.a.factor.input', 3, seed + 2),
    packed('layers.a.factor.output_grad', 2, seed + 3),
    { name: 'metric_versions', shape: [2], values: Float32Array.of(0, 0) },
  ];
  const having = (name: string, values: Float32Array, shape: readonly number[] = [values.length]): NamedTensor[] =>
    stepTensors(5).map((tensor) => (tensor.name === name ? { name, shape, values } : tensor));
  const without = (name: string): NamedTensor[] => stepTensors(5).filter((tensor) => tensor.name !== name);

  let disturbed: string;
  let undisturbed: string;
  let steps: number;
  const startPair = async (): Promise<void> => {
    disturbed = (await newSession(stack.url, definition)).id;
    undisturbed = (await newSession(stack.url, definition)).id;
    steps = 0;
  };
  beforeAll(startPair);

  it.each<Partial<ExpectedProblem> & { title: string; tensors: NamedTensor[] }>([
    {
      title: 'a whole matrix',
      tensors: having('layers.a.gram', new Float32Array(16), [4, 4]),
      code: 'shape_mismatch',
      param: 'layers.a.gram',
      mentions: ['[4, 4]', '[B(B+1)/2] with B = 4'],
    },
    {
      title: 'a kernel of another batch',
      tensors: having('layers.b.gram', new Float32Array(15)),
      code: 'shape_mismatch',
      param: 'layers.b.gram',
    },
    { title: 'no kernel', tensors: without('layers.b.gram'), code: 'missing_tensor', param: 'layers.b.gram' },
    {
      title: 'activations',
      tensors: [...stepTensors(5), { name: 'layers.a.input', shape: [4], values: new Float32Array(4) }],
      code: 'unknown_tensor',
      param: 'layers.a.input',
    },
    {
      title: 'statistics of a layer without factors',
      tensors: [...stepTensors(5), packed('layers.b.factor.input', 3, 1)],
      code: 'unknown_tensor',
      param: 'layers.b.factor.input',
    },
    {
      title: 'half of the statistics',
      tensors: without('layers.a.factor.output_grad'),
      code: 'missing_tensor',
      param: 'layers.a.factor.output_grad',
    },
    {
      title: 'a negative diagonal',
      tensors: having('layers.b.gram', Float32Array.of(1, 0, 0, 0, -1, 0, 0, 1, 0, 1)),
      code: 'invalid_parameter',
      param: 'layers.b.gram',
      mentions: ['[1] is -1'],
    },
    {
      title: 'a negative factor',
      tensors: having('layers.a.factor.input', Float32Array.of(1, 0, 0, 1, 0, -2)),
      code: 'invalid_parameter',
      param: 'layers.a.factor.input',
      mentions: ['[2] is -2'],
    },
    {
      title: 'an indefinite kernel',
      tensors: having('layers.b.gram', Float32Array.of(1, 99, 0, 0, 1, 0, 0, 1, 0, 1)),
      code: 'numerical_failure',
      param: 'layers.b.gram',
      mentions: ['layer b'],
    },
    {
      title: 'NaN',
      tensors: having('layers.b.gram', Float32Array.of(1, 0, Number.NaN, 0, 1, 0, 0, 1, 0, 1)),
      code: 'non_finite_value',
      param: 'layers.b.gram',
    },
    {
      title: 'a version that was never given',
      tensors: having('metric_versions', Float32Array.of(99, 0)),
      code: 'invalid_parameter',
      param: 'metric_versions',
      mentions: ['[0] is 99'],
    },
    {
      title: 'a version of a layer without factors',
      tensors: having('metric_versions', Float32Array.of(0, 1)),
      code: 'invalid_parameter',
      param: 'metric_versions',
      mentions: ['[1] is 1'],
    },
    {
      title: 'half a version',
      tensors: having('metric_versions', Float32Array.of(0.5, 0)),
      code: 'invalid_parameter',
      param: 'metric_versions',
    },
    {
      title: 'one version for all',
      tensors: having('metric_versions', Float32Array.of(0)),
      code: 'shape_mismatch',
      param: 'metric_versions',
      mentions: ['[2]'],
    },
  ])('$title', async ({ tensors, code, param, mentions }) => {
    onTestFailed(startPair);
    const before = await describeSession(stack.url, disturbed);
    const answer = await putStep(stack.url, disturbed, steps, encode(tensors));
    expectProblem(answer, { status: 422, code: code!, param, mentions });
    expect({ ...(await describeSession(stack.url, disturbed)), expiresAt: '' }).toEqual({ ...before, expiresAt: '' });
    const n = steps++;
    await expectSameStep(stack.url, [undisturbed, disturbed], n, encode(stepTensors(100 + n)));
  });

  it('the first statistics, if they have no inverse', async () => {
    const { id } = await newSession(stack.url, definition);
    const indefinite = having('layers.a.factor.output_grad', Float32Array.of(1, 9, 1));
    const answer = await putStep(stack.url, id, 0, encode(indefinite));
    expectProblem(answer, {
      status: 422,
      code: 'numerical_failure',
      param: 'layers.a.factor.input',
      mentions: ['layer a'],
    });
    expect((await putStep(stack.url, id, 0, encode(stepTensors(1)))).status).toBe(200);
  });

  it('a prediction, since the service has no model', async () => {
    const { id } = await newSession(stack.url, definition);
    const answer = await call(stack.url, 'GET', `/v1/sessions/${id}/weights`);
    expectProblem(answer, { status: 409, code: 'not_hosted', mentions: ['not in mode "hosted"'] });
  });
});

it('a repeated step gives its reply again, inverses included', async () => {
  const { id } = await newSession(stack.url, {
    mode: 'kernel',
    layers: [{ name: 'a' }],
    optimizer: { coupling: 'value' },
  });
  const body = encode([
    { name: 'losses', shape: [1], values: Float32Array.of(1) },
    { name: 'layers.a.gram', shape: [1], values: Float32Array.of(2) },
  ]);
  const [first, second] = [await putStep(stack.url, id, 0, body), await putStep(stack.url, id, 0, body)];
  expect(second.bytes).toEqual(first.bytes);
  expect(readHeader(first.bytes).entries.map(({ name }) => name).toSorted()).toEqual(['layers.a.coefficients', 'layers.a.learning_rate']); // prettier-ignore
});
