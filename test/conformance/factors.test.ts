/** When the Kronecker factors are averaged, inverted and frozen: updates against explicit P⁻¹ built from the oracle's factors. */
import { describe, expect, it } from 'vitest';
import { INITIAL_STATE } from '../../gpu-worker/optimizer/state.ts';
import { settleRefreshes } from '../../gpu-worker/optimizer/step.ts';
import { presentEngines } from '../../gpu-worker/tensor/index.ts';
import { oracleJudgedEngine } from './engines.ts';
import type { SessionDefinitionInput } from '../../shared/session.ts';
import { sampleGradients } from '../oracle/bellman.ts';
import {
  add,
  columnVector,
  identity,
  inverse,
  kron,
  multiply,
  reshape,
  scale,
  solve,
  transpose,
  type Matrix,
} from '../oracle/matrix.ts';
import { averagedFactors, dampedFactors, truncatedInverse, type LayerStatistics } from '../oracle/metric.ts';
import { backpropagate, forward, mulberry32, randomBatch, randomProblem, type Batch } from '../oracle/network.ts';
import { changesOf, configurationFor, relativeError, stepOn, TOLERANCE } from './drive.ts';

const WIDTHS = [4, 5, 3];
const BATCH = 6;
const ETA = 2;
const DAMPING = 0.03;
const DECAY = 0.8;

type Metric = Partial<
  Extract<NonNullable<NonNullable<SessionDefinitionInput['optimizer']>['metric']>, { kind: 'kronecker' }>
>;

const { network, batch: first } = randomProblem({
  widths: WIDTHS,
  activation: 'tanh',
  loss: 'softmax-cross-entropy',
  batchSize: BATCH,
  seed: 21,
});
const random = mulberry32(22);
const batches: Batch[] = [
  first,
  ...Array.from({ length: 5 }, () => randomBatch(random, WIDTHS, 'softmax-cross-entropy', BATCH)),
];

function statistics(batch: Batch, t: number): LayerStatistics {
  const { inputs, outputGradients } = backpropagate(network, forward(network, batch.inputs), batch.objective);
  return { inputs: inputs[t]!, outputGradients: outputGradients[t]!, terminalWeights: new Float64Array(BATCH).fill(1) };
}

/** The layerwise step with h = 1 for an explicit P⁻¹: −ηP⁻¹Jᵀ (B·I + ηJP⁻¹Jᵀ)⁻¹ 1. */
function expectedChange(batch: Batch, t: number, inputInverse: Matrix, outputInverse: Matrix): Matrix {
  const { inputs, outputGradients } = statistics(batch, t);
  const J = sampleGradients(inputs, outputGradients);
  const preconditioned = scale(multiply(kron(inputInverse, outputInverse), transpose(J)), ETA);
  const S = add(scale(identity(BATCH), BATCH), multiply(J, preconditioned));
  const kappa = solve(S, columnVector(new Float64Array(BATCH).fill(1)));
  return reshape(scale(multiply(preconditioned, kappa), -1), network[t]!.weights.rows, network[t]!.weights.cols);
}

function factors(t: number, indices: readonly number[]) {
  return averagedFactors(indices.map((index) => statistics(batches[index]!, t)), DECAY); // prettier-ignore
}

