/**
 * One step through the service: forward and backward here, curvature and policy there, and the policy applied in a second
 * forward pass, in which each layer reacts to what the layers before it just changed.
 */
import { at } from '../../shared/at.ts';
import type { ParameterChanges, TrainingSession } from '../js/index.ts';
import type { MiniBatch } from './data.ts';
import { affine, type DenseParameters, type MultilayerPerceptron } from './multilayer-perceptron.ts';

export interface StepReport {
  /** Mean loss of the mini-batch before the step. */
  readonly lossBefore: number;
  /** Mean loss of the mini-batch after the step; the second forward pass yields it. Null without one. */
  readonly lossAfter: number | null;
  readonly bytesSent: number;
  readonly bytesReceived: number;
}

export interface StepOptions {
  /** The batch's losses under the parameters before the last step, which judge that step (Levenberg–Marquardt rule). */
  readonly previousLosses?: Float32Array;
  readonly signal?: AbortSignal;
}

/** Takes one step and changes the network's parameters. */
export async function serviceStep(
  network: MultilayerPerceptron,
  batch: MiniBatch,
  session: TrainingSession,
  { previousLosses, signal }: StepOptions = {},
): Promise<StepReport> {
  const pass = network.forward(batch);
  const gradients = network.backward(pass, batch.labels);
  const layers = network.layers.map(({ name, weight, bias }, t) => {
    const { input } = at(pass.layers, t);
    // The parameters are sent only where they decay.
    return [name, { input, outputGradient: at(gradients, t), parameters: { weight, bias } }] as const;
  });
  const reply = await session.step(
    {
      losses: pass.losses,
      ...(previousLosses === undefined ? {} : { previousLosses }),
      layers: Object.fromEntries(layers),
    },
    signal === undefined ? {} : { signal },
  );
  const { bytesSent, bytesReceived, metrics } = reply;
  const report = { lossBefore: metrics.loss, bytesSent, bytesReceived };

  if (reply.kind === 'update') {
    for (const layer of network.layers) addChange(layer, find(reply.changes, layer.name));
    return { ...report, lossAfter: null };
  }

  let input = batch.inputs; // x̂_t
  for (const [t, layer] of network.layers.entries()) {
    // s_i = ⟨∂φ_i/∂x_t, x̂_t − x_t⟩ = ⟨g_i, (x̂_t − x_t)·W⟩ with the weights the gradients were taken at.
    const predictedChange = sampleDots(
      at(gradients, t),
      affine(input, layer),
      at(pass.layers, t).preActivation,
      batch.size,
    );
    addChange(layer, find(reply.policies, layer.name).change(t === 0 ? null : predictedChange));
    input = network.activate(t, affine(input, layer));
  }
  const { losses } = network.terminalCost(input, batch.labels);
  return { ...report, lossAfter: losses.reduce((sum, loss) => sum + loss, 0) / batch.size };
}

/** Per sample ⟨gradient_i, changed_i − original_i⟩, [B]; all arguments [B, c]. */
function sampleDots(
  gradient: Float32Array,
  changed: Float32Array,
  original: Float32Array,
  batch: number,
): Float64Array {
  const columns = gradient.length / batch;
  const dots = new Float64Array(batch);
  for (const [index, value] of gradient.entries()) {
    const i = Math.floor(index / columns);
    dots[i] = (dots[i] ?? 0) + value * ((changed[index] ?? 0) - (original[index] ?? 0));
  }
  return dots;
}

function addChange(layer: DenseParameters, changes: ParameterChanges): void {
  add(layer.weight, changes.weight);
  add(layer.bias, changes.bias);
}

function add(parameter: Float32Array, change: ArrayLike<number> | undefined): void {
  if (change?.length !== parameter.length) throw new RangeError('a change of another shape than its parameter');
  for (const [index, value] of parameter.entries()) parameter[index] = value + (change[index] ?? 0);
}

function find<Item>(items: ReadonlyMap<string, Item>, layer: string): Item {
  const item = items.get(layer);
  if (item === undefined) throw new RangeError(`the reply has nothing for layer ${layer}`);
  return item;
}
