/**
 * Algorithm 3 of Liu, Chen & Theodorou, "DDPNOpt: Differential Dynamic Programming Neural Optimizer", ICLR 2021, as it is printed,
 * with the outer-product factorisation of its proposition 3: sample by sample, with explicit Jacobians, gradients and gains.
 *
 *     V_x,i = ∂φ_i/∂x_T, z_i = √h_i ∂φ_i/∂x_T               at the last state, V_xx,i = z_i z_iᵀ
 *     Q_u,i = ℓ_u + f_uᵀV'_x,i     Q_x,i = f_xᵀV'_x,i
 *     q_u,i = f_uᵀz'_i             q_x,i = f_xᵀz'_i          Q_ux,i = q_u,i q_x,iᵀ
 *     R                                                      one of table 2's matrices over η, made of the Q_u,i or V_h,i
 *     k_i = −R⁻¹Q_u,i              K_i = −R⁻¹Q_ux,i          δu = (1/B) Σ_i (k_i + K_i δx_i)
 *     V_x,i = Q_x,i − Q_ux,iᵀR⁻¹Q_u,i                        z_i = √(1 − q_u,iᵀR⁻¹q_u,i) q_x,i
 *
 * Where 1 − q_uᵀR⁻¹q_u is negative there is no such z. The sample's R⁻¹ is then taken to be smaller, by the factor that makes it 0.
 *
 * The other reading, `paper-averaged`, has the control that the samples share in the last line: V_x,i = Q_x,i − Q_ux,iᵀR⁻¹Q̄_u with the
 * mean Q̄_u of the Q_u,i, and z_i = √(1 − q_u,iᵀR⁻¹q_u,i/B) q_x,i, or 0.
 */
import { forwardPass, terminalWeights, type Coupling, type LossScale, type Policy } from './bellman.ts';
import { add, at, build, multiply, row, scale, solve, stackColumns, stackRows, transpose, zeros } from './matrix.ts';
import type { Matrix } from './matrix.ts';
import type { LayerStatistics } from './metric.ts';
import { controlJacobians, element, forward, lossGradients, losses, prediction, stateJacobians } from './network.ts';
import type { Batch, Network } from './network.ts';

export type PaperReading = 'paper-faithful' | 'paper-averaged';

/** What one batch's backward pass shows of one stage. */
export interface PaperStatistics {
  /** x and V_h of every sample, each with the weight 1. */
  readonly rows: LayerStatistics;
  /** Q_u,i, B × m. */
  readonly Qu: Matrix;
}

export interface PaperProblem {
  readonly network: Network;
  /** Oldest first; the step is that on the last one, the others enter the metric's averages. */
  readonly batches: readonly Batch[];
  /** h_i = 1 unless given. */
  readonly lossScale?: LossScale;
  /** R_t from its statistics in every batch so far, m_t × m_t. */
  readonly controlMetric: (t: number, statistics: readonly PaperStatistics[]) => Matrix;
  /** ℓ_u for t = 0 … T−1, each m_t × 1; 0 unless given. */
  readonly costGradients?: readonly Matrix[];
}

/** δu_t, [n_t + 1, c]. */
export function paperStep(problem: PaperProblem, coupling: Coupling, reading: PaperReading): Matrix[] {
  const { network, batches } = problem;
  const history: PaperStatistics[][] = network.map(() => []);
  let policies: Policy[] = [];
  for (const batch of batches) policies = backwardPass(problem, batch, coupling, reading, history);
  return forwardPass({ network, batch: element(batches, batches.length - 1) }, policies, coupling);
}

/** Adds the batch's statistics to the history of every stage. */
function backwardPass(
  { network, lossScale, controlMetric, costGradients }: PaperProblem,
  batch: Batch,
  coupling: Coupling,
  reading: PaperReading,
  history: readonly PaperStatistics[][],
): Policy[] {
  const B = batch.inputs.rows;
  const trajectory = forward(network, batch.inputs);
  const output = prediction(trajectory);
  const gradients = lossGradients(output, batch.objective);
  const h = terminalWeights(losses(output, batch.objective), lossScale);
  let values = Array.from(h, (weight, i) => {
    const Vx = transpose(row(gradients, i));
    return { Vx, z: scale(Vx, Math.sqrt(weight)) };
  });
  const policies: Policy[] = [];
  for (let t = network.length - 1; t >= 0; t--) {
    const stage = element(network, t);
    const { cols } = stage.weights;
    const x = element(trajectory.states, t);
    const preActivations = element(trajectory.preActivations, t);
    const fx = stateJacobians(stage, preActivations);
    const fu = controlJacobians(stage, x, preActivations);
    const m = stage.weights.data.length;
    const lu = costGradients === undefined ? zeros(m, 1) : element(costGradients, t);
    const samples = values.map(({ Vx, z }, i) => {
      const toControl = transpose(element(fu, i));
      const toState = transpose(element(fx, i));
      const ofLoss = multiply(toControl, Vx);
      return {
        Qu: add(lu, ofLoss),
        Qx: multiply(toState, Vx),
        qu: multiply(toControl, z),
        qx: multiply(toState, z),
        // The pre-activation is the bias's to change, so that this is the bias's part of Q_u without ℓ_u.
        Vh: build(1, cols, (_, j) => at(ofLoss, m - cols + j, 0)),
      };
    });
    const ones = samples.map(() => 1);
    const seen = element(history, t);
    seen.push({
      rows: { inputs: x, outputGradients: stackRows(samples.map(({ Vh }) => Vh)), terminalWeights: ones },
      Qu: stackRows(samples.map(({ Qu }) => transpose(Qu))),
    });
    const R = controlMetric(t, seen);
    const meanQu = scale(
      samples.reduce((sum, { Qu }) => add(sum, Qu), zeros(m, 1)),
      1 / B,
    );
    const gains = samples.map(({ qu, qx }) => scale(multiply(solve(R, qu), transpose(qx)), -1 / B));
    policies.unshift({ k: scale(solve(R, meanQu), -1), K: stackColumns(gains) });
    if (coupling === 'layerwise') {
      values = samples.map(({ Qx, qx }) => ({ Vx: Qx, z: qx }));
    } else {
      values = samples.map(({ Qu, Qx, qu, qx }) => {
        const taken = at(multiply(transpose(qu), solve(R, qu)), 0, 0);
        const own = taken > 1 ? 1 / taken : 1;
        const [shared, Q] = reading === 'paper-faithful' ? [own, Qu] : [1, meanQu];
        const share = reading === 'paper-faithful' ? own * taken : taken / B;
        const decrease = shared * at(multiply(transpose(qu), solve(R, Q)), 0, 0);
        return { Vx: add(Qx, scale(qx, -decrease)), z: scale(qx, Math.sqrt(Math.max(0, 1 - share))) };
      });
    }
  }
  return policies;
}
