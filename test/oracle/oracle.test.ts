import { describe, expect, it } from 'vitest';

import {
  ddpStep,
  denseGaussNewtonStep,
  linearise,
  diagonalStep,
  preconditionedStep,
  predictionJacobians,
  sampleGradients,
  terminalValue,
  terminalWeights,
} from './bellman.ts';
import type { Coupling, Problem, TerminalCurvature } from './bellman.ts';
import {
  add,
  at,
  blockDiagonal,
  build,
  columnVector,
  diagonal,
  eigenSymmetric,
  identity,
  inverse,
  kron,
  multiply,
  reshape,
  row,
  scale,
  solve,
  stackColumns,
  stackRows,
  subtract,
  trace,
  transpose,
  vec,
} from './matrix.ts';
import type { Matrix } from './matrix.ts';
import {
  adamMetric,
  averagedFactors,
  batchFactors,
  dampedFactors,
  ekfacMetric,
  identityMetric,
  kroneckerMetric,
  rmspropMetric,
} from './metric.ts';
import type { LayerStatistics } from './metric.ts';
import {
  augment,
  backpropagate,
  controlJacobians,
  forward,
  gaussianMatrix,
  hessianRoots,
  lossGradients,
  lossHessians,
  losses,
  mulberry32,
  prediction,
  randomBatch,
  randomProblem,
  stateJacobians,
  withControls,
} from './network.ts';
import { paperStep, type PaperProblem } from './paper.ts';
import type { Activation, Batch, Network, Objective, RandomProblem } from './network.ts';

const activations: readonly Activation[] = ['linear', 'tanh', 'relu', 'sigmoid'];
const lossKinds: readonly Objective['kind'][] = ['softmax-cross-entropy', 'mse'];
const couplings: readonly Coupling[] = ['layerwise', 'value', 'feedback', 'linear-feedback'];
const curvatures: readonly TerminalCurvature[] = [
  { kind: 'gradient' },
  { kind: 'gradient', lossScale: { floor: 0.5, ceiling: 100 } },
  { kind: 'gauss-newton' },
];

/** Random nets of depth 1 to 4, every activation and loss. */
const randomProblems: readonly RandomProblem[] = [
  [3, 2],
  [3, 4, 2],
  [2, 3, 4, 3],
  [4, 3, 3, 2, 3],
].flatMap((widths, depth) =>
  activations.flatMap((activation, i) =>
    lossKinds.map((loss, j) => ({
      seed: 1000 * depth + 10 * i + j,
      widths,
      activation,
      loss,
      batchSize: [1, 3, 6][(depth + i + j) % 3]!,
    })),
  ),
);

describe('matrices', () => {
  const random = mulberry32(1);

  it('solves and inverts, with row exchanges where the pivot is zero', () => {
    const a = add(gaussianMatrix(random, 7, 7), diagonal([0, 1, 2, 3, 4, 5, 6]));
    const x = gaussianMatrix(random, 7, 3);
    expectClose(solve(a, multiply(a, x)), x, 1e-12);
    expectClose(multiply(inverse(a), a), identity(7), 1e-12);
    expectClose(solve(matrix([0, 2], [3, 0]), matrix([4], [9])), matrix([3], [2]), 0);
    expect(() => inverse(matrix([1, 2], [2, 4]))).toThrow('singular');
  });

  it('orders Kronecker products as the row-major vec: vec(a gᵀ) = a ⊗ g and (A ⊗ Γ) vec(M) = vec(A M Γᵀ)', () => {
    const a = gaussianMatrix(random, 3, 1);
    const g = gaussianMatrix(random, 2, 1);
    expectClose(kron(a, g), vec(multiply(a, transpose(g))), 0);
    const A = gaussianMatrix(random, 3, 3);
    const Gamma = gaussianMatrix(random, 2, 2);
    const M = gaussianMatrix(random, 3, 2);
    expectClose(multiply(kron(A, Gamma), vec(M)), vec(multiply(A, M, transpose(Gamma))), 1e-14);
    expectClose(kron(matrix([1, 2]), matrix([3], [4])), matrix([3, 6], [4, 8]), 0);
  });

  it('places blocks', () => {
    expectClose(blockDiagonal([matrix([1, 2]), matrix([3], [4])]), matrix([1, 2, 0], [0, 0, 3], [0, 0, 4]), 0);
    expectClose(stackRows([matrix([1, 2]), matrix([3, 4])]), matrix([1, 2], [3, 4]), 0);
    expectClose(stackColumns([matrix([1], [2]), matrix([3], [4])]), matrix([1, 3], [2, 4]), 0);
  });
});

