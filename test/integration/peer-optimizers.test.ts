/** The baselines in PyTorch do what their formulas say: judged by explicit float64 matrices, and by what is exact about them. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { MISSING, peersInstalled } from '../../bench/peers/environment.ts';
import { perceptron } from '../../bench/peers/networks.ts';
import { PeerProcess, type PeerOptimizer, type PeerTask } from '../../bench/peers/peers.ts';
import { at as entryAt } from '../../shared/at.ts';
import type { ModelInput } from '../../shared/model.ts';
import { relativeError } from '../conformance/drive.ts';
import { ddpStep } from '../oracle/bellman.ts';
import {
  add,
  at,
  build,
  columnVector,
  eigenSymmetric,
  firstRows,
  identity,
  multiply,
  scale,
  solve,
  stackRows,
  subtract,
  transpose,
  type Matrix,
} from '../oracle/matrix.ts';
import {
  augment,
  backpropagate,
  element,
  forward,
  gaussianMatrix,
  lossGradients,
  mulberry32,
  prediction,
  randomProblem,
  type Activation,
  type Batch,
  type Network,
} from '../oracle/network.ts';

const CENTRES = { kind: 'max-mahalanobis-centre', classes: 3, scale: 2 } as const;

/** A network of the oracle as the peers take it. */
function declared(network: Network, inputs: number): ModelInput {
  const layers = network.flatMap(({ weights, activation }, t): ModelInput['layers'] => {
    const dense = { kind: 'dense', name: `dense${t}`, outputs: weights.cols } as const;
    return activation === 'linear' ? [dense] : [dense, { kind: activation }];
  });
  return { input: [inputs], layers };
}

const parametersOf = (network: Network): Float64Array[] =>
  network.flatMap(({ weights }) => {
    const { rows } = weights;
    const bias = Float64Array.from({ length: weights.cols }, (_, j) => at(weights, rows - 1, j));
    return [firstRows(weights, rows - 1).data, bias];
  });

/** Weight above bias, [n + 1, c], of every layer. */
function matricesOf(parameters: readonly ArrayLike<number>[], network: Network): Matrix[] {
  return network.map(({ weights: { rows, cols } }, t) =>
    stackRows([
      { rows: rows - 1, cols, data: Float64Array.from(element(parameters, 2 * t)) },
      { rows: 1, cols, data: Float64Array.from(element(parameters, 2 * t + 1)) },
    ]),
  );
}

function labelsOf({ objective }: Batch): readonly number[] {
  if (objective.kind !== 'softmax-cross-entropy') throw new TypeError('a batch without labels');
  return objective.labels;
}

const norm = ({ data }: Matrix): number => Math.hypot(...data);

const installed = peersInstalled();
if (!installed) process.stdout.write(`Skipped: ${MISSING}\n`);

