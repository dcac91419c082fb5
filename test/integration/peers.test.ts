/** The PyTorch peers compute what the service computes: in float64 they agree with the reference engine step by step. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { NETWORKS } from '../../bench/peers/networks.ts';
import { MISSING, peersInstalled } from '../../bench/peers/environment.ts';
import { PeerProcess, type PeerLoss, type PeerOptimizer, type PeerTask } from '../../bench/peers/peers.ts';
import { loadEngine } from '../../gpu-worker/tensor/index.ts';
import {
  hostedConfiguration,
  hostedStep,
  initialHostedState,
  type HostedState,
} from '../../gpu-worker/training/hosted-step.ts';
import { hostedDefinitionSchema, type HostedDefinitionInput } from '../../shared/hosted-definition.ts';
import { parameterCount } from '../../shared/cost.ts';
import { classCount } from '../../shared/loss.ts';
import { modelSchema, modelStages, type ModelInput } from '../../shared/model.ts';
import { gaussian, seededRandom } from '../../shared/random.ts';
import { columnVector } from '../oracle/matrix.ts';
import { relativeError } from '../conformance/drive.ts';

interface Problem {
  readonly network: ModelInput;
  readonly batch: number;
}

/** The peers make symmetric products in strips of rows: more inputs, or more samples, than one of them has. */
const MANY = 200;

const PROBLEMS: Readonly<Record<string, Problem>> = {
  dense: {
    batch: 6,
    network: {
      input: [MANY],
      layers: [
        { kind: 'dense', name: 'a', outputs: 7 },
        { kind: 'relu' },
        { kind: 'dense', name: 'b', outputs: 5 },
        { kind: 'tanh' },
        { kind: 'dense', name: 'c', outputs: 3 },
      ],
    },
  },
  'dense, many samples': {
    batch: MANY,
    network: {
      input: [5],
      layers: [{ kind: 'dense', name: 'a', outputs: 4 }, { kind: 'relu' }, { kind: 'dense', name: 'b', outputs: 3 }],
    },
  },
  'conv2d with pooling': {
    batch: 6,
    network: {
      input: [6, 8, 2],
      layers: [
        { kind: 'conv2d', name: 'a', outputs: 3, kernel: [3, 3], padding: { kind: 'same' } },
        { kind: 'relu' },
        { kind: 'conv2d', name: 'b', outputs: 4, kernel: [3, 1], padding: { kind: 'same' } },
        { kind: 'sigmoid' },
        { kind: 'max-pooling', window: [2, 2] },
        { kind: 'conv2d', name: 'c', outputs: 3, kernel: [2, 2] },
        { kind: 'relu' },
        { kind: 'flatten' },
        { kind: 'dense', name: 'd', outputs: 5 },
        { kind: 'relu' },
        { kind: 'dense', name: 'e', outputs: 4 },
      ],
    },
  },
  'conv2d, many samples': {
    batch: MANY,
    network: {
      input: [3, 3, 1],
      layers: [
        { kind: 'conv2d', name: 'a', outputs: 2, kernel: [2, 2] },
        { kind: 'relu' },
        { kind: 'flatten' },
        { kind: 'dense', name: 'b', outputs: 3 },
      ],
    },
  },
};
const BATCHES = 2;
const STEPS = 5;
/** Not at every step, and more than once. */
const KRONECKER = { damping: 0.02, decay: 0.9, refreshEvery: 2 };
const LOSS_SCALE = { floor: 0.7, ceiling: 50 };

type OptimizerInput = NonNullable<HostedDefinitionInput['optimizer']>;

interface Run {
  /** All weights and biases before and after. */
  readonly before: Float64Array;
  readonly after: Float64Array;
  readonly losses: readonly number[];
  readonly lossesAfter: readonly (number | null)[];
}

const change = ({ before, after }: Run) => columnVector(after.map((value, index) => value - before[index]!));
const joined = (arrays: readonly ArrayLike<number>[]): Float64Array =>
  Float64Array.from(arrays.flatMap((array) => Array.from(array)));

const installed = peersInstalled();
if (!installed) process.stdout.write(`Skipped: ${MISSING}\n`);