describe('the eigenvalues of a symmetric matrix', () => {
  const random = mulberry32(2);

  it.each([1, 2, 3, 7])('order %i: A = V diag(λ) Vᵀ with VᵀV = I and λ ascending', (n) => {
    const root = gaussianMatrix(random, n, Math.max(1, n - 2)); // singular from order 3 on
    const singular = multiply(root, transpose(root));
    for (const A of [singular, subtract(singular, identity(n))]) {
      const { values, vectors } = eigenSymmetric(A);
      expectClose(multiply(vectors, diagonal(values), transpose(vectors)), A, 1e-13);
      expectClose(multiply(transpose(vectors), vectors), identity(n), 1e-13);
      expect([...values]).toEqual([...values].sort((a, b) => a - b));
    }
  });

  it('are the known ones of small matrices', () => {
    expectClose(columnVector(eigenSymmetric(matrix([2, 1], [1, 2])).values), columnVector([1, 3]), 1e-15);
    expectClose(columnVector(eigenSymmetric(diagonal([3, -1, 2])).values), columnVector([-1, 2, 3]), 0);
  });
});

describe.each(activations)('derivatives of a %s network against central differences', (activation) => {
  const options = { seed: 7, widths: [3, 4, 3], activation, batchSize: 4 };

  it('f_x and f_u of every sample', () => {
    const { network, batch } = randomProblem({ ...options, loss: 'mse' });
    const stage = network[0]!;
    const z = forward([stage], batch.inputs).preActivations[0]!;
    const fx = stateJacobians(stage, z);
    const fu = controlJacobians(stage, batch.inputs, z);
    for (let i = 0; i < options.batchSize; i++) {
      const x = row(batch.inputs, i);
      expectClose(
        fx[i]!,
        differenceJacobian((v) => prediction(forward([stage], v)), x),
        1e-9,
      );
      expectClose(
        fu[i]!,
        differenceJacobian((weights) => prediction(forward([{ ...stage, weights }], x)), stage.weights),
        1e-9,
      );
    }
  });

  it.each(lossKinds)('back-propagated per-sample gradients of %s', (loss) => {
    const { network, batch } = randomProblem({ ...options, loss });
    const trajectory = forward(network, batch.inputs);
    const { inputs, outputGradients, stateGradients } = backpropagate(network, trajectory, batch.objective);
    const sampleLosses = (tail: Network, x: Matrix) =>
      columnVector(losses(prediction(forward(tail, x)), batch.objective));
    for (const [t, stage] of network.entries()) {
      const perturbed = (weights: Matrix) => network.map((other, tau) => (tau === t ? { ...stage, weights } : other));
      expectClose(
        sampleGradients(inputs[t]!, outputGradients[t]!),
        differenceJacobian((weights) => sampleLosses(perturbed(weights), batch.inputs), stage.weights),
        1e-9,
      );
    }
    for (const [t, x] of trajectory.states.entries()) {
      // Sample i depends on its own state only, so ∂φ_i/∂x_t sits on the block diagonal.
      expectClose(
        blockDiagonal(rowsOf(stateGradients[t]!)),
        differenceJacobian((v) => sampleLosses(network.slice(t), v), x),
        1e-9,
      );
    }
  });

  it('∂X_T/∂u of the stacked batch', () => {
    const { network, batch } = randomProblem({ ...options, loss: 'mse' });
    const { controls, state } = predictionJacobians(linearise(network, forward(network, batch.inputs)));
    for (const [t, stage] of network.entries()) {
      const output = (weights: Matrix) =>
        prediction(
          forward(
            network.map((other, tau) => (tau === t ? { ...stage, weights } : other)),
            batch.inputs,
          ),
        );
      expectClose(controls[t]!, differenceJacobian(output, stage.weights), 1e-9);
    }
    expectClose(
      state,
      differenceJacobian((x) => prediction(forward(network, x)), batch.inputs),
      1e-9,
    );
  });
});

describe.each(lossKinds)('the %s loss', (loss) => {
  const { network, batch } = randomProblem({ seed: 3, widths: [2, 4], activation: 'linear', loss, batchSize: 5 });
  const output = prediction(forward(network, batch.inputs));

  it('has the stated gradient and Hessian', () => {
    expectClose(
      blockDiagonal(rowsOf(lossGradients(output, batch.objective))),
      differenceJacobian((x) => columnVector(losses(x, batch.objective)), output),
      1e-9,
    );
    expectClose(
      blockDiagonal(lossHessians(output, batch.objective)),
      differenceJacobian((x) => lossGradients(x, batch.objective), output),
      1e-9,
    );
  });
});

describe.each(lossKinds)('the root of the Hessian of %s', (loss) => {
  it('squares to it', () => {
    const { network, batch } = randomProblem({ seed: 4, widths: [2, 4], activation: 'linear', loss, batchSize: 5 });
    const output = prediction(forward(network, batch.inputs));
    const hessians = lossHessians(output, batch.objective);
    for (const [i, root] of hessianRoots(output, batch.objective).entries()) {
      expectClose(multiply(root, transpose(root)), hessians[i]!, 1e-14);
    }
  });
});

describe('losses of known value', () => {
  it('equal ½‖y − ŷ‖² and −log softmax, also for logits that would overflow exp', () => {
    const mse: Objective = { kind: 'mse', targets: matrix([1, 2]) };
    expect(losses(matrix([4, 6]), mse)[0]).toBe(12.5);
    const crossEntropy: Objective = { kind: 'softmax-cross-entropy', labels: [1, 0] };
    const [even, certain] = losses(matrix([0, 0], [2000, -2000]), crossEntropy);
    expect(even).toBeCloseTo(Math.LN2, 14);
    expect(certain).toBe(0);
  });
});

