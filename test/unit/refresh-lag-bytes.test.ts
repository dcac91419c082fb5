/** The bytes that a state with a refresh under way is said to take, against the tensors that it holds; others: cost.test.ts. */
import { expect, it } from 'vitest';
import { INITIAL_STATE } from '../../gpu-worker/optimizer/state.ts';
import { settleRefreshes } from '../../gpu-worker/optimizer/step.ts';
import { tensorsIn } from '../../gpu-worker/tensor/engine.ts';
import { createReferenceEngine } from '../../gpu-worker/tensor/reference.ts';
import { optimizerStateBytes } from '../../shared/cost.ts';
import { configurationFor, stepOn } from '../conformance/drive.ts';
import { randomProblem } from '../oracle/network.ts';

it.each([0, 1])('of a Kronecker metric with refreshLag %i, at most', (refreshLag) => {
  const options = { widths: [4, 3, 2], activation: 'tanh', loss: 'mse', batchSize: 3, seed: 1 } as const;
  const { network, batch } = randomProblem(options);
  const metric = { kind: 'kronecker', refreshEvery: 2, refreshLag } as const;
  const configuration = configurationFor(network, { metric, coupling: 'value', learningRate: { kind: 'constant' } });
  const engine = createReferenceEngine();
  let state = INITIAL_STATE;
  let most = 0;
  for (let step = 0; step < 5; step++) {
    ({ state } = stepOn(engine, configuration, state, network, batch));
    for (const each of [state, settleRefreshes(engine, configuration.optimizer, state)]) {
      const tensors = [...tensorsIn(each, engine.isTensor)];
      most = Math.max(most, tensors.reduce((sum, tensor) => sum + 4 * engine.read(tensor).length, 0)); // prettier-ignore
    }
  }
  expect(most).toBe((refreshLag > 0 ? 12 : 8) * (5 ** 2 + 3 ** 2 + 4 ** 2 + 2 ** 2));
  expect(optimizerStateBytes(configuration)).toBe(most);
});
