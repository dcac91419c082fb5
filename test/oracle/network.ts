/**
 * Feed-forward networks of dense layers as a discrete-time control system, x_{t+1} = f_t(x_t, u_t), one stage per layer
 * (Liu, Chen, Theodorou, "DDPNOpt: Differential Dynamic Programming Neural Optimizer", ICLR 2021, arXiv 2002.08809).
 *
 * Axes: B samples, T stages, n_t the width of the state x_t, c = n_{t+1} the width of stage t's output,
 * m_t = (n_t + 1) c the dimension of the control u_t. Rows of a [B, n] matrix are samples.
 */
import {
  add,
  at,
  build,
  diagonal,
  firstRows,
  hadamard,
  identity,
  kron,
  multiply,
  row,
  scale,
  subtract,
  transpose,
} from './matrix.ts';
import type { Matrix } from './matrix.ts';

export type Activation = 'linear' | 'tanh' | 'relu' | 'sigmoid';

/** f_t(x, u) = σ(Wᵀ [x; 1]), u = vec(W) in row-major order. */
export interface Stage {
  /** W, [n_t + 1, c]; the bias is the last row. */
  readonly weights: Matrix;
  readonly activation: Activation;
}

/** Stages 0 … T−1. The last one is linear: its output x_T is the prediction (logits for cross-entropy). */
export type Network = readonly Stage[];

/** φ_i, the terminal cost of sample i; not divided by B. */
export type Objective =
  | { readonly kind: 'softmax-cross-entropy'; /** [B] */ readonly labels: readonly number[] }
  /** φ_i = ½ ‖y_i − ŷ_i‖² */
  | { readonly kind: 'mse'; /** [B, n_T] */ readonly targets: Matrix };

export interface Batch {
  /** x_0, [B, n_0]. */
  readonly inputs: Matrix;
  readonly objective: Objective;
}

export interface Trajectory {
  /** x_0 … x_T, each [B, n_t]. */
  readonly states: readonly Matrix[];
  /** z_t = Wᵀ [x_t; 1] for t = 0 … T−1, each [B, n_{t+1}]; x_{t+1} = σ(z_t). */
  readonly preActivations: readonly Matrix[];
}

/** x_T of a trajectory, [B, n_T]. */
export function prediction(trajectory: Trajectory): Matrix {
  return element(trajectory.states, trajectory.states.length - 1);
}

export function forward(network: Network, inputs: Matrix): Trajectory {
  const states = [inputs];
  const preActivations: Matrix[] = [];
  for (const [t, stage] of network.entries()) {
    const z = multiply(augment(element(states, t)), stage.weights);
    preActivations.push(z);
    states.push(mapEntries(z, (value) => activate(stage.activation, value)));
  }
  return { states, preActivations };
}

/** The network with its controls moved to u + δu; `deltaU[t]` is [n_t + 1, c]. */
export function withControls(network: Network, deltaU: readonly Matrix[]): Network {
  return network.map((stage, t) => ({ ...stage, weights: add(stage.weights, element(deltaU, t)) }));
}

/** [x, 1]: a column of ones appended to a [B, n] matrix, giving [B, n + 1]. */
export function augment(states: Matrix): Matrix {
  return build(states.rows, states.cols + 1, (i, j) => (j < states.cols ? at(states, i, j) : 1));
}

/** f_x of every sample: B matrices of n_{t+1} × n_t. f_x = diag(σ'(z)) Wᵀ without the bias. */
export function stateJacobians(stage: Stage, preActivations: Matrix): Matrix[] {
  const weights = withoutBias(stage.weights);
  return perSample(preActivations.rows, (i) =>
    multiply(diagonal(slopes(stage, row(preActivations, i)).data), transpose(weights)),
  );
}

/** f_u of every sample: B matrices of n_{t+1} × m_t. f_u = diag(σ'(z)) ([x; 1]ᵀ ⊗ I), u in row-major order. */
export function controlJacobians(stage: Stage, states: Matrix, preActivations: Matrix): Matrix[] {
  const inputs = augment(states);
  return perSample(states.rows, (i) =>
    multiply(diagonal(slopes(stage, row(preActivations, i)).data), kron(row(inputs, i), identity(preActivations.cols))),
  );
}

