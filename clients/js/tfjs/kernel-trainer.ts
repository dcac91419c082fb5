/** Mode `kernel`: samples and parameters stay here; the service is sent each layer's tangent kernel, and factor statistics now and then. */
import { at } from '../../../shared/at.ts';
import { layerSchema, type Layer } from '../../../shared/layer.ts';
import { terminalWeights } from '../../../shared/terminal-weights.ts';
import type { KernelInput, KernelTrainingSession, LayerInverses } from '../kernel-session.ts';
import { precondition, type LayerMetric } from '../layer-metric.ts';
import type { MetricsHistory } from '../metrics-history.ts';
import type { ParameterChanges } from '../parameter-changes.ts';
import type { RequestOptions } from '../transport.ts';
import type { Stage } from './forward.ts';
import { addChanges, type LocalModel, type PassedBatch, type StageTrace } from './local-model.ts';
import { find, LocalTrainer } from './local-trainer.ts';
import { UnsupportedLayerError } from './read-model.ts';
import type { Tensor, TensorFlow } from './tensorflow.ts';
import type { StepLogs, TrainerSetting } from './trainer.ts';

/** A stage as kernel mode takes it. @throws UnsupportedLayerError for one that is not dense */
export function denseLayer({ layer, definition }: Stage): Extract<Layer, { kind: 'dense' }> {
  const parsed = layerSchema.parse(definition);
  if (parsed.kind === 'dense' && !parsed.sequence) return parsed;
  throw new UnsupportedLayerError(layer.name, `layer ${layer.name} (${layer.getClassName()}) is not dense over [features], and mode "kernel" takes no other here; train in mode "layers"`); // prettier-ignore
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
      return scaled(precondition(denseLayer(stage), metricOf(held.get(stage.name)), gradient), -learningRate);
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

  /** N = (a A⁻¹ aᵀ) ∘ (g Γ⁻¹ gᵀ), [B, B], for the inputs a with a constant 1 for the bias; and the statistics, if it is their turn. */
  async #kernelInput(
    stage: Stage,
    { input, gradient }: StageTrace,
    inverses: LayerInverses | undefined,
    losses: Float32Array,
  ): Promise<KernelInput> {
    const { tf } = this.setting;
    const { metric, terminalCurvature, batchCoupling } = this.session.session.optimizer;
    const isTheirTurn = metric.kind === 'kronecker' && this.session.nextStep % this.#statisticsEvery === 0;
    const batch = losses.length;
    const { bias } = denseLayer(stage);
    const tensors = tf.tidy(() => {
      const a = bias ? tf.concat([input, tf.ones([batch, 1])], 1) : input;
      const products = tf.mul(gramOf(tf, a, inverses?.input), gramOf(tf, gradient, inverses?.outputGradient));
      if (!isTheirTurn) return [products];
      const weights = tf.tensor(Float32Array.from(terminalWeights(losses, terminalCurvature)), [batch, 1]);
      const factors = [tf.matMul(a, a, true), tf.matMul(gradient, tf.mul(gradient, weights), true)];
      return [products, ...factors.map((factor) => tf.mul(factor, 1 / batch))];
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

/** rows · inverse · rowsᵀ. */
function gramOf(tf: TensorFlow, rows: Tensor, inverse: LayerInverses['input'] | undefined): Tensor {
  if (inverse === undefined) return tf.matMul(rows, rows, false, true);
  const n = Math.sqrt(inverse.length);
  return tf.matMul(tf.matMul(rows, tf.tensor(Float32Array.from(inverse), [n, n])), rows, false, true);
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