describe('the terminal expansion', () => {
  it('weighs sample i by clamp(1/(2 φ_i), floor, ceiling), and by the ceiling at φ_i = 0', () => {
    const samples = Float64Array.from([0, 0.004, 0.005, 0.25, 0.9, 4]);
    const weights = terminalWeights(samples, { floor: 0.5, ceiling: 100 });
    expectClose(columnVector(weights), columnVector([100, 100, 100, 2, 1 / 1.8, 0.5]), 1e-15);
    expectClose(columnVector(terminalWeights(samples, undefined)), columnVector([1, 1, 1, 1, 1, 1]), 0);
  });

  it('leaves the gradient unweighted: V_x = (1/B) G 1, V_xx = (1/B) G H Gᵀ', () => {
    const { network, batch } = randomProblem({ ...randomProblems[20]!, batchSize: 4 });
    const output = prediction(forward(network, batch.inputs));
    const lossScale = { floor: 0.7, ceiling: 2 };
    const { Vx, Vxx } = terminalValue(output, batch, { kind: 'gradient', lossScale });
    const G = blockDiagonal(rowsOf(lossGradients(output, batch.objective)).map(transpose));
    const H = diagonal(terminalWeights(losses(output, batch.objective), lossScale));
    expectClose(Vx, scale(multiply(G, columnVector([1, 1, 1, 1])), 1 / 4), 1e-15);
    expectClose(Vxx, scale(multiply(G, H, transpose(G)), 1 / 4), 1e-15);
  });
});

describe('the Kronecker-factored metric', () => {
  const eta = 0.7;
  const options = { decay: 0.9, damping: 0.03, eta };
  const batches = statisticsOf(11, 4);

  it('averages as the bias-corrected recursion A ← decay A + (1 − decay) A_k does', () => {
    let A = scale(batchFactors(batches[0]!).A, 0);
    let Gamma = scale(batchFactors(batches[0]!).Gamma, 0);
    for (const batch of batches) {
      const factors = batchFactors(batch);
      A = add(scale(A, 0.9), scale(factors.A, 0.1));
      Gamma = add(scale(Gamma, 0.9), scale(factors.Gamma, 0.1));
    }
    const average = averagedFactors(batches, 0.9);
    expectClose(average.A, scale(A, 1 / (1 - 0.9 ** 4)), 1e-13);
    expectClose(average.Gamma, scale(Gamma, 1 / (1 - 0.9 ** 4)), 1e-13);
  });

  it('averages to the only batch, to the last batch without memory, and to a repeated batch', () => {
    const last = batches[3]!;
    expectClose(averagedFactors([last], 0.9).A, batchFactors(last).A, 1e-13);
    expectClose(averagedFactors(batches, 0).Gamma, batchFactors(last).Gamma, 0);
    expectClose(averagedFactors([last, last, last], 0.9).Gamma, batchFactors(last).Gamma, 1e-13);
  });

  it('takes the factors of one sample to be a aᵀ and h g gᵀ', () => {
    const sample = { inputs: matrix([2, 3]), outputGradients: matrix([5, 7]), terminalWeights: [10] };
    const { A, Gamma } = batchFactors(sample);
    expectClose(A, matrix([4, 6, 2], [6, 9, 3], [2, 3, 1]), 0);
    expectClose(Gamma, matrix([250, 350], [350, 490]), 0);
  });

  it('splits the damping so that both factors are damped in proportion, their product by γ', () => {
    const factors = averagedFactors(batches, 0.9);
    const damped = dampedFactors(factors, 0.03);
    const dampingOf = (name: 'A' | 'Gamma') => at(subtract(damped[name], factors[name]), 0, 0);
    const meanDiagonal = (factor: Matrix) => trace(factor) / factor.rows;
    expect(dampingOf('A') * dampingOf('Gamma')).toBeCloseTo(0.03, 14);
    expect(dampingOf('A') / meanDiagonal(factors.A)).toBeCloseTo(dampingOf('Gamma') / meanDiagonal(factors.Gamma), 14);
  });

  it('makes J R⁻¹ Jᵀ the product η (a A⁻¹ aᵀ) ∘ (g Γ⁻¹ gᵀ)', () => {
    const { inputs, outputGradients } = batches[3]!;
    const J = sampleGradients(inputs, outputGradients);
    const R = kroneckerMetric(batches, options);
    const { A, Gamma } = dampedFactors(averagedFactors(batches, options.decay), options.damping);
    const a = augment(inputs);
    const inputKernel = multiply(a, inverse(A), transpose(a));
    const outputKernel = multiply(outputGradients, inverse(Gamma), transpose(outputGradients));
    expectClose(
      multiply(J, solve(R, transpose(J))),
      build(J.rows, J.rows, (i, j) => eta * at(inputKernel, i, j) * at(outputKernel, i, j)),
      1e-12,
    );
  });
});

