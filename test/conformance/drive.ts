/** Drives the product's step with what the oracle's network computes, as a client would. */
import { LayerPolicy, type ParameterChange } from '../../clients/js/index.ts';
import type { OptimizerState } from '../../gpu-worker/optimizer/state.ts';
import { ddpStep, type StepConfiguration, type StepResult } from '../../gpu-worker/optimizer/step.ts';
import type { Engine } from '../../gpu-worker/tensor/engine.ts';
import type { TensorValues } from '../../shared/safetensors.ts';
import { sessionDefinitionSchema, replyForm, type SessionDefinitionInput } from '../../shared/session.ts';
import { linearise } from '../oracle/bellman.ts';
import {
  add,
  build,
  hadamard,
  multiply,
  reshape,
  row,
  stackRows,
  subtract,
  vec,
  type Matrix,
} from '../oracle/matrix.ts';
import { backpropagate, forward, losses, prediction, type Batch, type Network } from '../oracle/network.ts';

export type OptimizerInput = NonNullable<SessionDefinitionInput['optimizer']>;

/** The configuration of a step for the oracle's network: all layers dense with bias, named after their position. */
export function configurationFor(
  network: Network,
  optimizer: OptimizerInput,
  reply: 'auto' | 'update' | 'policy' = 'auto',
): StepConfiguration {
  const definition = sessionDefinitionSchema.parse({
    layers: network.map(({ weights }, t) => ({
      name: `layer${String(t)}`,
      kind: 'dense',
      inputs: weights.rows - 1,
      outputs: weights.cols,
    })),
    optimizer,
    reply,
  });
  return { layers: definition.layers, optimizer: definition.optimizer, reply: replyForm(definition) };
}

/** One step on what the client's forward and backward pass yield for this batch. */
export function stepOn(
  engine: Engine,
  configuration: StepConfiguration,
  state: OptimizerState,
  network: Network,
  batch: Batch,
): StepResult {
  const trajectory = forward(network, batch.inputs);
  const { inputs, outputGradients } = backpropagate(network, trajectory, batch.objective);
  const phi = losses(prediction(trajectory), batch.objective);
  return engine.scope(() =>
    ddpStep(engine, configuration, state, {
      losses: engine.tensor(phi, [phi.length]),
      layers: inputs.map((input, t) => ({
        input: engine.tensor(input.data, [input.rows, input.cols]),
        outputGradient: engine.tensor(outputGradients[t]!.data, [outputGradients[t]!.rows, outputGradients[t]!.cols]),
      })),
    }),
  );
}

/** A change as the oracle writes it: [n + 1, c], the bias as the last row. */
function asMatrix({ weight, bias }: ParameterChange, columns: number): Matrix {
  const rows = weight.length / columns;
  const block = (values: TensorValues, count: number): Matrix =>
    build(count, columns, (i, j) => values[i * columns + j]!);
  return bias === null ? block(weight, rows) : stackRows([block(weight, rows), block(bias, 1)]);
}

/** The policies of a reply, as the client library holds them. */
export function policiesOf(engine: Engine, configuration: StepConfiguration, { reply }: StepResult): LayerPolicy[] {
  if (reply.kind !== 'policy') throw new Error('the reply carries no policy');
  return reply.policies.map(
    ({ preconditioned, choleskyFactor }, t) =>
      new LayerPolicy(configuration.layers[t]!, {
        input: engine.read(preconditioned.input),
        outputGradient: engine.read(preconditioned.outputGradient),
        cholesky: engine.read(choleskyFactor),
        target: engine.read(reply.target),
      }),
  );
}

/** The changes of an `update` reply, as matrices. */
export function changesOf(engine: Engine, { reply }: StepResult, network: Network): Matrix[] {
  if (reply.kind !== 'update') throw new Error('the reply carries no update');
  return reply.changes.map(({ weight, bias }, t) =>
    asMatrix({ weight: engine.read(weight), bias: bias === null ? null : engine.read(bias) }, network[t]!.weights.cols),
  );
}

/** How the second forward pass moves: through the network itself, or through its linearisation. */
export type Rollout = 'network' | 'linearised';

/**
 * The client's second forward pass: every layer's policy is applied when the pass reaches it, with
 * s = ⟨∂φ/∂x, x̂ − x⟩ at its input.
 */
export function applyPolicies(
  policies: readonly LayerPolicy[],
  network: Network,
  batch: Batch,
  rollout: Rollout,
): Matrix[] {
  const trajectory = forward(network, batch.inputs);
  const { stateGradients } = backpropagate(network, trajectory, batch.objective);
  const dynamics = linearise(network, trajectory);
  const changes: Matrix[] = [];
  let changed = network;
  let deltaX = subtract(trajectory.states[0]!, trajectory.states[0]!);
  for (const [t, policy] of policies.entries()) {
    const sampleDots = hadamard(stateGradients[t]!, deltaX);
    const s = Float64Array.from({ length: deltaX.rows }, (_, i) =>
      row(sampleDots, i).data.reduce((sum, x) => sum + x, 0),
    );
    const change = asMatrix(policy.change(t === 0 ? null : s), network[t]!.weights.cols);
    changes.push(change);
    changed = changed.map((stage, index) => (index === t ? { ...stage, weights: add(stage.weights, change) } : stage));
    const { Fx, Fu } = dynamics[t]!;
    deltaX =
      rollout === 'network'
        ? subtract(forward(changed, batch.inputs).states[t + 1]!, trajectory.states[t + 1]!)
        : reshape(add(multiply(Fx, vec(deltaX)), multiply(Fu, vec(change))), deltaX.rows, change.cols);
  }
  return changes;
}

/** max |actual − expected| / max |expected|. */
export function relativeError(actual: Matrix, expected: Matrix): number {
  let difference = 0;
  let size = 0;
  for (const [index, value] of expected.data.entries()) {
    difference = Math.max(difference, Math.abs((actual.data[index] ?? Number.NaN) - value));
    size = Math.max(size, Math.abs(value));
  }
  return Number.isNaN(difference) || actual.data.length !== expected.data.length
    ? Number.POSITIVE_INFINITY
    : difference / Math.max(size, 1e-300);
}
