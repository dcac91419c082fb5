/**
 * One step of differential dynamic programming on the explicit stacked batch (Liu, Chen, Theodorou, "DDPNOpt:
 * Differential Dynamic Programming Neural Optimizer", ICLR 2021, arXiv 2002.08809), with first-order dynamics.
 *
 * A control u_t is shared by the whole batch, so the state of the control problem is the stacked batch
 * X_t = [x_t¹; …; x_t^B] ∈ R^{B n_t}: a [B, n_t] matrix flattened in row-major order.
 *
 *     δX_{t+1} = F_x δX_t + F_u δu_t                                            F_x: B n' × B n,  F_u: B n' × m
 *     V_T(δX)  = V_xᵀ δX + ½ δXᵀ V_xx δX                                        cost of control: ℓ_uᵀ δu_t + ½ δu_tᵀ R_t δu_t
 */
import {
  add,
  at,
  blockDiagonal,
  build,
  columnVector,
  kron,
  multiply,
  reshape,
  row,
  scale,
  solve,
  stackColumns,
  stackRows,
  subtract,
  transpose,
  vec,
  zeros,
} from './matrix.ts';
import type { Matrix } from './matrix.ts';
import {
  augment,
  backpropagate,
  controlJacobians,
  element,
  forward,
  lossGradients,
  lossHessians,
  losses,
  prediction,
  sampleOf,
  stateJacobians,
  withControls,
} from './network.ts';
import type { Batch, Network, Stage, Trajectory } from './network.ts';

/** h_i = clamp(1/(2 φ_i), floor, ceiling). */
export interface LossScale {
  readonly floor: number;
  readonly ceiling: number;
}

export type TerminalCurvature =
  /** φ_xx ≈ h_i S_i S_iᵀ with S_i = ∂φ_i/∂x_T; h_i = 1 unless a loss scale is given. */
  | { readonly kind: 'gradient'; readonly lossScale?: LossScale }
  /** φ_xx = ∂²φ_i/∂x_T², exactly. */
  | { readonly kind: 'gauss-newton' }
  /** φ_xx = S_i S_iᵀ for given columns S_i, one matrix n_T × r per sample. */
  | { readonly kind: 'columns'; readonly columns: readonly Matrix[] };

/**
 * - `layerwise`: each stage as if it were the only one with a control to choose, δu = k at δX = 0.
 * - `value`: the full recursion, but no second forward pass, δu = k at δX = 0.
 * - `feedback`: the full recursion and the second forward pass through the network itself.
 * - `linear-feedback`: the full recursion and the second forward pass through the linearised network.
 */
export type Coupling = 'layerwise' | 'value' | 'feedback' | 'linear-feedback';

export interface Problem {
  readonly network: Network;
  readonly batch: Batch;
  readonly curvature: TerminalCurvature;
  /** R_t for t = 0 … T−1, each m_t × m_t; ℓ_uu of a running cost is part of it. */
  readonly controlMetrics: readonly Matrix[];
  /** ℓ_u of a running cost for t = 0 … T−1, each m_t × 1; 0 unless given. */
  readonly costGradients?: readonly Matrix[];
  /**
   * What is taken away from every control beside its policy, each m_t × 1; 0 unless given. The second forward pass through the
   * network meets it, `linear-feedback` does not predict it.
   */
  readonly decoupledDecay?: readonly Matrix[];
  /**
   * ε ≥ 0; 0 unless given. Every stage takes V'_xx + ε G' G'ᵀ for V'_xx, with G' the columns of the terminal curvature (the
   * loss gradients, without their weights h, for "gradient") back-propagated to the stage's output, sample by sample.
   */
  readonly valueRegularization?: number;
}

/** The linearised dynamics of one stage. */
export interface StageDynamics {
  /** blockdiag(f_x¹, …, f_x^B), B n_{t+1} × B n_t. */
  readonly Fx: Matrix;
  /** [f_u¹; …; f_u^B], B n_{t+1} × m_t. */
  readonly Fu: Matrix;
}

/** V_x as a column vector, B n_t × 1, and V_xx, B n_t × B n_t. */
export interface ValueExpansion {
  readonly Vx: Matrix;
  readonly Vxx: Matrix;
}