/** One sample as a batch of its own. */
export function sampleOf({ inputs, objective }: Batch, i: number): Batch {
  return {
    inputs: row(inputs, i),
    objective:
      objective.kind === 'mse'
        ? { kind: 'mse', targets: row(objective.targets, i) }
        : { kind: objective.kind, labels: [element(objective.labels, i)] },
  };
}

/** φ_i, [B]. `output` is x_T, [B, n_T]. */
export function losses(output: Matrix, objective: Objective): Float64Array {
  switch (objective.kind) {
    case 'softmax-cross-entropy':
      return Float64Array.from(objective.labels, (label, i) => {
        const logits = row(output, i);
        return logSumExp(logits) - at(logits, 0, label);
      });
    case 'mse':
      return Float64Array.from({ length: output.rows }, (_, i) => {
        const residual = subtract(row(output, i), row(objective.targets, i));
        return 0.5 * at(multiply(residual, transpose(residual)), 0, 0);
      });
  }
}

/** ∂φ_i/∂x_T, [B, n_T]. */
export function lossGradients(output: Matrix, objective: Objective): Matrix {
  switch (objective.kind) {
    case 'softmax-cross-entropy':
      return build(output.rows, output.cols, (i, j) => {
        const target = objective.labels[i] === j ? 1 : 0;
        return at(softmax(row(output, i)), 0, j) - target;
      });
    case 'mse':
      return subtract(output, objective.targets);
  }
}

/** ∂²φ_i/∂x_T², exactly: B matrices of n_T × n_T. diag(p) − p pᵀ for cross-entropy, I for MSE. */
export function lossHessians(output: Matrix, objective: Objective): Matrix[] {
  return perSample(output.rows, (i) => {
    if (objective.kind === 'mse') return identity(output.cols);
    const p = softmax(row(output, i));
    return subtract(diagonal(p.data), multiply(transpose(p), p));
  });
}

/** S_i with S_i S_iᵀ = ∂²φ_i/∂x_T²: B matrices of n_T × n_T. diag(√p) − p √pᵀ for cross-entropy, I for MSE. */
export function hessianRoots(output: Matrix, objective: Objective): Matrix[] {
  return perSample(output.rows, (i) => {
    if (objective.kind === 'mse') return identity(output.cols);
    const p = softmax(row(output, i));
    const root = mapEntries(p, Math.sqrt);
    return subtract(diagonal(root.data), multiply(transpose(p), root));
  });
}

export interface Backpropagation {
  /** a_t without the appended 1: the input activations x_t of each layer, T matrices [B, n_t]. */
  readonly inputs: readonly Matrix[];
  /** g_t = ∂φ_i/∂z_t, the per-sample gradients with respect to the pre-activations, T matrices [B, c]. */
  readonly outputGradients: readonly Matrix[];
  /** ∂φ_i/∂x_t for t = 0 … T, each [B, n_t]. */
  readonly stateGradients: readonly Matrix[];
}

/** Back-propagation of every sample's own loss φ_i (no 1/B). */
export function backpropagate(network: Network, trajectory: Trajectory, objective: Objective): Backpropagation {
  return backpropagateFrom(network, trajectory, lossGradients(prediction(trajectory), objective));
}

/** Back-propagation of any gradients [B, n_T] at the network's output, row by row. */
export function backpropagateFrom(network: Network, trajectory: Trajectory, outputGradient: Matrix): Backpropagation {
  const outputGradients: Matrix[] = [];
  const stateGradients = [outputGradient];
  for (let t = network.length - 1; t >= 0; t--) {
    const stage = element(network, t);
    const g = hadamard(element(stateGradients, 0), slopes(stage, element(trajectory.preActivations, t)));
    outputGradients.unshift(g);
    stateGradients.unshift(multiply(g, transpose(withoutBias(stage.weights))));
  }
  return { inputs: trajectory.states.slice(0, -1), outputGradients, stateGradients };
}

export interface RandomProblem {
  readonly seed: number;
  /** n_0 … n_T. */
  readonly widths: readonly number[];
  /** Of every stage but the last, which is linear. */
  readonly activation: Activation;
  readonly loss: Objective['kind'];
  readonly batchSize: number;
}

