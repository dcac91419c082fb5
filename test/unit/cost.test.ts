/** The bytes that a session's state is said to take, against the tensors that it holds after some steps. */
import { expect, it } from 'vitest';
import { INITIAL_STATE } from '../../gpu-worker/optimizer/state.ts';
import { tensorsIn } from '../../gpu-worker/tensor/engine.ts';
import { createReferenceEngine } from '../../gpu-worker/tensor/reference.ts';
import { optimizerStateBytes } from '../../shared/cost.ts';
import { configurationFor, stepOn, type OptimizerInput } from '../conformance/drive.ts';
import { randomProblem } from '../oracle/network.ts';

it.each<{ title: string; optimizer: OptimizerInput; perParameter: number }>([
  { title: 'nothing', optimizer: {}, perParameter: 0 },
  { title: 'momentum', optimizer: { momentum: 0.5 }, perParameter: 1 },
  { title: 'lookahead', optimizer: { lookahead: {} }, perParameter: 1 },
  { title: 'both', optimizer: { momentum: 0.5, lookahead: {} }, perParameter: 2 },
])('of $title', ({ optimizer, perParameter }) => {
  const options = { widths: [4, 3, 2], activation: 'tanh', loss: 'mse', batchSize: 3, seed: 1 } as const;
  const { network, batch } = randomProblem(options);
  const configuration = configurationFor(network, { metric: { kind: 'identity' }, coupling: 'value', ...optimizer });
  const engine = createReferenceEngine();
  let state = INITIAL_STATE;
  for (let step = 0; step < 3; step++) ({ state } = stepOn(engine, configuration, state, network, batch));
  const held = [...tensorsIn(state, engine.isTensor)].reduce((sum, tensor) => sum + 4 * engine.read(tensor).length, 0);
  expect(held).toBe(4 * perParameter * (5 * 3 + 4 * 2));
  expect(optimizerStateBytes(configuration)).toBe(held);
});