describe('the adaptive metrics', () => {
  /** Of two samples each, with the means (3, 0) and (1, 2). */
  const gradients = [matrix([2, -1], [4, 1]), matrix([1, 1], [1, 3])];
  const options = { decay: 0.75, epsilon: 0.5, eta: 2, secondMoment: 'mean-gradient' } as const;

  it('rmsprop averages the squared mean gradients from zero', () => {
    const v = [0.75 * 0.25 * 9 + 0.25 * 1, 0.25 * 4];
    expectClose(rmspropMetric(gradients, options), diagonal(v.map((value) => (Math.sqrt(value) + 0.5) / 2)), 1e-15);
  });

  it('or the means of the samples’ squares', () => {
    const v = [0.75 * 0.25 * 10 + 0.25 * 1, 0.75 * 0.25 * 1 + 0.25 * 5];
    const R = rmspropMetric(gradients, { ...options, secondMoment: 'per-sample' });
    expectClose(R, diagonal(v.map((value) => (Math.sqrt(value) + 0.5) / 2)), 1e-15);
  });

  it('adam corrects the bias, so that a repeated gradient is its own average', () => {
    const repeated = [gradients[1]!, gradients[1]!, gradients[1]!];
    expectClose(adamMetric(repeated, options), diagonal([1.5 / 2, 2.5 / 2]), 1e-15);
  });
});

describe('the EKFAC metric', () => {
  const options = { decay: 0.8, damping: 0.03, eta: 2 };
  const batches = statisticsOf(12, 4);

  it('is (A ⊗ Γ + γI)/η as the decay goes to one: nothing but the factors', () => {
    const { A, Gamma } = batchFactors(batches[0]!);
    const expected = scale(add(kron(A, Gamma), scale(identity(8), 0.03)), 1 / 2);
    expectClose(ekfacMetric(batches.slice(0, 1), { ...options, decay: 1 - 1e-15 }), expected, 1e-12);
  });

  it('has, without memory, the diagonal of E[h J Jᵀ] in the eigenbasis, and so its trace', () => {
    const last = batches[3]!;
    const J = sampleGradients(last.inputs, last.outputGradients);
    const fisher = scale(multiply(transpose(J), diagonal(last.terminalWeights), J), 1 / 5);
    const P = scale(ekfacMetric(batches, { ...options, decay: 0 }), 2);
    expect(trace(P)).toBeCloseTo(trace(fisher) + 8 * 0.03, 12);
    const U = kron(eigenSymmetric(batchFactors(last).A).vectors, eigenSymmetric(batchFactors(last).Gamma).vectors);
    const rotated = multiply(transpose(U), P, U);
    expectClose(rotated, diagonal(Array.from({ length: 8 }, (_, j) => at(rotated, j, j))), 1e-12);
  });
});

describe('the per-sample recursions', () => {
  it.each(randomProblems)('of one sample are exact: $activation, $loss, widths $widths', (options) => {
    for (const valueRegularization of [0, 0.3]) {
      for (const curvature of curvatures) {
        for (const coupling of couplings) {
          const single = controlProblem({ ...options, batchSize: 1 }, curvature, 'kronecker', 3);
          const problem = { ...single, valueRegularization };
          expectClose(stacked(diagonalStep(problem, coupling)), stacked(ddpStep(problem, coupling).deltaU), 1e-9);
        }
      }
    }
  });

  it('the diagonal one drops the cross-sample terms of N', () => {
    const problem = controlProblem(randomProblems[19]!, curvatures[1]!, 'kronecker', 3);
    const { network, batch, controlMetrics } = problem;
    const trajectory = forward(network, batch.inputs);
    const { inputs, outputGradients } = backpropagate(network, trajectory, batch.objective);
    const h = terminalWeights(losses(prediction(trajectory), batch.objective), { floor: 0.5, ceiling: 100 });
    const B = batch.inputs.rows;
    const step = diagonalStep(problem, 'value');
    const S = Array.from(h, (weight) => B / weight);
    for (let t = network.length - 1; t >= 0; t--) {
      const J = sampleGradients(inputs[t]!, outputGradients[t]!);
      const RinvJt = solve(controlMetrics[t]!, transpose(J));
      const N = multiply(J, RinvJt);
      const kappa = columnVector(S.map((_, i) => 1 / h[i]! / (S[i]! += at(N, i, i))));
      expectClose(vec(step[t]!), scale(multiply(RinvJt, kappa), -1), 1e-10);
    }
  });
});

const READINGS = ['paper-faithful', 'paper-averaged'] as const;

