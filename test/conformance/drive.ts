/** Drives the product's step with what the oracle's network computes, as a client would. */
import { LayerPolicy, type PolicyCoefficients } from '../../clients/js/index.ts';
import type { CoefficientSolver } from '../../gpu-worker/optimizer/ddp/coefficients.ts';
import { fixedChange, metricWeighted } from '../../gpu-worker/optimizer/ddp/policy.ts';
import { parameterChanges } from '../../gpu-worker/optimizer/layers/layer.ts';
import type { OptimizerState } from '../../gpu-worker/optimizer/state.ts';
import { ddpStep, type StepConfiguration, type StepResult } from '../../gpu-worker/optimizer/step.ts';
import type { Engine, Tensor } from '../../gpu-worker/tensor/engine.ts';
import type { TensorValues } from '../../shared/safetensors.ts';
import { layersDefinitionSchema, replyForm, type LayersDefinitionInput } from '../../shared/layers-definition.ts';
import { linearise } from '../oracle/bellman.ts';
import {
  add,
  at,
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
import {
  backpropagate,
  backpropagateFrom,
  forward,
  hessianRoots,
  losses,
  prediction,
  type Batch,
  type Network,
  type Trajectory,
} from '../oracle/network.ts';
import { sentColumns, type TerminalCurvature } from '../../shared/optimizer.ts';

/** What product and oracle may differ by, relative to the largest element. */
export const TOLERANCE = { float64: 1e-10, float32: 1e-4 } as const;

export type OptimizerInput = NonNullable<LayersDefinitionInput['optimizer']>;

/** The configuration of a step for the oracle's network: all layers dense with bias, named after their position. */
export function configurationFor(
  network: Network,
  optimizer: OptimizerInput,
  reply: 'auto' | 'update' | 'policy' = 'auto',
): StepConfiguration {
  const definition = layersDefinitionSchema.parse({
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

/**
 * One step on what the client's forward and backward pass yield for this batch.
 *
 * @param columns S_i, n_T × r, the terminal curvature's columns of every sample; unless given, the first r columns of a root of
 *   the loss's Hessian
 * @param previousLosses φ_i under the parameters before the last step
 */
export function stepOn(
  engine: Engine,
  configuration: StepConfiguration,
  state: OptimizerState,
  network: Network,
  batch: Batch,
  columns?: readonly Matrix[],
  previousLosses: Float64Array | null = null,
): StepResult {
  const trajectory = forward(network, batch.inputs);
  const { inputs, outputGradients } = backpropagate(network, trajectory, batch.objective);
  const output = prediction(trajectory);
  const phi = losses(output, batch.objective);
  const rows = columnGradients(network, trajectory, batch, configuration.optimizer.terminalCurvature, columns);
  const upload = ({ data, rows, cols }: Matrix) => engine.tensor(data, [rows, cols]);
  return engine.scope(() =>
    ddpStep(engine, configuration, state, {
      losses: engine.tensor(phi, [phi.length]),
      previousLosses: previousLosses === null ? null : engine.tensor(previousLosses, [previousLosses.length]),
      layers: inputs.map((input, t) => ({
        input: upload(input),
        lossGradient: upload(outputGradients[t]!),
        columnGradient: rows === null ? null : upload(rows[t]!),
        parameters: parametersOf(engine, network[t]!.weights),
      })),
    }),
  );
}

/** Weight and bias of a layer from the oracle's matrix, whose last row is the bias. */
export function parametersOf(engine: Engine, { rows, cols, data }: Matrix): { weight: Tensor; bias: Tensor } {
  return {
    weight: engine.tensor(data.slice(0, (rows - 1) * cols), [rows - 1, cols]),
    bias: engine.tensor(data.slice((rows - 1) * cols), [cols]),
  };
}

/**
 * Per layer the gradients of the terminal curvature's columns in the pre-activations, [B·r, c], one backward pass a column; null
 * where the client sends none.
 */
export function columnGradients(
  network: Network,
  trajectory: Trajectory,
  { objective }: Batch,
  curvature: TerminalCurvature,
  columns?: readonly Matrix[],
): Matrix[] | null {
  if (curvature.kind === 'gradient') return null;
  if (curvature.kind === 'sampled-fisher' && columns === undefined) throw new Error('this driver draws no labels');
  const output = prediction(trajectory);
  const roots = columns ?? hessianRoots(output, objective);
  const passes = Array.from({ length: sentColumns(curvature) }, (_, column) => {
    const gradient = build(output.rows, output.cols, (i, j) => at(roots[i]!, j, column));
    return backpropagateFrom(network, trajectory, gradient).outputGradients;
  });
  const r = passes.length;
  return network.map((_, t) => {
    const c = passes[0]![t]!.cols;
    return build(output.rows * r, c, (index, j) => passes[index % r]![t]!.data[Math.floor(index / r) * c + j]!);
  });
}

/** A matrix with the oracle's bias row from a layer's changes. */
export function asMatrix(weight: TensorValues, bias: TensorValues | undefined, columns: number): Matrix {
  const block = (values: TensorValues): Matrix =>
    build(values.length / columns, columns, (i, j) => values[i * columns + j]!);
  return bias === undefined ? block(weight) : stackRows([block(weight), block(bias)]);
}

/** The policies of a reply, as the client library holds them. */
export function policiesOf(engine: Engine, configuration: StepConfiguration, { reply }: StepResult): LayerPolicy[] {
  if (reply.kind !== 'policy') throw new Error('the reply carries no policy');
  return reply.policies.map((policy, t) => {
    const layer = configuration.layers[t]!;
    if (layer.kind !== 'dense') throw new Error('no policy for this layer');
    const { input, output } = metricWeighted(engine, policy);
    const fixed = fixedChange(engine, policy);
    const { weight, bias } = fixed === null ? {} : parameterChanges(engine, layer, fixed);
    const tensors = {
      kind: 'sample-factors',
      input: engine.read(input),
      outputGradient: engine.read(output),
      coefficients: coefficientsOf(engine, policy.solver),
      fixedChange: {
        ...(weight === undefined ? {} : { weight: engine.read(weight) }),
        ...(bias === undefined ? {} : { bias: engine.read(bias) }),
      },
    } as const;
    return new LayerPolicy(layer, tensors, null);
  });
}

function coefficientsOf(engine: Engine, solver: CoefficientSolver): PolicyCoefficients {
  switch (solver.kind) {
    case 'cholesky':
      return { kind: 'cholesky', factor: engine.read(solver.factor), target: engine.read(solver.target) };
    case 'diagonal':
      return { kind: 'diagonal', gain: engine.read(solver.gain), offset: engine.read(solver.offset) };
    case 'conjugate-gradient':
      throw new Error('a policy carries its Cholesky factor');
  }
}

/** The changes of an `update` reply, as matrices. */
export function changesOf(engine: Engine, { reply }: StepResult, network: Network): Matrix[] {
  if (reply.kind !== 'update') throw new Error('the reply carries no update');
  return reply.changes.map(({ weight, bias }, t) =>
    asMatrix(engine.read(weight!), bias === undefined ? undefined : engine.read(bias), network[t]!.weights.cols),
  );
}

/** How the second forward pass moves: through the network itself, or through its linearisation. */
export type Rollout = 'network' | 'linearised';

/**
 * The client's second forward pass: every layer's policy is applied when the pass reaches it, with
 * s = ⟨∂φ/∂x, x̂ − x⟩ at its input.
 */
export function applyPolicies(
  policies: readonly Pick<LayerPolicy, 'change'>[],
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
    const { weight, bias } = policy.change(t === 0 ? null : s);
    const change = asMatrix(weight!, bias, network[t]!.weights.cols);
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

/** The tensors of a value, written out exactly. */
export function snapshot(engine: Engine, value: unknown): string {
  return JSON.stringify(value, (_, part: unknown) => {
    if (typeof part !== 'object' || part === null || !engine.isTensor(part)) return part;
    return { shape: part.shape, values: [...engine.read(part)] };
  });
}

/** What {@link snapshot} wrote out. */
export function restored(engine: Engine, text: string): OptimizerState {
  return JSON.parse(text, (_, part: { shape?: number[]; values?: number[] } | null): Tensor | typeof part => {
    if (part?.shape === undefined || part.values === undefined) return part;
    return engine.tensor(part.values, part.shape);
  }) as OptimizerState;
}
