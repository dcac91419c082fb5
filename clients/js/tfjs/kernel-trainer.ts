/** Mode `kernel`: samples and parameters stay here; the service is sent each layer's tangent kernel, and factor statistics now and then. */
import { at } from '../../../shared/at.ts';
import { layerSchema, type Layer } from '../../../shared/layer.ts';
import { terminalWeights } from '../../../shared/terminal-weights.ts';
import type { KernelInput, KernelTrainingSession, LayerInverses } from '../kernel-session.ts';
import { precondition, type LayerMetric } from '../layer-metric.ts';
import type { MetricsHistory } from '../metrics-history.ts';
import type { ParameterChanges } from '../parameter-changes.ts';
import type { RequestOptions } from '../transport.ts';
import { preActivation, type Stage } from './forward.ts';
import { addChanges, parametersOf, type LocalModel, type PassedBatch, type StageTrace } from './local-model.ts';
import { find, LocalTrainer } from './local-trainer.ts';
import { UnsupportedLayerError } from './read-model.ts';
import type { Tensor, TensorFlow } from './tensorflow.ts';
import type { StepLogs, TrainerSetting } from './trainer.ts';

type FactoredLayer = Extract<Layer, { kind: 'dense' | 'conv2d' }>;

/** A stage as kernel mode takes it. @throws UnsupportedLayerError for one that has no factors */
function factoredLayer({ layer, definition }: Stage): FactoredLayer {
  const parsed = layerSchema.parse(definition);
  if (parsed.kind === 'dense' || parsed.kind === 'conv2d') return parsed;
  throw new UnsupportedLayerError(layer.name, `layer ${layer.name} (${layer.getClassName()}) is neither dense nor a convolution, and mode "kernel" takes no other here; set its trainable to false to keep it as it is, or train in mode "layers"`); // prettier-ignore
}

/** Sizes of a stage's Kronecker factors: rows of its weight matrix, a constant 1 for the bias among them, and columns. */
export function factorSizes(stage: Stage): { readonly inputs: number; readonly outputs: number } {
  const layer = factoredLayer(stage);
  const rows = layer.kind === 'conv2d' ? layer.kernel[0] * layer.kernel[1] * layer.inputs : layer.inputs;
  return { inputs: layer.bias ? rows + 1 : rows, outputs: layer.outputs };
}

export class KernelTrainer extends LocalTrainer {
  readonly session: KernelTrainingSession;
  readonly #statisticsEvery: number;

  /** @param statisticsEvery steps from one with factor statistics to the next */
  constructor(setting: TrainerSetting, session: KernelTrainingSession, model: LocalModel, statisticsEvery: number) {
    super(setting, model);
    this.session = session;
    this.#statisticsEvery = statisticsEvery;
  }

  get history(): MetricsHistory {
    return this.session.history;
  }

  protected get nextStep(): number {
    return this.session.nextStep;
  }

  protected async step(batch: PassedBatch, options: RequestOptions): Promise<StepLogs> {
    const { model } = this;
    const { losses, traces } = batch.pass;
    // The kernels are made with these, and so must the changes be; the reply may bring others.
    const held = new Map(this.session.inverses);
    const layers = await Promise.all(
      model.stages.map(async (stage, t): Promise<[string, KernelInput]> => [
        stage.name,
        await this.#kernelInput(stage, at(traces, t), held.get(stage.name), losses),
      ]),
    );
    const reply = await this.session.step({ losses, layers: Object.fromEntries(layers) }, this.withType(options));
    const { loss } = reply.metrics;
    /** −η P⁻¹ Jᵀκ. */
    const change = async (stage: Stage, trace: StageTrace, kappa: Float64Array, learningRate: number) => {
      const gradient = await model.weightedGradient(stage, trace, kappa);
      return scaled(precondition(factoredLayer(stage), metricOf(held.get(stage.name)), gradient), -learningRate);
    };
    if (reply.kind === 'coefficients') {
      for (const [t, stage] of model.stages.entries()) {
        const { coefficients, learningRate } = find(reply.changes, stage.name);
        const changes = await change(stage, at(traces, t), Float64Array.from(coefficients), learningRate);
        addChanges(this.setting.tf, stage, changes);
      }
      return { loss, lossAfter: null };
    }
    const { policies } = reply;
    const lossAfter = await model.changeInTurn(batch, (stage, trace, predicted) => {
      const policy = find(policies, stage.name);
      return change(stage, trace, policy.coefficients(predicted), policy.learningRate);
    });
    return { loss, lossAfter };
  }

  dispose(options: RequestOptions = {}): Promise<void> {
    return this.session.delete(options);
  }