describe('the paper’s recursions', () => {
  const problem = controlProblem(randomProblems[19]!, { kind: 'gradient' }, 'kronecker', 3);
  const { network, batch } = problem;

  function paperProblem(factor: number): PaperProblem {
    return { network, batches: [batch], controlMetric: (t) => scale(problem.controlMetrics[t]!, factor) };
  }

  it.each(READINGS)('%s takes the plain step in the last stage, and in every stage by itself', (reading) => {
    const plain = preconditionedStep(problem);
    expectClose(stacked(paperStep(paperProblem(1), 'layerwise', reading)), stacked(plain), 1e-12);
    const step = paperStep(paperProblem(1), 'value', reading);
    expectClose(step.at(-1)!, plain.at(-1)!, 1e-12);
    expect(relativeError(step[0]!, plain[0]!)).toBeGreaterThan(1e-3);
  });

  it('to the letter is Bellman’s equation of every sample with a whole V_xx, where its root is real', () => {
    const B = batch.inputs.rows;
    const metrics = problem.controlMetrics.map((R) => scale(R, 1e3));
    const trajectory = forward(network, batch.inputs);
    const gradients = lossGradients(prediction(trajectory), batch.objective);
    let values = Array.from({ length: B }, (_, i) => {
      const Vx = transpose(row(gradients, i));
      return { Vx, Vxx: multiply(Vx, transpose(Vx)) };
    });
    const step: Matrix[] = [];
    for (let t = network.length - 1; t >= 0; t--) {
      const fx = stateJacobians(network[t]!, trajectory.preActivations[t]!);
      const fu = controlJacobians(network[t]!, trajectory.states[t]!, trajectory.preActivations[t]!);
      const stages = values.map(({ Vx, Vxx }, i) => {
        const Qu = multiply(transpose(fu[i]!), Vx);
        const Qux = multiply(transpose(fu[i]!), Vxx, fx[i]!);
        const k = scale(solve(metrics[t]!, Qu), -1);
        const next = {
          Vx: add(multiply(transpose(fx[i]!), Vx), multiply(transpose(Qux), k)),
          Vxx: subtract(multiply(transpose(fx[i]!), Vxx, fx[i]!), multiply(transpose(Qux), solve(metrics[t]!, Qux))),
        };
        return { k, next };
      });
      const sum = stages.map(({ k }) => k).reduce((a, b) => add(a, b));
      step.unshift(scale(sum, 1 / B));
      values = stages.map(({ next }) => next);
    }
    const found = paperStep(paperProblem(1e3), 'value', 'paper-faithful');
    for (const [t, change] of found.entries()) expectClose(vec(change), step[t]!, 1e-12);
  });

  it('to the letter leaves nothing to earlier stages of a sample whose root is not real', () => {
    const step = paperStep(paperProblem(1e-6), 'value', 'paper-faithful');
    for (const change of step.slice(0, -1)) expect(Math.max(...change.data.map(Math.abs))).toBeLessThan(1e-6);
    expect(Math.max(...step.at(-1)!.data.map(Math.abs))).toBeGreaterThan(1);
  });
});

describe('V_xx regularised', () => {
  it('solves each stage alone with φ_xx + ε S Sᵀ: layerwise', () => {
    const epsilon = 0.4;
    for (const curvature of curvatures.slice(0, 2)) {
      const problem = controlProblem(randomProblems[26]!, curvature, 'identity', 3);
      const trajectory = forward(problem.network, problem.batch.inputs);
      const output = prediction(trajectory);
      const { Vx, Vxx } = terminalValue(output, problem.batch, curvature);
      const S = blockDiagonal(rowsOf(lossGradients(output, problem.batch.objective)).map(transpose));
      const regularised = add(Vxx, scale(multiply(S, transpose(S)), epsilon));
      const { controls } = predictionJacobians(linearise(problem.network, trajectory));
      const { deltaU } = ddpStep({ ...problem, valueRegularization: epsilon }, 'layerwise');
      for (const [t, J] of controls.entries()) {
        const Quu = add(problem.controlMetrics[t]!, multiply(transpose(J), regularised, J));
        expectClose(vec(deltaU[t]!), scale(solve(Quu, multiply(transpose(J), Vx)), -1), 1e-10);
      }
    }
  });
});

describe('the linear-feedback step equals the joint dense damped Gauss–Newton step', () => {
  describe.each(curvatures)('terminal curvature %o', (curvature) => {
    it.each(randomProblems)('$activation, $loss, widths $widths, B = $batchSize', (options) => {
      for (const metric of ['identity', 'kronecker'] as const) {
        const plain = controlProblem(options, curvature, metric, 3);
        const random = mulberry32(options.seed + 2);
        const costGradients = plain.network.map(({ weights }) => gaussianMatrix(random, weights.data.length, 1));
        for (const problem of [plain, { ...plain, costGradients }]) {
          const joint = stacked(denseGaussNewtonStep(problem));
          expectClose(stacked(ddpStep(problem, 'linear-feedback').deltaU), joint, 1e-10);
        }
      }
    });
  });
});

