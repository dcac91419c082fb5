/** Mode `kernel`: samples and parameters stay here; the service is sent each layer's tangent kernel, and factor statistics now and then. */
import { derivedSeed } from '../../../shared/random.ts';
import { layerSchema, type Layer } from '../../../shared/layer.ts';
import { terminalWeights } from '../../../shared/terminal-weights.ts';
import type { KernelInput, KernelTrainingSession, LayerInverses } from '../kernel-session.ts';
import { precondition, type LayerMetric } from '../layer-metric.ts';
import type { MetricsHistory } from '../metrics-history.ts';
import type { ParameterChanges } from '../parameter-changes.ts';
import type { RequestOptions } from '../transport.ts';
import type { Stage } from './forward.ts';
import { addChanges, type LocalModel, type StageTrace } from './local-model.ts';
import { UnsupportedLayerError } from './read-model.ts';
import type { Tensor, TensorFlow } from './tensorflow.ts';
import { Trainer, type Evaluation, type StepLogs, type TrainerSetting } from './trainer.ts';
import { truthOf } from './truth.ts';

/** A stage as kernel mode takes it. @throws UnsupportedLayerError for one that is not dense */
export function denseLayer({ layer, definition }: Stage): Extract<Layer, { kind: 'dense' }> {
  const parsed = layerSchema.parse(definition);
  if (parsed.kind === 'dense' && !parsed.sequence) return parsed;
  throw new UnsupportedLayerError(layer.name, `layer ${layer.name} (${layer.getClassName()}) is not dense over [features], and mode "kernel" takes no other here; train in mode "layers"`); // prettier-ignore
}

export class KernelTrainer extends Trainer {
  readonly session: KernelTrainingSession;
  readonly #model: LocalModel;
  readonly #statisticsEvery: number;

  /** @param statisticsEvery steps from one with factor statistics to the next */
  constructor(setting: TrainerSetting, session: KernelTrainingSession, model: LocalModel, statisticsEvery: number) {
    super(setting);
    this.session = session;
    this.#model = model;
    this.#statisticsEvery = statisticsEvery;
  }

  get history(): MetricsHistory {
    return this.session.history;
  }

  async trainOnBatch(x: Tensor, y: Tensor, options: RequestOptions = {}): Promise<StepLogs> {
    const { tf, loss: kind, outputs } = this.setting;
    const { stages } = this.#model;
    const truth = await truthOf(tf, kind, y, outputs);
    const seed = derivedSeed(this.setting.seed, this.session.nextStep);
    const pass = await this.#model.pass(x, truth, seed);
    try {
      // The kernels are made with these, and so must the changes be; the reply may bring others.
      const held = new Map(this.session.inverses);
      const layers = await Promise.all(
        stages.map(async (stage, t): Promise<[string, KernelInput]> => {
          const trace = pass.traces[t];
          if (trace === undefined) throw new RangeError(`the pass lacks layer ${stage.name}`);
          return [stage.name, await this.#kernelInput(stage, trace, held.get(stage.name), pass.losses)];
        }),
      );
      const input = { losses: pass.losses, layers: Object.fromEntries(layers) };
      const reply = await this.session.step(input, this.withType(options));
      const { loss } = reply.metrics;
      const change = async (stage: Stage, trace: StageTrace, kappa: Float64Array, learningRate: number) =>
        scaled(
          precondition(
            denseLayer(stage),
            metricOf(held.get(stage.name)),
            await this.#model.weightedGradient(stage, trace, kappa),
          ),
          -learningRate,
        );
      if (reply.kind === 'coefficients') {
        for (const [t, stage] of stages.entries()) {
          const { coefficients, learningRate } = find(reply.changes, stage.name);
          const trace = pass.traces[t];
          if (trace === undefined) throw new RangeError(`the pass lacks layer ${stage.name}`);
          addChanges(tf, stage, await change(stage, trace, Float64Array.from(coefficients), learningRate));
        }
        return { loss, lossAfter: null };
      }
      const { policies } = reply;
      const lossAfter = await this.#model.changeInTurn(x, truth, pass, seed, (stage, trace, predicted) => {
        const policy = find(policies, stage.name);
        return change(stage, trace, policy.coefficients(predicted), policy.learningRate);
      });
      return { loss, lossAfter };
    } finally {
      pass.dispose();
      tf.dispose(truth);
    }
  }

  evaluate(x: Tensor, y: Tensor, { batchSize = 256 }: { readonly batchSize?: number } = {}): Promise<Evaluation> {
    return this.#model.evaluate(x, y, batchSize);
  }

  /** The model is trained here, and has its weights already. */
  pull(): Promise<void> {
    return Promise.resolve();
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

function find<Item>(items: ReadonlyMap<string, Item>, layer: string): Item {
  const item = items.get(layer);
  if (item === undefined) throw new RangeError(`the reply has nothing for layer ${layer}`);
  return item;
}