  /** N = J A⁻¹⊗Γ⁻¹ Jᵀ, [B, B]; and the statistics, if it is their turn. */
  async #kernelInput(
    stage: Stage,
    trace: StageTrace,
    inverses: LayerInverses | undefined,
    losses: Float32Array,
  ): Promise<KernelInput> {
    const { tf } = this.setting;
    const { metric, terminalCurvature, batchCoupling } = this.session.session.optimizer;
    const isTheirTurn = metric.kind === 'kronecker' && this.session.nextStep % this.#statisticsEvery === 0;
    const batch = losses.length;
    const tensors = tf.tidy(() => {
      const samples = samplesOf(tf, stage, trace);
      const gram = tangentKernel(tf, samples, inverses);
      if (!isTheirTurn) return [gram];
      const weights = tf.tensor(Float32Array.from(terminalWeights(losses, terminalCurvature)), [batch, 1, 1]);
      return [gram, ...statisticsOf(tf, samples, weights)];
    });
    const [gram = new Float32Array(), inputFactor, outputGradient] = await Promise.all(
      tensors.map(async (tensor) => Float32Array.from(await tensor.data())),
    );
    tf.dispose(tensors);
    return {
      ...(batchCoupling === 'diagonal'
        ? { gramDiagonal: gram.filter((_, index) => index % (batch + 1) === 0) }
        : { gram }),
      ...(inputFactor === undefined || outputGradient === undefined
        ? {}
        : { factors: { input: inputFactor, outputGradient } }),
    };
  }
}

/** What a stage's gradients are made of: J_i = Σ_p a_ip g_ipᵀ over the positions p, one for a dense layer over [features]. */
interface Samples {
  /** Inputs, or of a convolution patches, with a constant 1 for the bias, [B, P, n]. */
  readonly a: Tensor;
  /** [B, P, c]. */
  readonly g: Tensor;
}

function samplesOf(tf: TensorFlow, stage: Stage, { input, gradient }: StageTrace): Samples {
  const layer = factoredLayer(stage);
  const batch = input.shape[0];
  const rows = layer.kind === 'conv2d' ? patches(tf, stage, input) : input;
  const g = tf.reshape(gradient, [batch, -1, layer.outputs]);
  const positions = g.shape[1] ?? 1;
  const flat = tf.reshape(rows, [batch, positions, rows.shape.at(-1) ?? 1]);
  return { a: layer.bias ? tf.concat([flat, tf.ones([batch, positions, 1])], 2) : flat, g };
}

/** [B, rows, columns, kernel rows · kernel columns · C], by a convolution with the identity; as the rows of a weight matrix stand. */
function patches(tf: TensorFlow, stage: Stage, input: Tensor): Tensor {
  const [rows = 1, columns = 1, channels = 1] = at(parametersOf(stage), 0).shape;
  const size = rows * columns * channels;
  return preActivation(tf, stage, input, [tf.reshape(tf.eye(size), [rows, columns, channels, size])]);
}

/** N_ij = ⟨J_i, A⁻¹ J_j Γ⁻¹⟩; the identity in place of inverses that are not there yet. */
function tangentKernel(tf: TensorFlow, { a, g }: Samples, inverses: LayerInverses | undefined): Tensor {
  const [batch = 0, positions = 1, n = 1] = a.shape;
  const [A, Gamma] = [matrixOf(tf, inverses?.input), matrixOf(tf, inverses?.outputGradient)];
  const through = (rows: Tensor, inverse: Tensor | null): Tensor =>
    inverse === null ? rows : tf.matMul(rows, inverse);
  if (positions === 1) {
    const gramOf = (rows: Tensor, inverse: Tensor | null): Tensor => {
      const matrix = tf.reshape(rows, [batch, -1]);
      return tf.matMul(through(matrix, inverse), matrix, false, true);
    };
    return tf.mul(gramOf(a, A), gramOf(g, Gamma));
  }
  const flat = (rows: Tensor): Tensor => tf.reshape(rows, [batch * positions, -1]);
  const gradients = (inputs: Tensor, outputs: Tensor): Tensor =>
    tf.reshape(
      tf.matMul(tf.reshape(inputs, [batch, positions, n]), tf.reshape(outputs, [batch, positions, -1]), true),
      [batch, -1],
    );
  // Σ_p (A⁻¹ a)(Γ⁻¹ g)ᵀ: inverses are symmetric.
  return tf.matMul(gradients(through(flat(a), A), through(flat(g), Gamma)), gradients(a, g), false, true);
}

function matrixOf(tf: TensorFlow, values: LayerInverses['input'] | undefined): Tensor | null {
  if (values === undefined) return null;
  const n = Math.sqrt(values.length);
  return tf.tensor(Float32Array.from(values), [n, n]);
}

/** A = E[Σ_p a aᵀ] and Γ = E[(1/P) Σ_p h g gᵀ] of a batch, for terminal weights h [B, 1, 1] (Grosse & Martens, 2016). */
function statisticsOf(tf: TensorFlow, { a, g }: Samples, weights: Tensor): [Tensor, Tensor] {
  const [batch = 1, positions = 1] = a.shape;
  const flat = (rows: Tensor): Tensor => tf.reshape(rows, [batch * positions, -1]);
  const rows = flat(a);
  return [
    tf.mul(tf.matMul(rows, rows, true), 1 / batch),
    tf.mul(tf.matMul(flat(g), flat(tf.mul(g, weights)), true), 1 / (batch * positions)),
  ];
}

function metricOf(inverses: LayerInverses | undefined): LayerMetric {
  if (inverses === undefined) return { kind: 'identity' };
  const { version, input, outputGradient } = inverses;
  return { kind: 'kronecker', version, blocks: [{ input, outputGradient }] };
}

function scaled({ weight, bias }: ParameterChanges, factor: number): ParameterChanges {
  return {
    ...(weight === undefined ? {} : { weight: weight.map((value) => value * factor) }),
    ...(bias === undefined ? {} : { bias: bias.map((value) => value * factor) }),
  };
}