describe("the recursion's policy and value against dense solves of the tail problems", () => {
  it.each(randomProblems)('$activation, $loss, widths $widths, B = $batchSize', (options) => {
    for (const curvature of curvatures) {
      const problem = controlProblem(options, curvature, 'kronecker', 3);
      const { network, batch } = problem;
      const random = mulberry32(options.seed + 1);
      const { stages, deltaU } = ddpStep(problem, 'value');
      const trajectory = forward(network, batch.inputs);
      const dynamics = linearise(network, trajectory);
      const terminal = terminalValue(prediction(trajectory), batch, curvature);
      for (const [t, { k, K, Vx, Vxx }] of stages.entries()) {
        // δu_t*(δX) = k + K δX minimises the cost-to-go of the problem that starts at stage t.
        expectClose(deltaU[t]!, denseGaussNewtonStep(problem, { firstStage: t })[0]!, 1e-10);
        const deltaX = vec(gaussianMatrix(random, batch.inputs.rows, trajectory.states[t]!.cols));
        const displaced = denseGaussNewtonStep(problem, { firstStage: t, deltaX });
        expectClose(add(k, multiply(K, deltaX)), vec(displaced[0]!), 1e-10);

        // V_t(δX) − V_t(0) = V_xᵀ δX + ½ δXᵀ V_xx δX.
        const { controls, state } = predictionJacobians(dynamics, t);
        const minimum = (tailStep: Matrix[], start: Matrix) => {
          const u = stacked(tailStep);
          const x = add(multiply(state, start), multiply(stackColumns(controls), u));
          const R = blockDiagonal(problem.controlMetrics.slice(t));
          return inner(terminal.Vx, x) + 0.5 * inner(x, multiply(terminal.Vxx, x)) + 0.5 * inner(u, multiply(R, u));
        };
        const rest = minimum(denseGaussNewtonStep(problem, { firstStage: t }), scale(deltaX, 0));
        const expansion = inner(Vx, deltaX) + 0.5 * inner(deltaX, multiply(Vxx, deltaX));
        expectClose(matrix([expansion + rest]), matrix([minimum(displaced, deltaX)]), 1e-9);
      }
    }
  });
});

describe('a layerwise step', () => {
  it.each(randomProblems)('solves each stage alone: $activation, $loss, widths $widths', (options) => {
    for (const curvature of curvatures) {
      const problem = controlProblem(options, curvature, 'kronecker', 3);
      const trajectory = forward(problem.network, problem.batch.inputs);
      const { Vx, Vxx } = terminalValue(prediction(trajectory), problem.batch, curvature);
      const { controls } = predictionJacobians(linearise(problem.network, trajectory));
      const { deltaU } = ddpStep(problem, 'layerwise');
      for (const [t, J] of controls.entries()) {
        const Quu = add(problem.controlMetrics[t]!, multiply(transpose(J), Vxx, J));
        expectClose(vec(deltaU[t]!), scale(solve(Quu, multiply(transpose(J), Vx)), -1), 1e-10);
      }
    }
  });
});

describe('one stage', () => {
  const oneStage: RandomProblem = {
    seed: 21,
    widths: [3, 2],
    activation: 'linear',
    loss: 'softmax-cross-entropy',
    batchSize: 6,
  };

  it.each(couplings)('is ridge regression in sample space: %s', (coupling) => {
    for (const curvature of curvatures.filter(({ kind }) => kind === 'gradient')) {
      const problem = controlProblem(oneStage, curvature, 'kronecker', 3);
      const { network, batch } = problem;
      const trajectory = forward(network, batch.inputs);
      const { inputs, outputGradients } = backpropagate(network, trajectory, batch.objective);
      const lossScale = curvature.kind === 'gradient' ? curvature.lossScale : undefined;
      const h = terminalWeights(losses(prediction(trajectory), batch.objective), lossScale);
      // min over δu of (1/2B) Σ_i h_i (J_i δu + 1/h_i)² + ½ δuᵀ R δu, solved in its dual: B unknowns.
      const J = sampleGradients(inputs[0]!, outputGradients[0]!);
      const RinvJt = solve(problem.controlMetrics[0]!, transpose(J));
      const kernel = add(multiply(J, RinvJt), scale(diagonal(h.map((weight) => 1 / weight)), J.rows));
      const dual = solve(kernel, columnVector(h.map((weight) => 1 / weight)));
      expectClose(vec(ddpStep(problem, coupling).deltaU[0]!), scale(multiply(RinvJt, dual), -1), 1e-10);
    }
  });

  it.each(couplings)('with MSE is the textbook ridge regression around the current weights: %s', (coupling) => {
    const eta = 0.8;
    const { network, batch } = randomProblem({ ...oneStage, loss: 'mse' });
    const problem: Problem = {
      network,
      batch,
      curvature: { kind: 'gauss-newton' },
      controlMetrics: [identityMetric(network[0]!.weights.data.length, eta)],
    };
    const a = augment(batch.inputs);
    const residual = subtract(targetsOf(batch), prediction(forward(network, batch.inputs)));
    const normal = add(scale(multiply(transpose(a), a), 1 / 6), identityMetric(4, eta));
    const ridge = solve(normal, scale(multiply(transpose(a), residual), 1 / 6));
    expectClose(ddpStep(problem, coupling).deltaU[0]!, ridge, 1e-10);
  });
});

