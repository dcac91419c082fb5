/**
 * EKFAC: the eigenbases U_A, U_Γ of the Kronecker factors, refreshed now and then, with the gradient's second moments s in that
 * basis re-estimated at every step: P = (U_A ⊗ U_Γ) diag(s + γ) (U_A ⊗ U_Γ)ᵀ.
 *
 * George, Laurent, Bouthillier, Ballas & Vincent, "Fast Approximate Natural Gradient Descent in a Kronecker-factored
 * Eigenbasis", 2018. A new basis starts from the second moments that the factors themselves imply, the products of their
 * eigenvalues.
 */
import type { EkfacMetric } from '../../../shared/optimizer.ts';
import type { Engine, Tensor } from '../../tensor/engine.ts';
import { secondMoment, transformGradients } from '../layers/per-sample-gradients.ts';
import type { EkfacState } from '../state.ts';
import { averageFactors, type Factors, type FactoredGradients } from './kronecker.ts';
import { movingAverage } from './moving-average.ts';

type Basis = Pick<EkfacState, 'inputBasis' | 'outputBasis' | 'secondMoment'>;

function eigenbasis(engine: Engine, { inputFactor, outputFactor }: Factors): Basis {
  const { eigenSymmetric, matMul, maximum, reshape } = engine;
  const input = eigenSymmetric(inputFactor);
  const output = eigenSymmetric(outputFactor);
  // Rounding can leave a zero eigenvalue slightly negative.
  const column = maximum(reshape(input.values, [input.values.shape[0] ?? 0, 1]), 0);
  const row = maximum(reshape(output.values, [1, output.values.shape[0] ?? 0]), 0);
  return { inputBasis: input.vectors, outputBasis: output.vectors, secondMoment: matMul(column, row) };
}

/** The metric's state after one more batch; the bases are made anew if `refresh`. */
export function updateEkfac(
  engine: Engine,
  metric: EkfacMetric,
  state: EkfacState | null,
  columns: FactoredGradients,
  rowWeights: Tensor,
  batch: number,
  step: number,
  refresh: boolean,
): EkfacState {
  const factors = averageFactors(engine, metric, state, columns, rowWeights, step);
  const basis: Basis = state !== null && !refresh ? state : eigenbasis(engine, factors);
  const { inputBasis, outputBasis } = basis;
  const rotated = transformGradients(
    engine,
    columns,
    { matrix: inputBasis, isUpperTriangular: false },
    { matrix: outputBasis, isUpperTriangular: false },
  );
  const observed = secondMoment(engine, rotated, rowWeights, batch);
  const average = movingAverage(engine, basis.secondMoment, observed, metric.decay);
  const weights = engine.divide(1, engine.add(average, metric.damping));
  const inverse = { input: inputBasis, output: outputBasis, weights };
  return { kind: 'ekfac', ...factors, inputBasis, outputBasis, secondMoment: average, inverse };
}