interface QExpansion {
  /** B n_t × 1 */
  readonly Qx: Matrix;
  /** m_t × 1 */
  readonly Qu: Matrix;
  /** B n_t × B n_t */
  readonly Qxx: Matrix;
  /** m_t × m_t */
  readonly Quu: Matrix;
  /** m_t × B n_t */
  readonly Qux: Matrix;
}

/** δu*(δX) = k + K δX. */
export interface Policy {
  /** m_t × 1 */
  readonly k: Matrix;
  /** m_t × B n_t */
  readonly K: Matrix;
}

export interface StageSolution extends QExpansion, Policy, ValueExpansion {}

export interface DdpStep {
  /** δu_t as matrices [n_t + 1, c]. */
  readonly deltaU: readonly Matrix[];
  /** The backward pass at stages 0 … T−1. */
  readonly stages: readonly StageSolution[];
  /** φ_i of the network itself at u + δu, [B]. */
  readonly losses: Float64Array;
}

export function ddpStep(problem: Problem, coupling: Coupling): DdpStep {
  const { network, batch } = problem;
  const stages = backwardPass(problem, coupling === 'layerwise' ? 'alone' : 'all');
  const deltaU = forwardPass(problem, stages, coupling);
  const output = prediction(forward(withControls(network, deltaU), batch.inputs));
  return { deltaU, stages, losses: losses(output, batch.objective) };
}

/**
 * The recursion that treats every sample by itself, for the control that the samples share: sample i alone is a control problem with
 * the weight 1/B on its loss and the whole running cost; its policy is k_i + K_i δx_i, and the shared control changes by −R⁻¹ℓ_u,
 * which the samples have in common, and the sum of what each of them adds to it.
 *
 * Returns δu_t, [n_t + 1, c].
 */
export function diagonalStep(problem: Problem, coupling: Coupling): Matrix[] {
  return forwardPass(problem, diagonalPolicies(problem, coupling === 'layerwise' ? 'alone' : 'all'), coupling);
}

/** k = p + Σ_i (k_i − p), p = −R⁻¹ℓ_u, and K = [K_1 … K_B], from one Bellman recursion per sample. */
function diagonalPolicies(problem: Problem, optimised: 'all' | 'alone'): Policy[] {
  const B = problem.batch.inputs.rows;
  const samples = Array.from({ length: B }, (_, i) => backwardPass(sampleProblem(problem, i), optimised));
  return problem.network.map((_, t) => {
    const stages = samples.map((stage) => element(stage, t));
    const common = scale(solve(element(problem.controlMetrics, t), costGradient(problem, t)), -1);
    return {
      k: add(common, sumOf(stages.map(({ k }) => subtract(k, common)))),
      K: stackColumns(stages.map(({ K }) => K)),
    };
  });
}

/** ℓ_u of stage t, m_t × 1. */
function costGradient({ network, costGradients }: Problem, t: number): Matrix {
  return costGradients === undefined ? zeros(element(network, t).weights.data.length, 1) : element(costGradients, t);
}

/**
 * Sample i as a problem of its own. Its cost is φ_i/B + ℓ_uᵀu + ½ uᵀRu, stated B-fold so that the loss has the weight that a
 * batch of one gives it: φ_i + B ℓ_uᵀu + ½ uᵀ(B R)u, and B ε for the same addition to V_xx. The policy does not notice the factor.
 */
function sampleProblem(problem: Problem, i: number): Problem {
  const { network, batch, curvature, controlMetrics, valueRegularization = 0 } = problem;
  const B = batch.inputs.rows;
  return {
    network,
    batch: sampleOf(batch, i),
    curvature: curvature.kind === 'columns' ? { kind: 'columns', columns: [element(curvature.columns, i)] } : curvature,
    controlMetrics: controlMetrics.map((R) => scale(R, B)),
    costGradients: network.map((_, t) => scale(costGradient(problem, t), B)),
    valueRegularization: B * valueRegularization,
  };
}