describe.skipIf(!installed)('the PyTorch peers', async () => {
  const engine = await loadEngine('reference');
  let peers: PeerProcess;
  beforeAll(async () => {
    peers = await PeerProcess.start(1);
  });
  afterAll(() => peers.stop());

  /** The service's steps, and what a peer needs to start where they start. */
  function serviceRun(
    { network, batch }: Problem,
    optimizer: OptimizerInput,
    steps = STEPS,
    loss: PeerLoss = { kind: 'softmax-cross-entropy' },
  ): { run: Run; task: Omit<PeerTask, 'optimizer'> } {
    const definition = hostedDefinitionSchema.parse({
      mode: 'hosted',
      model: network,
      loss,
      optimizer,
      seed: 4,
    });
    return engine.scope(() => {
      const configuration = hostedConfiguration(definition);
      const { input, outputs } = configuration.program;
      const random = seededRandom(9);
      const features = input.reduce((product, length) => product * length, 1);
      const inputs = Float64Array.from({ length: BATCHES * batch * features }, () => gaussian(random));
      const labels = Array.from({ length: BATCHES * batch }, () =>
        Math.floor(random() * classCount(definition.loss, outputs)),
      );
      const parametersOf = ({ weights }: HostedState) =>
        weights.flatMap(({ weight, bias }) => [weight!, bias!].map((tensor) => Float64Array.from(engine.read(tensor))));
      let state = initialHostedState(engine, configuration);
      const parameters = parametersOf(state);
      const losses: number[] = [];
      const lossesAfter: number[] = [];
      for (let step = 0; step < steps; step++) {
        const begin = (step % BATCHES) * batch;
        const result = hostedStep(engine, configuration, state, {
          input: engine.tensor(inputs.slice(begin * features, (begin + batch) * features), [batch, ...input]),
          truth: { values: labels.slice(begin, begin + batch), sampleWeights: null },
        });
        state = result.state;
        losses.push(result.lossBefore);
        lossesAfter.push(result.lossAfter!);
      }
      const run = { before: joined(parameters), after: joined(parametersOf(state)), losses, lossesAfter };
      return { run, task: { network, batch, precision: 'float64', data: { inputs, labels }, parameters } };
    });
  }

  async function peerRun(task: PeerTask, steps = STEPS): Promise<Run> {
    await peers.prepare(task);
    const before = joined(await peers.parameters());
    const { losses, lossesAfter } = await peers.steps(steps);
    return { before, after: joined(await peers.parameters()), losses, lossesAfter };
  }

  const cases = Object.keys(PROBLEMS).flatMap((problem) =>
    (['full', 'diagonal'] as const).map((batchCoupling) => ({ problem, batchCoupling })),
  );
  it.each(cases)('$problem, batch coupling $batchCoupling: the steps are the service’s', async (options) => {
    const problem = PROBLEMS[options.problem]!;
    const { batchCoupling } = options;
    const service: OptimizerInput = {
      learningRate: { kind: 'constant', value: 3 },
      metric: { kind: 'kronecker', ...KRONECKER },
      terminalCurvature: { kind: 'gradient', lossScale: LOSS_SCALE },
      coupling: 'feedback',
      batchCoupling,
    };
    const optimizer: PeerOptimizer = {
      kind: 'ddpnopt',
      learningRate: 3,
      batchCoupling,
      lossScale: LOSS_SCALE,
      ...KRONECKER,
    };
    const { run, task } = serviceRun(problem, service);
    const exact = await peerRun({ ...task, optimizer });
    expect(exact.before).toEqual(run.before);
    expect(relativeError(change(exact), change(run))).toBeLessThan(1e-8);
    for (const [step, loss] of run.losses.entries()) {
      expect(exact.losses[step]).toBeCloseTo(loss, 9);
      expect(exact.lossesAfter[step]).toBeCloseTo(run.lossesAfter[step]!, 9);
    }
    const rounded = await peerRun({ ...task, optimizer, precision: 'float32' }, 1);
    const { run: single } = serviceRun(problem, service, 1);
    expect(relativeError(change(rounded), change(single))).toBeLessThan(1e-4);
  });

  it('statistics now and then, and a learning rate that falls: the steps are the service’s', async () => {
    const metric = { ...KRONECKER, statisticsEvery: 2 };
    const { run, task } = serviceRun(PROBLEMS['dense']!, {
      learningRate: { kind: 'cosine', value: 3, steps: STEPS },
      metric: { kind: 'kronecker', ...metric },
      terminalCurvature: { kind: 'gradient', lossScale: LOSS_SCALE },
    });
    const optimizer = {
      kind: 'ddpnopt',
      learningRate: 3,
      cosineSteps: STEPS,
      lossScale: LOSS_SCALE,
      ...metric,
    } as const;
    expect(relativeError(change(await peerRun({ ...task, optimizer })), change(run))).toBeLessThan(1e-8);
  });

  it('data in files, and steps on chosen samples: as data in requests', async () => {
    const { network, batch } = PROBLEMS['dense']!;
    const random = seededRandom(11);
    const size = 3 * batch;
    const inputs = Float32Array.from({ length: size * MANY }, () => gaussian(random));
    const labels = Uint8Array.from({ length: size }, () => Math.floor(3 * random()));
    const folder = await mkdtemp(path.join(tmpdir(), 'peers-'));
    onTestFinished(() => rm(folder, { recursive: true }));
    const files = { inputs: path.join(folder, 'inputs'), labels: path.join(folder, 'labels'), size };
    await writeFile(files.inputs, new Uint8Array(inputs.buffer));
    await writeFile(files.labels, labels);
    const optimizer = { kind: 'adam', learningRate: 1e-2, cosineSteps: 4 } as const;
    const task = { network, batch, optimizer, seed: 5 };
    await peers.prepare({ ...task, data: { inputs, labels } });
    const inOrder = await peers.steps(3);
    const expected = await peers.evaluate({ inputs, labels });
    await peers.prepare({ ...task, files });
    const chosen = await peers.stepsOn(Array.from({ length: size }, (_, sample) => sample));
    expect(chosen.losses).toEqual(inOrder.losses);
    expect(await peers.evaluate({ files })).toEqual(expected);
    const last = await peers.stepsOn(Array.from({ length: batch }, (_, sample) => size - 1 - sample));
    expect(last.losses).toHaveLength(1);
  });

  // Where a factor of few samples has no unique eigenbasis, as that of `dense` has not, EKFAC’s metric is not unique either.
  const shrinking = Object.keys(PROBLEMS).flatMap((problem) =>
    (['kfac', 'ekfac'] as const)
      .map((kind) => ({ problem, kind }))
      .filter(({ kind }) => `${problem} ${kind}` !== 'dense ekfac'),
  );
  it.each(shrinking)('$problem: $kind is what uncoupled layers do as the step shrinks', async ({ problem, kind }) => {
    const learningRate = 1e-7;
    const { run, task } = serviceRun(PROBLEMS[problem]!, {
      learningRate: { kind: 'constant', value: learningRate },
      metric: { kind: kind === 'kfac' ? 'kronecker' : 'ekfac', ...KRONECKER },
      coupling: 'layerwise',
    });
    const peer = await peerRun({ ...task, optimizer: { kind, learningRate, ...KRONECKER } });
    expect(relativeError(change(peer), change(run))).toBeLessThan(1e-3);
    expect(peer.lossesAfter).toEqual(peer.losses.map(() => null));
  });

  it('the max-Mahalanobis-centre loss and decoupled decay: the steps are the service’s', async () => {
    const loss = { kind: 'max-mahalanobis-centre', classes: 4, scale: 3 } as const;
    const { run, task } = serviceRun(
      PROBLEMS['dense']!,
      {
        learningRate: { kind: 'cosine', value: 0.5, steps: STEPS },
        metric: { kind: 'kronecker', ...KRONECKER },
        weightDecay: { kind: 'decoupled', rate: 0.02 },
      },
      STEPS,
      loss,
    );
    const schedule = { learningRate: 0.5, cosineSteps: STEPS, weightDecay: 0.02 };
    const peer = await peerRun({ ...task, loss, optimizer: { kind: 'ddpnopt', ...schedule, ...KRONECKER } });
    expect(relativeError(change(peer), change(run))).toBeLessThan(1e-8);
    for (const [step, value] of run.losses.entries()) expect(peer.losses[step]).toBeCloseTo(value, 9);
  });

  it.each(Object.keys(PROBLEMS))('%s: Adam’s first step is η in every parameter with a gradient', async (problem) => {
    const { run, task } = serviceRun(PROBLEMS[problem]!, { metric: { kind: 'identity' } }, 1);
    const adam = await peerRun({ ...task, optimizer: { kind: 'adam', learningRate: 1e-3 } }, 1);
    expect(adam.losses[0]).toBeCloseTo(run.losses[0]!, 12);
    const moved = change(adam)
      .data.map(Math.abs)
      .filter((value) => value !== 0);
    expect(moved.length).toBeGreaterThan(adam.before.length / 2);
    for (const value of moved) expect(Math.abs(value / 1e-3 - 1)).toBeLessThan(1e-2);
  });

  it('whitens inputs for training and evaluation alike', async () => {
    const { task } = serviceRun(PROBLEMS['dense']!, {}, 0);
    const { network, batch, precision, data } = task;
    const optimizer: PeerOptimizer = { kind: 'adam', learningRate: 1e-2, whitening: { rank: 8, damping: 0.01 } };
    const { parameters } = await peers.prepare({ network, batch, precision: precision!, data: data!, optimizer });
    expect(parameters).toBe((8 + 1) * 7 + (7 + 1) * 5 + (5 + 1) * 3);
    const before = await peers.evaluate(data!);
    await peers.steps(50);
    const after = await peers.evaluate(data!);
    expect(after.loss).toBeLessThan(before.loss);
    expect(after.accuracy).toBeGreaterThan(before.accuracy);
  });

  it.each(Object.entries(NETWORKS))('takes a step of %s', async (_, network) => {
    const { parameters } = await peers.prepare({
      network,
      batch: 2,
      optimizer: { kind: 'ddpnopt', learningRate: 1e-3 },
    });
    const stages = modelStages(modelSchema.parse(network));
    expect(parameters).toBe(parameterCount(stages.map(({ layer }) => layer)));
    const { losses, lossesAfter } = await peers.steps(1);
    expect(lossesAfter[0]).toBeLessThan(losses[0]!);
  });

  it('names what it runs on, and what goes wrong, and goes on', async () => {
    const { torch, threads } = await peers.describe();
    expect(torch).toMatch(/^\d+\.\d+/);
    expect(threads).toBe(1);
    const task = { ...PROBLEMS['dense']!, optimizer: { kind: 'adam', learningRate: 1 } } as const;
    await expect(peers.prepare({ ...task, parameters: [new Float32Array(3)] })).rejects.toThrow(
      '6 parameter arrays are needed, 1 came',
    );
    await expect(peers.steps(1)).rejects.toThrow('steps needs a prepared task');
    expect((await peers.matmul(64)).flopsPerSecond).toBeGreaterThan(0);
  });
});