describe('linear-quadratic problems', () => {
  const weak = 1e8;

  it.each(couplings)('one affine stage with MSE lands on least squares as R → 0: %s', (coupling) => {
    const options = { seed: 31, widths: [3, 2], activation: 'linear', loss: 'mse', batchSize: 8 } as const;
    const { network, batch } = randomProblem(options);
    const controlMetrics = [identityMetric(8, weak)];
    const step = ddpStep({ network, batch, curvature: { kind: 'gauss-newton' }, controlMetrics }, coupling);
    const optimum = leastSquares(augment(batch.inputs), targetsOf(batch));
    expectClose(add(network[0]!.weights, step.deltaU[0]!), optimum, 1e-6);
    const residual = subtract(multiply(augment(batch.inputs), optimum), targetsOf(batch));
    expectClose(matrix([sum(step.losses)]), matrix([0.5 * inner(vec(residual), vec(residual))]), 1e-12);
  });

  it.each(couplings)(
    'so does the loss-scaled gradient curvature for a scalar output, where h S Sᵀ = 1: %s',
    (coupling) => {
      const options = { seed: 32, widths: [3, 1], activation: 'linear', loss: 'mse', batchSize: 8 } as const;
      const { network, batch } = randomProblem(options);
      const step = ddpStep(
        {
          network,
          batch,
          curvature: { kind: 'gradient', lossScale: { floor: 0, ceiling: 1e12 } },
          controlMetrics: [identityMetric(4, weak)],
        },
        coupling,
      );
      const optimum = leastSquares(augment(batch.inputs), targetsOf(batch));
      expectClose(add(network[0]!.weights, step.deltaU[0]!), optimum, 1e-6);
    },
  );

  it.each([0, 1, 2])(
    'only stage %i of an affine net free: every coupling lands on least squares in that stage',
    (free) => {
      // Square stages keep every stage's least-squares problem of full rank.
      const options = { seed: 33, widths: [3, 3, 3, 3], activation: 'linear', loss: 'mse', batchSize: 8 } as const;
      const { network, batch } = randomProblem(options);
      const controlMetrics = network.map(({ weights }, t) =>
        identityMetric(weights.data.length, t === free ? weak : 1 / weak ** 2),
      );
      const trajectory = forward(network, batch.inputs);
      const { controls } = predictionJacobians(linearise(network, trajectory));
      const residual = subtract(targetsOf(batch), prediction(trajectory));
      const optimum = leastSquares(controls[free]!, vec(residual));
      for (const coupling of couplings) {
        const step = ddpStep({ network, batch, curvature: { kind: 'gauss-newton' }, controlMetrics }, coupling);
        expectClose(vec(step.deltaU[free]!), optimum, 1e-4);
      }
    },
  );

  it('biases as the only, additive, controls of an affine net: the second forward pass is exact', () => {
    const options = { seed: 34, widths: [2, 3, 3, 3], activation: 'linear', loss: 'mse', batchSize: 6 } as const;
    const { network, batch } = randomProblem(options);
    const controlMetrics = network.map(({ weights }) =>
      diagonal(Array.from(weights.data, (_, j) => (j >= (weights.rows - 1) * weights.cols ? 1e-7 : 1e12))),
    );
    const problem: Problem = { network, batch, curvature: { kind: 'gauss-newton' }, controlMetrics };
    const step = ddpStep(problem, 'feedback');
    expectClose(stacked(step.deltaU), stacked(ddpStep(problem, 'linear-feedback').deltaU), 1e-9);
    // The last bias alone already shifts every output by the mean residual: no choice of biases does better.
    const residual = subtract(targetsOf(batch), prediction(forward(network, batch.inputs)));
    const ones = build(6, 1, () => 1);
    const centred = subtract(residual, multiply(ones, scale(multiply(transpose(ones), residual), 1 / 6)));
    expectClose(matrix([sum(step.losses)]), matrix([0.5 * inner(vec(centred), vec(centred))]), 1e-10);
  });

  it('all layers of a net, linearised: the step solves the normal equations of least squares as R → 0', () => {
    for (const activation of activations) {
      const options = { seed: 35, widths: [2, 2, 2], activation, loss: 'mse', batchSize: 12 } as const;
      const { network, batch } = randomProblem(options);
      const controlMetrics = network.map(({ weights }) => identityMetric(weights.data.length, weak));
      const step = ddpStep({ network, batch, curvature: { kind: 'gauss-newton' }, controlMetrics }, 'linear-feedback');
      const trajectory = forward(network, batch.inputs);
      const J = stackColumns(predictionJacobians(linearise(network, trajectory)).controls);
      const residual = vec(subtract(prediction(trajectory), targetsOf(batch)));
      // The normal equations of min ‖residual + 𝒥 δu‖².
      const fitted = multiply(transpose(J), J, stacked(step.deltaU));
      expectClose(fitted, scale(multiply(transpose(J), residual), -1), 1e-5);
    }
  });
});

describe('limits of small η', () => {
  const options: RandomProblem = {
    seed: 41,
    widths: [3, 4, 3, 3],
    activation: 'tanh',
    loss: 'softmax-cross-entropy',
    batchSize: 5,
  };

  it.each(couplings)('%s tends to the plain preconditioned step, linearly in η', (coupling) => {
    for (const curvature of curvatures) {
      for (const metric of ['identity', 'kronecker'] as const) {
        const gap = (eta: number) => {
          const problem = controlProblem(options, curvature, metric, eta);
          return relativeError(stacked(ddpStep(problem, coupling).deltaU), stacked(preconditionedStep(problem)));
        };
        expect(gap(1e-6)).toBeLessThan(1e-4);
        expect(gap(1e-4) / gap(1e-5)).toBeCloseTo(10, 0);
      }
    }
  });

  it('the two second forward passes differ by the curvature of the network only, relatively in η²', () => {
    for (const curvature of curvatures) {
      const gap = (eta: number) => {
        const problem = controlProblem(options, curvature, 'kronecker', eta);
        return relativeError(
          stacked(ddpStep(problem, 'feedback').deltaU),
          stacked(ddpStep(problem, 'linear-feedback').deltaU),
        );
      };
      expect(gap(1e-2) / gap(1e-3)).toBeGreaterThan(80);
      expect(gap(1e-2) / gap(1e-3)).toBeLessThan(120);
    }
  });
});