function sumOf(matrices: readonly Matrix[]): Matrix {
  return matrices.reduce((sum, matrix) => add(sum, matrix));
}

/** h_i, [B]: 1 without a loss scale; the ceiling where φ_i ≤ 1/(2·ceiling), φ_i = 0 included. */
export function terminalWeights(samples: Float64Array, lossScale: LossScale | undefined): Float64Array {
  if (lossScale === undefined) return samples.map(() => 1);
  const { floor, ceiling } = lossScale;
  return samples.map((loss) => (loss <= 1 / (2 * ceiling) ? ceiling : Math.max(floor, 1 / (2 * loss))));
}

/**
 * V_x = (1/B) [∂φ_1/∂x_T; …; ∂φ_B/∂x_T] and V_xx = (1/B) blockdiag(φ_xx¹, …, φ_xx^B). The weights h_i enter the
 * curvature only: V_x is the gradient of the mean loss whatever the loss scale.
 */
export function terminalValue(output: Matrix, batch: Batch, curvature: TerminalCurvature): ValueExpansion {
  const B = output.rows;
  const S = lossGradients(output, batch.objective);
  return {
    Vx: scale(vec(S), 1 / B),
    Vxx: scale(blockDiagonal(terminalCurvatures(output, batch, curvature)), 1 / B),
  };
}

/** φ_xx^i = h_i S_i S_iᵀ of every sample, B matrices of n_T × n_T. */
function terminalCurvatures(output: Matrix, batch: Batch, curvature: TerminalCurvature): Matrix[] {
  const products = columnProducts(output, batch, curvature);
  if (curvature.kind !== 'gradient') return products;
  const h = terminalWeights(losses(output, batch.objective), curvature.lossScale);
  return products.map((product, i) => scale(product, element(h, i)));
}

/** S_i S_iᵀ of every sample, without the weights h_i: B matrices of n_T × n_T. */
function columnProducts(output: Matrix, batch: Batch, curvature: TerminalCurvature): Matrix[] {
  switch (curvature.kind) {
    case 'gauss-newton':
      return lossHessians(output, batch.objective);
    case 'columns':
      return curvature.columns.map((S) => multiply(S, transpose(S)));
    case 'gradient': {
      const S = lossGradients(output, batch.objective);
      return Array.from({ length: S.rows }, (_, i) => multiply(transpose(row(S, i)), row(S, i)));
    }
  }
}

/** F_x and F_u of every stage along the trajectory. */
export function linearise(network: Network, trajectory: Trajectory): StageDynamics[] {
  return network.map((stage, t) => {
    const x = element(trajectory.states, t);
    const z = element(trajectory.preActivations, t);
    return { Fx: blockDiagonal(stateJacobians(stage, z)), Fu: stackRows(controlJacobians(stage, x, z)) };
  });
}

/**
 * Bellman's recursion from t = T−1 to 0. With `optimised` = 'alone' every stage is solved as if the stages after it kept
 * their controls (their k = 0 and K = 0), so V' is the terminal cost carried back through the dynamics (and regularised once,
 * where the stage uses it).
 */
function backwardPass(problem: Problem, optimised: 'all' | 'alone'): StageSolution[] {
  const { network, batch, curvature, controlMetrics, valueRegularization = 0 } = problem;
  const trajectory = forward(network, batch.inputs);
  const dynamics = linearise(network, trajectory);
  const solutions: StageSolution[] = [];
  let next = terminalValue(prediction(trajectory), batch, curvature);
  let products = blockDiagonal(columnProducts(prediction(trajectory), batch, curvature)); // G' G'ᵀ
  for (let t = network.length - 1; t >= 0; t--) {
    const stage = element(dynamics, t);
    const regularised = { Vx: next.Vx, Vxx: add(next.Vxx, scale(products, valueRegularization)) };
    const Q = expandQ(stage, element(controlMetrics, t), costGradient(problem, t), regularised);
    const policy = optimalPolicy(Q);
    next =
      optimised === 'all'
        ? valueUnderPolicy(Q, policy)
        : { Vx: Q.Qx, Vxx: multiply(transpose(stage.Fx), next.Vxx, stage.Fx) };
    products = multiply(transpose(stage.Fx), products, stage.Fx);
    solutions.unshift({ ...Q, ...policy, ...next });
  }
  return solutions;
}