describe.skipIf(!installed)('the baselines', () => {
  let peers: PeerProcess;
  beforeAll(async () => {
    peers = await PeerProcess.start(1);
  });
  afterAll(() => peers.stop());

  function taskOf(network: Network, batch: Batch): Omit<PeerTask, 'optimizer'> {
    return {
      network: declared(network, batch.inputs.cols),
      batch: batch.inputs.rows,
      precision: 'float64',
      data: { inputs: batch.inputs.data, labels: labelsOf(batch) },
      parameters: parametersOf(network),
    };
  }

  /** What the steps change in every layer. */
  async function changes(network: Network, batch: Batch, task: Partial<PeerTask>, steps = 1): Promise<Matrix[]> {
    const optimizer: PeerOptimizer = { kind: 'sgd', learningRate: 1 };
    await peers.prepare({ ...taskOf(network, batch), optimizer, ...task });
    await peers.steps(steps);
    const after = matricesOf(await peers.parameters(), network);
    return after.map((matrix, t) => subtract(matrix, element(network, t).weights));
  }

  const tiny = (activation: Activation = 'tanh') =>
    randomProblem({ seed: 3, widths: [4, 5, 3], activation, loss: 'softmax-cross-entropy', batchSize: 6 });

  it('SGD adds its momentum, 0.9, to the gradient, which the peers tell the norm of', async () => {
    const { network, batch } = tiny();
    const optimizer = { kind: 'sgd', learningRate: 0.1 } as const;
    const first = await changes(network, batch, { optimizer });
    await peers.prepare({ ...taskOf(network, batch), optimizer });
    for (const [t, gradient] of (await peers.gradientNorms([0, 1, 2, 3, 4, 5])).entries()) {
      expect(norm(element(first, t))).toBeCloseTo(0.1 * gradient, 10);
    }
    const moved = network.map((stage, t) => ({ ...stage, weights: add(stage.weights, element(first, t)) }));
    const both = await changes(network, batch, { optimizer }, 2);
    const second = await changes(moved, batch, { optimizer: { ...optimizer, momentum: 0 } });
    for (const [t, total] of both.entries()) {
      const expected = add(scale(element(first, t), 1.9), element(second, t));
      expect(relativeError(total, expected)).toBeLessThan(1e-10);
    }
  });

  it('RMSprop’s first step is η/√(1 − α) in every parameter with a gradient', async () => {
    const { network, batch } = tiny();
    const optimizer = { kind: 'rmsprop', learningRate: 1e-3, decay: 0.96 } as const;
    for (const { data } of await changes(network, batch, { optimizer })) {
      for (const value of data) expect(Math.abs(value)).toBeCloseTo(1e-3 / 0.2, 6);
    }
  });

  it('Muon’s first step of a hidden weight or kernel is nearly orthogonal; the output layer and biases are AdamW’s', async () => {
    const network: ModelInput = {
      input: [6, 6, 2],
      layers: [
        { kind: 'conv2d', name: 'a', outputs: 5, kernel: [3, 3] },
        { kind: 'relu' },
        { kind: 'flatten' },
        { kind: 'dense', name: 'b', outputs: 7 },
        { kind: 'relu' },
        { kind: 'dense', name: 'c', outputs: 3 },
      ],
    };
    const learningRate = 1e-2;
    await peers.prepare({ network, batch: 16, precision: 'float64', optimizer: { kind: 'muon', learningRate } });
    const before = await peers.parameters();
    await peers.steps(1);
    const after = await peers.parameters();
    const moved = after.map((values, index) => Float64Array.from(values, (value, i) => value - before[index]![i]!));
    for (const [index, [rows, cols]] of [
      [0, [18, 5]],
      [2, [80, 7]],
    ] as const) {
      const change: Matrix = { rows, cols, data: element(moved, index) };
      const unit = 0.2 * Math.sqrt(Math.max(rows, cols)) * learningRate;
      for (const value of eigenSymmetric(multiply(transpose(change), change)).values) {
        const singular = Math.sqrt(Math.max(0, value)) / unit;
        expect(singular).toBeGreaterThan(0.5);
        expect(singular).toBeLessThan(1.4);
      }
    }
    for (const index of [1, 3, 4, 5]) {
      const values = element(moved, index).filter((value) => value !== 0);
      expect(values.length).toBeGreaterThan(0);
      for (const value of values) expect(Math.abs(value / learningRate)).toBeCloseTo(1, 2);
    }
  });

  const DECAYING: readonly PeerOptimizer[] = [
    { kind: 'sgd', learningRate: 0.1 },
    { kind: 'adam', learningRate: 0.1 },
    { kind: 'muon', learningRate: 0.1 },
    { kind: 'kfac', learningRate: 0.1 },
    { kind: 'ekfac', learningRate: 0.1 },
  ];
  it.each(DECAYING)('$kind: the first step takes ηλ of every weight away, and of no bias', async (optimizer) => {
    const { network, batch } = tiny();
    const biased = network.map((stage) => ({ ...stage, weights: add(stage.weights, build(stage.weights.rows, stage.weights.cols, () => 0.3)) })); // prettier-ignore
    const plain = await changes(biased, batch, { optimizer });
    const decayed = await changes(biased, batch, { optimizer: { ...optimizer, weightDecay: 0.5 } });
    for (const [t, { weights }] of biased.entries()) {
      const expected = build(weights.rows, weights.cols, (i, j) =>
        i < weights.rows - 1 ? -0.1 * 0.5 * at(weights, i, j) : 0,
      );
      expect(relativeError(subtract(element(decayed, t), element(plain, t)), expected)).toBeLessThan(1e-6);
    }
  });

  it.each(['kfac', 'ekfac'] as const)('%s by explicit matrices, with momentum', async (kind) => {
    const { network, batch } = tiny();
    const damping = 0.05;
    const lossScale = { floor: 1, ceiling: 1 };
    const optimizer = { kind, learningRate: 0.2, damping, lossScale, refreshEvery: 1, momentum: 0.5 } as const;
    const { inputs, outputGradients } = backpropagate(network, forward(network, batch.inputs), batch.objective);
    const B = batch.inputs.rows;
    const actual = await changes(network, batch, { optimizer });
    for (const [t, change] of actual.entries()) {
      const a = augment(element(inputs, t));
      const g = element(outputGradients, t);
      const gradient = scale(multiply(transpose(a), g), 1 / B);
      const A = scale(multiply(transpose(a), a), 1 / B);
      const G = scale(multiply(transpose(g), g), 1 / B);
      const natural = kind === 'kfac' ? kfacDirection(A, G, gradient, damping) : ekfacDirection(A, G, a, g, damping);
      expect(relativeError(change, scale(natural, -0.2))).toBeLessThan(1e-8);
    }
  });

  function kfacDirection(A: Matrix, G: Matrix, gradient: Matrix, damping: number): Matrix {
    const mean = (matrix: Matrix) => Array.from({ length: matrix.rows }, (_, i) => at(matrix, i, i)).reduce((s, v) => s + v, 0) / matrix.rows; // prettier-ignore
    const pi = Math.sqrt(mean(A) / mean(G));
    const damped = (matrix: Matrix, by: number) => add(matrix, scale(identity(matrix.rows), by));
    const left = solve(damped(A, pi * Math.sqrt(damping)), gradient);
    return transpose(solve(damped(G, Math.sqrt(damping) / pi), transpose(left)));
  }

  /** The first step, in which the second moments begin at the eigenvalues' products: 0.95 of those and 0.05 of the batch's. */
  function ekfacDirection(A: Matrix, G: Matrix, a: Matrix, g: Matrix, damping: number): Matrix {
    const [left, right] = [eigenSymmetric(A), eigenSymmetric(G)];
    const [rotatedA, rotatedG] = [multiply(a, left.vectors), multiply(g, right.vectors)];
    const B = a.rows;
    const scaled = build(A.rows, G.rows, (i, j) => {
      let [first, second] = [0, 0];
      for (let b = 0; b < B; b++) {
        const product = at(rotatedA, b, i) * at(rotatedG, b, j);
        first += product / B;
        second += product ** 2 / B;
      }
      const begun = Math.max(0, entryAt(left.values, i)) * Math.max(0, entryAt(right.values, j));
      return first / (0.95 * begun + 0.05 * second + damping);
    });
    return multiply(left.vectors, scaled, transpose(right.vectors));
  }

  describe('E-MSA', () => {
    const penalty = 0.7;

    /** H̃_t of section 3.2 of Li et al. (2018), from explicit states and costates. */
    function augmentedHamiltonian(network: Network, batch: Batch, t: number, weights: Matrix): number {
      const { states } = forward(network, batch.inputs);
      const { stateGradients } = backpropagate(network, forward(network, batch.inputs), batch.objective);
      const stage = element(network, t);
      const [x, next] = [element(states, t), element(states, t + 1)];
      const [p, nextP] = [scale(element(stateGradients, t), -1), scale(element(stateGradients, t + 1), -1)];
      const only: Network = [{ ...stage, weights }];
      const output = prediction(forward(only, x));
      const z = multiply(augment(x), weights);
      const slope = (value: number) => (stage.activation === 'tanh' ? 1 - Math.tanh(value) ** 2 : 1);
      const backed = build(z.rows, z.cols, (i, j) => at(nextP, i, j) * slope(at(z, i, j)));
      const costate = multiply(backed, transpose(firstRows(weights, weights.rows - 1)));
      const inner = output.data.reduce((sum, value, index) => sum + value * entryAt(nextP.data, index), 0);
      const square = (a: Matrix, b: Matrix) => norm(subtract(a, b)) ** 2;
      return (inner - (penalty / 2) * (square(next, output) + square(p, costate))) / x.rows;
    }

    it.each(['tanh', 'linear'] as const)(
      '%s: every layer’s augmented Hamiltonian grows to where it is stationary',
      async (activation) => {
        const { network, batch } = tiny(activation);
        const optimizer = { kind: 'e-msa', learningRate: 1, penalty, iterations: 200 } as const;
        const moved = await changes(network, batch, { optimizer });
        for (const [t, { weights }] of network.entries()) {
          const value = (matrix: Matrix) => augmentedHamiltonian(network, batch, t, matrix);
          const maximiser = add(weights, element(moved, t));
          expect(value(maximiser)).toBeGreaterThan(value(weights));
          const slopeAt = (point: Matrix) =>
            build(weights.rows, weights.cols, (i, j) => {
              const nudged = (by: number) => build(weights.rows, weights.cols, (k, l) => at(point, k, l) + (k === i && l === j ? by : 0)); // prettier-ignore
              return (value(nudged(1e-5)) - value(nudged(-1e-5))) / 2e-5;
            });
          expect(norm(slopeAt(maximiser))).toBeLessThan(1e-4 * norm(slopeAt(weights)));
        }
      },
    );

    it('goes a share of the way, and few iterations train', async () => {
      const { network, batch } = tiny();
      const whole = await changes(network, batch, { optimizer: { kind: 'e-msa', learningRate: 1 } });
      const half = await changes(network, batch, { optimizer: { kind: 'e-msa', learningRate: 0.5 } });
      for (const [t, change] of half.entries()) {
        expect(relativeError(change, scale(element(whole, t), 0.5))).toBeLessThan(1e-10);
      }
      await peers.prepare({ ...taskOf(network, batch), optimizer: { kind: 'e-msa', learningRate: 1 } });
      const { losses } = await peers.steps(20);
      expect(losses.at(-1)).toBeLessThan(0.7 * losses[0]!);
    });
  });

  describe('vanilla DDP', () => {
    it.each(['tanh', 'sigmoid', 'relu'] as const)(
      '%s, first-order dynamics: the dense recursion of the oracle',
      async (activation) => {
        const widths = [3, 4, 4, 3];
        const { network, batch } = randomProblem({
          seed: 5,
          widths,
          activation,
          loss: 'softmax-cross-entropy',
          batchSize: 4,
        });
        const learningRate = 5;
        const optimizer = { kind: 'vanilla-ddp', learningRate, dynamics: 'first-order' } as const;
        const moved = await changes(network, batch, { optimizer });
        const controlMetrics = network.map(({ weights }) => scale(identity(weights.data.length), 1 / learningRate));
        const { deltaU } = ddpStep({ network, batch, curvature: { kind: 'gauss-newton' }, controlMetrics }, 'feedback');
        for (const [t, change] of moved.entries()) expect(relativeError(change, element(deltaU, t))).toBeLessThan(1e-8);
      },
    );

    it.each(['first-order', 'second-order'] as const)(
      '%s dynamics: one step of a linear-quadratic problem lands on the optimum',
      async (dynamics) => {
        const { network, batch } = randomProblem({
          seed: 8,
          widths: [4, 3],
          activation: 'tanh',
          loss: 'softmax-cross-entropy',
          batchSize: 12,
        });
        await peers.prepare({
          ...taskOf(network, batch),
          loss: CENTRES,
          optimizer: { kind: 'vanilla-ddp', learningRate: 1e9, dynamics },
        });
        const indices = Array.from({ length: 12 }, (_, i) => i);
        const [before] = await peers.gradientNorms(indices);
        const { losses, lossesAfter } = await peers.steps(1);
        const [after] = await peers.gradientNorms(indices);
        expect(lossesAfter[0]).toBeLessThan(losses[0]!);
        expect(after).toBeLessThan(1e-7 * before!);
      },
    );

    it('two linear layers of which only products count: the second-order terms make the step Newton’s', async () => {
      // With one sample and one unit a layer x_2 = u_1 u_0 x_0: the Hessian in both controls is known, cross term included.
      const network: Network = [3, 2].map((value) => ({ weights: { rows: 2, cols: 1, data: Float64Array.of(value, 0) }, activation: 'linear' })); // prettier-ignore
      const batch: Batch = { inputs: columnVector([1]), objective: { kind: 'softmax-cross-entropy', labels: [0] } };
      // Two centres in one dimension: +1 and −1.
      const loss = { kind: 'max-mahalanobis-centre', classes: 2, scale: 7 } as const;
      const optimizer = { kind: 'vanilla-ddp', learningRate: 1e-1, dynamics: 'second-order' } as const;
      const [first] = await changes(network, batch, { optimizer, loss });
      const newton = newtonStep([3, 0, 2, 0], (u) => 0.5 * (u[2]! * (u[0]! + u[1]!) + u[3]! - 7) ** 2, 10);
      // The first stage's policy has no feedback: it is the joint minimiser's first block.
      expect(first!.data[0]).toBeCloseTo(newton[0]!, 3);
      expect(first!.data[1]).toBeCloseTo(newton[1]!, 3);
    });

    /** −(∇²f + rI)⁻¹∇f by differences. */
    function newtonStep(u: readonly number[], f: (u: readonly number[]) => number, regularisation: number): number[] {
      const h = 1e-3;
      const moved = (...steps: (readonly [index: number, by: number])[]) =>
        f(u.map((value, i) => value + steps.reduce((sum, [index, by]) => sum + (index === i ? by : 0), 0)));
      const gradient = build(u.length, 1, (i) => (moved([i, h]) - moved([i, -h])) / (2 * h));
      const curvature = build(u.length, u.length, (i, j) =>
        (moved([i, h], [j, h]) - moved([i, h], [j, -h]) - moved([i, -h], [j, h]) + moved([i, -h], [j, -h])) / (4 * h * h) +
        (i === j ? regularisation : 0)); // prettier-ignore
      return [...scale(solve(curvature, gradient), -1).data];
    }

    it('decay is a running cost, and what does not fit its memory or its layers is refused by name', async () => {
      const { network, batch } = tiny();
      const kept = await changes(network, batch, { optimizer: { kind: 'vanilla-ddp', learningRate: 1 } });
      const weightDecay = 0.3;
      const decayed = await changes(network, batch, {
        optimizer: { kind: 'vanilla-ddp', learningRate: 1, weightDecay },
      });
      expect(relativeError(element(decayed, 0), element(kept, 0))).toBeGreaterThan(0.01);
      const task = {
        ...taskOf(network, batch),
        optimizer: { kind: 'vanilla-ddp', learningRate: 1, memoryLimit: 1e4 },
      } as const;
      await peers.prepare(task);
      await expect(peers.steps(1)).rejects.toThrow('take fewer samples, narrower layers, or another memoryLimit');
      const convolution: ModelInput = {
        input: [4, 4, 1],
        layers: [
          { kind: 'conv2d', name: 'a', outputs: 2, kernel: [3, 3] },
          { kind: 'flatten' },
          { kind: 'dense', name: 'b', outputs: 2 },
        ],
      };
      const optimizer = { kind: 'vanilla-ddp', learningRate: 1 } as const;
      await expect(peers.prepare({ network: convolution, batch: 2, optimizer })).rejects.toThrow('dense layers only');
    });
  });

  it('a training in one request is its steps and evaluations', async () => {
    const { network, batch } = tiny();
    const optimizer = { kind: 'sgd', learningRate: 0.2, cosineSteps: 5 } as const;
    const task = { ...taskOf(network, batch), batch: 2, optimizer };
    const data = { inputs: batch.inputs.data, labels: labelsOf(batch) };
    const samples = [0, 1, 2, 3, 4, 5, 5, 4, 3, 2];
    await peers.prepare(task);
    const { losses } = await peers.stepsOn(samples);
    const expected = await peers.evaluate(data);
    await peers.prepare(task);
    const { evaluations, divergedAt } = await peers.train(samples, 2, { all: data });
    expect(divergedAt).toBeNull();
    expect(evaluations.map(({ steps }) => steps)).toEqual([2, 4, 5]);
    expect(evaluations[1]!.trainLoss).toBeCloseTo((losses[2]! + losses[3]!) / 2, 12);
    expect(evaluations[2]!.scores).toEqual({ all: expected });
  });

  // The factors of K-FAC overflow to where one of them has no share in the damping.
  it.each([
    { kind: 'sgd', learningRate: 1e6 },
    { kind: 'kfac', learningRate: 1e19, refreshEvery: 1 },
  ] as const)('a training of $kind that diverges says so, and at which step', async (optimizer) => {
    const inputs = gaussianMatrix(mulberry32(1), 8, 4).data;
    const data = { inputs, labels: [0, 1, 2, 0, 1, 2, 0, 1] };
    const task = { network: perceptron([4, 8, 3]), batch: 8, loss: CENTRES, data, optimizer } as const;
    await peers.prepare(task);
    const samples = Array.from({ length: 8 * 50 }, (_, index) => index % 8);
    const { evaluations, divergedAt } = await peers.train(samples, 50, { all: data });
    expect(divergedAt).toBeGreaterThan(1);
    expect(divergedAt).toBeLessThan(50);
    expect(evaluations).toEqual([]);
    await peers.prepare(task);
    await expect(peers.stepsOn(samples)).rejects.toThrow('the training diverged');
  });

  it('initial weights as the layers declare them', async () => {
    const layer = { kind: 'dense', name: 'a', outputs: 200, initialization: 'glorot-uniform' } as const;
    const network: ModelInput = { input: [100], layers: [layer] };
    await peers.prepare({ network, batch: 1, optimizer: { kind: 'sgd', learningRate: 1 } });
    const [weight] = await peers.parameters();
    const limit = Math.sqrt(6 / 300);
    expect(Math.max(...weight!.map(Math.abs))).toBeLessThanOrEqual(limit);
    expect(Math.hypot(...weight!) / Math.sqrt(weight!.length)).toBeCloseTo(limit / Math.sqrt(3), 2);
  });

  it('the oracle’s gradient of cross-entropy is the one the peers take', async () => {
    const { network, batch } = tiny();
    const trajectory = forward(network, batch.inputs);
    const gradient = lossGradients(prediction(trajectory), batch.objective);
    const last = network.length - 1;
    const expected = scale(multiply(transpose(augment(element(trajectory.states, last))), gradient), -1 / 6);
    const moved = await changes(network, batch, { optimizer: { kind: 'sgd', learningRate: 1 } });
    expect(relativeError(element(moved, last), expected)).toBeLessThan(1e-10);
  });
});