describe('the second forward pass', () => {
  it.each(randomProblems)('changes nothing in the first stage: $activation, $loss, widths $widths', (options) => {
    const problem = controlProblem(options, curvatures[1]!, 'kronecker', 3);
    const value = ddpStep(problem, 'value');
    const feedback = ddpStep(problem, 'feedback');
    expectClose(feedback.deltaU[0]!, value.deltaU[0]!, 0);
    const moved = withControls(problem.network, feedback.deltaU);
    const output = prediction(forward(moved, problem.batch.inputs));
    expectClose(columnVector(feedback.losses), columnVector(losses(output, problem.batch.objective)), 0);
  });
});

/** Largest difference over the largest expected entry; the plain largest difference where all expected entries are 0. */
function relativeError(actual: Matrix, expected: Matrix): number {
  const largest = (a: Matrix) => a.data.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  return largest(subtract(actual, expected)) / (largest(expected) || 1);
}

function expectClose(actual: Matrix, expected: Matrix, tolerance: number): void {
  expect(relativeError(actual, expected)).toBeLessThanOrEqual(tolerance);
}

/** ∂vec(f)/∂vec(x) by central differences, for f of any matrix shape. */
function differenceJacobian(f: (x: Matrix) => Matrix, x: Matrix): Matrix {
  const step = 1e-5;
  const moved = (j: number, by: number) =>
    f(reshape(columnVector(x.data.map((value, l) => (l === j ? value + by : value))), x.rows, x.cols));
  return stackColumns(
    Array.from(x.data, (_, j) => vec(scale(subtract(moved(j, step), moved(j, -step)), 1 / (2 * step)))),
  );
}

function controlProblem(
  options: RandomProblem,
  curvature: TerminalCurvature,
  metric: 'identity' | 'kronecker',
  eta: number,
): Problem {
  const { network, batch } = randomProblem(options);
  const random = mulberry32(options.seed + 1000);
  const earlier = randomBatch(random, options.widths, options.loss, options.batchSize + 1);
  const perBatch = [earlier, batch].map((each) => layerStatistics(network, each, curvature));
  const controlMetrics = network.map(({ weights }, t) =>
    metric === 'identity'
      ? identityMetric(weights.data.length, eta)
      : kroneckerMetric(
          perBatch.map((layers) => layers[t]!),
          { decay: 0.95, damping: 1e-2, eta },
        ),
  );
  return { network, batch, curvature, controlMetrics };
}

function layerStatistics(network: Network, batch: Batch, curvature: TerminalCurvature): LayerStatistics[] {
  const trajectory = forward(network, batch.inputs);
  const { inputs, outputGradients } = backpropagate(network, trajectory, batch.objective);
  const lossScale = curvature.kind === 'gradient' ? curvature.lossScale : undefined;
  const h = terminalWeights(losses(prediction(trajectory), batch.objective), lossScale);
  return inputs.map((x, t) => ({ inputs: x, outputGradients: outputGradients[t]!, terminalWeights: h }));
}

/** Random statistics of a layer with 3 inputs and 2 outputs, batches of 5. */
function statisticsOf(seed: number, batches: number): LayerStatistics[] {
  const random = mulberry32(seed);
  return Array.from({ length: batches }, () => ({
    inputs: gaussianMatrix(random, 5, 3),
    outputGradients: gaussianMatrix(random, 5, 2),
    terminalWeights: Array.from({ length: 5 }, () => 0.5 + random()),
  }));
}

function leastSquares(a: Matrix, y: Matrix): Matrix {
  return solve(multiply(transpose(a), a), multiply(transpose(a), y));
}

function targetsOf({ objective }: Batch): Matrix {
  if (objective.kind !== 'mse') throw new TypeError(`${objective.kind} has no regression targets`);
  return objective.targets;
}

function matrix(...rows: number[][]): Matrix {
  return { rows: rows.length, cols: rows[0]!.length, data: Float64Array.from(rows.flat()) };
}

function rowsOf(a: Matrix): Matrix[] {
  return Array.from({ length: a.rows }, (_, i) => row(a, i));
}

/** vec of every matrix, one above the other. */
function stacked(matrices: readonly Matrix[]): Matrix {
  return stackRows(matrices.map(vec));
}

function inner(a: Matrix, b: Matrix): number {
  return at(multiply(transpose(a), b), 0, 0);
}

function sum(values: Float64Array): number {
  return values.reduce((total, value) => total + value, 0);
}