function expandQ({ Fx, Fu }: StageDynamics, R: Matrix, lu: Matrix, { Vx, Vxx }: ValueExpansion): QExpansion {
  return {
    Qx: multiply(transpose(Fx), Vx),
    Qu: add(lu, multiply(transpose(Fu), Vx)),
    Qxx: multiply(transpose(Fx), Vxx, Fx),
    Quu: add(R, multiply(transpose(Fu), Vxx, Fu)),
    Qux: multiply(transpose(Fu), Vxx, Fx),
  };
}

/** k = −Q_uu⁻¹ Q_u, K = −Q_uu⁻¹ Q_ux. */
function optimalPolicy({ Qu, Quu, Qux }: QExpansion): Policy {
  return { k: scale(solve(Quu, Qu), -1), K: scale(solve(Quu, Qux), -1) };
}

/** V_x = Q_x − Q_uxᵀ Q_uu⁻¹ Q_u, V_xx = Q_xx − Q_uxᵀ Q_uu⁻¹ Q_ux. */
function valueUnderPolicy({ Qx, Qxx, Qux }: QExpansion, { k, K }: Policy): ValueExpansion {
  return {
    Vx: add(Qx, multiply(transpose(Qux), k)),
    Vxx: add(Qxx, multiply(transpose(Qux), K)),
  };
}

type Forward = Pick<Problem, 'network' | 'batch' | 'decoupledDecay'>;

/** δu_t, [n_t + 1, c], for t = 0 … T−1. */
export function forwardPass(problem: Forward, policies: readonly Policy[], coupling: Coupling): Matrix[] {
  switch (coupling) {
    case 'layerwise':
    case 'value':
      return problem.network.map((_, t) => changeOf(problem, t, element(policies, t).k));
    case 'feedback':
      return nonlinearForwardPass(problem, policies);
    case 'linear-feedback':
      return linearForwardPass(problem, policies);
  }
}

/** x̂_0 = x_0, x̂_{t+1} = f(x̂_t, u_t + k_t + K_t (x̂_t − x_t)). */
function nonlinearForwardPass(problem: Forward, policies: readonly Policy[]): Matrix[] {
  const { network, batch } = problem;
  const { states } = forward(network, batch.inputs);
  let xHat = batch.inputs;
  return network.map((stage, t) => {
    const deltaX = vec(subtract(xHat, element(states, t)));
    const deltaU = changeOf(problem, t, follow(element(policies, t), deltaX));
    xHat = prediction(forward(withControls([stage], [deltaU]), xHat));
    return deltaU;
  });
}

/** δX_0 = 0, δX_{t+1} = F_x δX_t + F_u (k_t + K_t δX_t). */
function linearForwardPass(problem: Forward, policies: readonly Policy[]): Matrix[] {
  const { network, batch } = problem;
  const dynamics = linearise(network, forward(network, batch.inputs));
  let deltaX = zeros(batch.inputs.data.length, 1);
  return network.map((_, t) => {
    const { Fx, Fu } = element(dynamics, t);
    const policy = follow(element(policies, t), deltaX);
    deltaX = add(multiply(Fx, deltaX), multiply(Fu, policy));
    return changeOf(problem, t, policy);
  });
}

/** The policy's change of the control, m_t × 1, less its decoupled decay, as [n_t + 1, c]. */
function changeOf({ network, decoupledDecay }: Forward, t: number, policy: Matrix): Matrix {
  const change = decoupledDecay === undefined ? policy : subtract(policy, element(decoupledDecay, t));
  return reshapeControl(element(network, t), change);
}

/** k + K δX, m_t × 1. */
function follow({ k, K }: Policy, deltaX: Matrix): Matrix {
  return add(k, multiply(K, deltaX));
}