/** A network with Gaussian weights of variance 1/n_t and a batch with standard Gaussian inputs; the same for the same seed. */
export function randomProblem(options: RandomProblem): { network: Network; batch: Batch } {
  const random = mulberry32(options.seed);
  const { widths, batchSize } = options;
  const network = widths.slice(1).map((c, t): Stage => {
    const n = element(widths, t);
    return {
      weights: scale(gaussianMatrix(random, n + 1, c), 1 / Math.sqrt(n)),
      activation: t === widths.length - 2 ? 'linear' : options.activation,
    };
  });
  return { network, batch: randomBatch(random, widths, options.loss, batchSize) };
}

/** Standard Gaussian inputs [B, n_0], with uniform labels or standard Gaussian targets [B, n_T]. */
export function randomBatch(
  random: () => number,
  widths: readonly number[],
  loss: Objective['kind'],
  batchSize: number,
): Batch {
  const inputs = gaussianMatrix(random, batchSize, element(widths, 0));
  const outputs = element(widths, widths.length - 1);
  const objective: Objective =
    loss === 'mse'
      ? { kind: 'mse', targets: gaussianMatrix(random, batchSize, outputs) }
      : {
          kind: 'softmax-cross-entropy',
          labels: Array.from({ length: batchSize }, () => Math.floor(random() * outputs)),
        };
  return { inputs, objective };
}

/** The mulberry32 generator: uniform numbers in [0, 1) from a 32-bit seed. */
export function mulberry32(seed: number): () => number {
  let state = seed | 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let z = Math.imul(state ^ (state >>> 15), state | 1);
    z ^= z + Math.imul(z ^ (z >>> 7), z | 61);
    return ((z ^ (z >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Independent standard normal entries, by the Box–Muller transform. */
export function gaussianMatrix(random: () => number, rows: number, cols: number): Matrix {
  // 1 − random() is in (0, 1], so the logarithm is finite.
  return build(rows, cols, () => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random()));
}

/** `values[i]`, or a RangeError where there is none. */
export function element<Value>(values: ArrayLike<Value>, i: number): Value {
  const value = values[i];
  if (value === undefined) throw new RangeError(`index ${i} is outside a list of ${values.length}`);
  return value;
}

function activate(activation: Activation, z: number): number {
  switch (activation) {
    case 'linear':
      return z;
    case 'tanh':
      return Math.tanh(z);
    case 'relu':
      return Math.max(z, 0);
    case 'sigmoid':
      return 1 / (1 + Math.exp(-z));
  }
}

/** σ'(z); 0 at the kink of the rectifier. */
function activationSlope(activation: Activation, z: number): number {
  switch (activation) {
    case 'linear':
      return 1;
    case 'tanh':
      return 1 - Math.tanh(z) ** 2;
    case 'relu':
      return z > 0 ? 1 : 0;
    case 'sigmoid': {
      const y = activate('sigmoid', z);
      return y * (1 - y);
    }
  }
}

function slopes(stage: Stage, preActivations: Matrix): Matrix {
  return mapEntries(preActivations, (z) => activationSlope(stage.activation, z));
}

function withoutBias(weights: Matrix): Matrix {
  return firstRows(weights, weights.rows - 1);
}

function mapEntries(a: Matrix, map: (value: number) => number): Matrix {
  return build(a.rows, a.cols, (i, j) => map(at(a, i, j)));
}

function perSample(batchSize: number, make: (i: number) => Matrix): Matrix[] {
  return Array.from({ length: batchSize }, (_, i) => make(i));
}

/** log Σ_j exp(z_j) of a 1 × C row, shifted by its maximum so that nothing overflows. */
function logSumExp(logits: Matrix): number {
  const top = Math.max(...logits.data);
  return top + Math.log(logits.data.reduce((sum, z) => sum + Math.exp(z - top), 0));
}

/** Softmax of a 1 × C row. */
function softmax(logits: Matrix): Matrix {
  const normaliser = logSumExp(logits);
  return mapEntries(logits, (z) => Math.exp(z - normaliser));
}