describe.each(presentEngines())('engine %s', async (name) => {
  const engine = await oracleJudgedEngine(name);
  const tolerance = TOLERANCE[engine.precision];

  /** The changes of the last of so many steps. @param settles whether refreshes are computed between two steps */
  function run(metric: Metric, steps: number, settles = false): Matrix[] {
    const configuration = configurationFor(network, {
      learningRate: { kind: 'constant', value: ETA },
      metric: { kind: 'kronecker', damping: DAMPING, decay: DECAY, refreshEvery: 1, ...metric },
      terminalCurvature: { kind: 'gradient', lossScale: null },
      coupling: 'layerwise',
    });
    let state = INITIAL_STATE;
    let changes: Matrix[] = [];
    for (const batch of batches.slice(0, steps)) {
      const result = stepOn(engine, configuration, state, network, batch);
      state = settles ? settleRefreshes(engine, configuration.optimizer, result.state) : result.state;
      changes = changesOf(engine, result, network);
    }
    return changes;
  }

  it.each([
    { steps: 1, averaged: [0] },
    { steps: 3, averaged: [0] },
    { steps: 4, averaged: [0, 3] },
    { steps: 6, averaged: [0, 3] },
  ])('statisticsEvery 3: after $steps steps the batches $averaged are in the average', ({ steps, averaged }) => {
    for (const [t, change] of run({ statisticsEvery: 3 }, steps).entries()) {
      const { A, Gamma } = dampedFactors(factors(t, averaged), DAMPING);
      const expected = expectedChange(batches[steps - 1]!, t, inverse(A), inverse(Gamma));
      expect(relativeError(change, expected)).toBeLessThan(tolerance);
    }
  });

  it.each([
    { refreshEvery: 2, refreshLag: 1, steps: 3, from: 0 },
    { refreshEvery: 2, refreshLag: 1, steps: 4, from: 2 },
    { refreshEvery: 2, refreshLag: 2, steps: 4, from: 0 },
    { refreshEvery: 2, refreshLag: 2, steps: 5, from: 2 },
    { refreshEvery: 3, refreshLag: 2, steps: 6, from: 3 },
  ])(
    'refreshEvery $refreshEvery, refreshLag $refreshLag: step $steps uses the factors as step $from (from 0) left them',
    ({ refreshEvery, refreshLag, steps, from }) => {
      const averaged = Array.from({ length: from + 1 }, (_, index) => index);
      for (const settles of [false, true]) {
        for (const [t, change] of run({ refreshEvery, refreshLag }, steps, settles).entries()) {
          const { A, Gamma } = dampedFactors(factors(t, averaged), DAMPING);
          const expected = expectedChange(batches[steps - 1]!, t, inverse(A), inverse(Gamma));
          expect(relativeError(change, expected)).toBeLessThan(tolerance);
        }
      }
    },
  );

  it('a step is the same to the last bit whether its refresh was computed before, in the state or in a copy of it', () => {
    const metric: Metric = {
      refreshEvery: 2,
      refreshLag: 2,
      firstInputFactor: { kind: 'frozen', batches: 2, rank: 3 },
    };
    const values = (settles: boolean): number[][] => run(metric, 6, settles).map(({ data }) => [...data]);
    expect(values(true)).toEqual(values(false));
  });

  it('with a refreshLag, what freezes the input factor is not given up for the next refresh', () => {
    const frozen: Metric = { firstInputFactor: { kind: 'frozen', batches: 2, rank: 3, damping: 0.5 } };
    // It begins with step 1; refreshes that are due with steps 2 and 3 must not take its place.
    const [change] = run({ ...frozen, refreshEvery: 3, refreshLag: 3 }, 5);
    const { A, Gamma } = factors(0, [0, 1]);
    const outputInverse = inverse(dampedFactors({ A, Gamma }, DAMPING).Gamma);
    const expected = expectedChange(batches[4]!, 0, truncatedInverse(A, 3, 0.5), outputInverse);
    expect(relativeError(change!, expected)).toBeLessThan(tolerance);
  });

  describe.each([{ rank: null }, { rank: 3 }])('a frozen first input factor of rank $rank', ({ rank }) => {
    const frozen: Metric = { firstInputFactor: { kind: 'frozen', batches: 3, rank, damping: 0.5 } };

    it.each([
      { steps: 2, frozenFrom: null },
      { steps: 3, frozenFrom: [0, 1, 2] },
      { steps: 5, frozenFrom: [0, 1, 2] },
      { steps: 6, frozenFrom: [0, 1, 2] },
    ])('after $steps steps comes from the batches $frozenFrom', ({ steps, frozenFrom }) => {
      const all = Array.from({ length: steps }, (_, index) => index);
      const [change, second] = run(frozen, steps);
      const A = factors(0, frozenFrom ?? all).A;
      const damped = dampedFactors({ A, Gamma: factors(0, all).Gamma }, DAMPING);
      const inputInverse = frozenFrom === null ? inverse(damped.A) : truncatedInverse(A, rank ?? A.rows, 0.5);
      const expected = expectedChange(batches[steps - 1]!, 0, inputInverse, inverse(damped.Gamma));
      expect(relativeError(change!, expected)).toBeLessThan(tolerance);

      const other = dampedFactors(factors(1, all), DAMPING);
      const expectedSecond = expectedChange(batches[steps - 1]!, 1, inverse(other.A), inverse(other.Gamma));
      expect(relativeError(second!, expectedSecond)).toBeLessThan(tolerance);
    });
  });
});