/** The plain preconditioned step δu_t = −R_t⁻¹ ((1/B) J_tᵀ 1 + ℓ_u), [n_t + 1, c]: Q_ux = 0 and Q_uu = R_t. */
export function preconditionedStep(problem: Problem): Matrix[] {
  const { network, batch, controlMetrics } = problem;
  const { inputs, outputGradients } = backpropagate(network, forward(network, batch.inputs), batch.objective);
  return network.map((stage, t) => {
    const J = sampleGradients(element(inputs, t), element(outputGradients, t));
    const meanGradient = scale(multiply(transpose(J), columnVector(new Float64Array(J.rows).fill(1))), 1 / J.rows);
    const slope = add(meanGradient, costGradient(problem, t));
    return reshapeControl(stage, scale(solve(element(controlMetrics, t), slope), -1));
  });
}

/**
 * J, B·r × m: row i·r + ρ is vec(a_i g_iρᵀ) = a_i ⊗ g_iρ, for inputs [B, n] and output gradients [B·r, c], r of them per sample.
 */
export function sampleGradients(inputs: Matrix, outputGradients: Matrix): Matrix {
  const a = augment(inputs);
  const r = outputGradients.rows / a.rows;
  return stackRows(
    Array.from({ length: outputGradients.rows }, (_, j) => kron(row(a, Math.floor(j / r)), row(outputGradients, j))),
  );
}

/** The part of the control problem that starts at a later stage or from a displaced state. */
export interface Subproblem {
  /** The first stage whose control is free; 0 unless given. */
  readonly firstStage?: number;
  /** δX at the first stage, B n_t × 1; 0 unless given. */
  readonly deltaX?: Matrix;
}

/**
 * The damped Gauss–Newton step over all layers jointly, by one dense solve on the linearised network: with
 * 𝒥 = ∂X_T/∂(u_0, …, u_{T−1}), (blockdiag(R_0, …, R_{T−1}) + 𝒥ᵀ V_xx 𝒥) δu = −ℓ_u − 𝒥ᵀ (V_x + V_xx (∂X_T/∂X_t) δX).
 * Returns δu_t, [n_t + 1, c], for t = firstStage … T−1. Without valueRegularization.
 */
export function denseGaussNewtonStep(problem: Problem, { firstStage = 0, deltaX }: Subproblem = {}): Matrix[] {
  if ((problem.valueRegularization ?? 0) > 0) throw new RangeError('a regularised recursion minimises no joint cost');
  const { network, batch, curvature, controlMetrics } = problem;
  const trajectory = forward(network, batch.inputs);
  const { Vx, Vxx } = terminalValue(prediction(trajectory), batch, curvature);
  const { controls, state } = predictionJacobians(linearise(network, trajectory), firstStage);
  const J = stackColumns(controls);
  const R = blockDiagonal(controlMetrics.slice(firstStage));
  const slope = deltaX === undefined ? Vx : add(Vx, multiply(Vxx, state, deltaX));
  const lu = stackRows(network.slice(firstStage).map((_, t) => costGradient(problem, firstStage + t)));
  const deltaU = solve(add(R, multiply(transpose(J), Vxx, J)), scale(add(lu, multiply(transpose(J), slope)), -1));
  let offset = 0;
  return network.slice(firstStage).map((stage) => {
    const m = stage.weights.data.length;
    const start = offset;
    offset += m;
    return reshapeControl(
      stage,
      build(m, 1, (j) => at(deltaU, start + j, 0)),
    );
  });
}

/** ∂X_T/∂u_t, B n_T × m_t, for t = firstStage … T−1, and ∂X_T/∂X_firstStage, B n_T × B n_firstStage. */
export function predictionJacobians(
  dynamics: readonly StageDynamics[],
  firstStage = 0,
): { controls: Matrix[]; state: Matrix } {
  const last = element(dynamics, dynamics.length - 1);
  const controls = [last.Fu];
  let state = last.Fx;
  for (let t = dynamics.length - 2; t >= firstStage; t--) {
    const { Fx, Fu } = element(dynamics, t);
    controls.unshift(multiply(state, Fu));
    state = multiply(state, Fx);
  }
  return { controls, state };
}

function reshapeControl(stage: Stage, u: Matrix): Matrix {
  return reshape(u, stage.weights.rows, stage.weights.cols);
}
