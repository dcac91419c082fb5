/** Mode `hosted`: the model is declared to the service, which trains it from the weights it has here; they come back at the end. */
import { at } from '../../../shared/at.ts';
import type { DownloadedTensor, HostedTrainingSession } from '../hosted-session.ts';
import type { InitialWeights } from '../initial-weights.ts';
import type { MetricsHistory } from '../metrics-history.ts';
import type { RequestOptions } from '../transport.ts';
import { UnsupportedLayerError, type HostedModelInput, type ReadLayer } from './read-model.ts';
import type { Tensor } from './tensorflow.ts';
import { Trainer, type Evaluation, type StepLogs, type TrainerSetting } from './trainer.ts';
import { accuracyOf, labelsOf } from './truth.ts';

/** @throws UnsupportedLayerError naming the layer that the service has no equal of */
export function declareModel(layers: readonly ReadLayer[], input: readonly number[]): HostedModelInput {
  const declared = layers.flatMap(({ layer, activation, declared: own, core, weights }) => {
    if (own !== null) return own;
    const what = `layer ${layer.name} (${layer.getClassName()})`;
    if (core.kind === 'map' && layer.weights.length > 0) {
      throw new UnsupportedLayerError(layer.name, `${what} is frozen, and the service trains all layers; train in mode "layers", or unfreeze it`); // prettier-ignore
    }
    const reason = weights.length > 0 && activation !== 'linear' ? ` with activation ${activation}` : '';
    throw new UnsupportedLayerError(layer.name, `the service has no equal of ${what}${reason}; train in mode "layers", or take another layer`); // prettier-ignore
  });
  // As many axes as there are; the service says it of others.
  return { input: [...input] as HostedModelInput['input'], layers: declared };
}

export class HostedTrainer extends Trainer {
  readonly session: HostedTrainingSession;

  constructor(setting: TrainerSetting, session: HostedTrainingSession) {
    super(setting);
    this.session = session;
  }

  get history(): MetricsHistory {
    return this.session.history;
  }

  async trainOnBatch(x: Tensor, y: Tensor, options: RequestOptions = {}): Promise<StepLogs> {
    const batch = { x: await float32(x), y: await this.#truth(y) };
    const { loss, lossAfter } = await this.session.step(batch, this.withType(options));
    return { loss, lossAfter };
  }

  async evaluate(
    x: Tensor,
    y: Tensor,
    options: RequestOptions & { readonly batchSize?: number } = {},
  ): Promise<Evaluation> {
    const { batchSize = 256, ...requests } = options;
    const size = x.shape[0];
    const features = x.size / size;
    const [samples, truth] = await Promise.all([float32(x), this.#truth(y)]);
    const width = truth.length / size;
    let loss = 0;
    let correct = 0;
    for (let begin = 0; begin < size; begin += batchSize) {
      const end = Math.min(size, begin + batchSize);
      const rows = truth.subarray(begin * width, end * width);
      const batch = { x: samples.subarray(begin * features, end * features), y: rows };
      const prediction = await this.session.predict(batch, requests);
      loss += (end - begin) * (prediction.loss ?? Number.NaN);
      if (this.setting.loss === 'softmax-cross-entropy')
        correct += (end - begin) * accuracyOf(prediction.outputs, rows);
    }
    return {
      loss: loss / size,
      ...(this.setting.loss === 'softmax-cross-entropy' ? { accuracy: correct / size } : {}),
    };
  }

  async pull(options: RequestOptions = {}): Promise<void> {
    const { tf, layers } = this.setting;
    const trained = await this.session.weights(options);
    for (const { layer, name, weights } of layers) {
      if (weights.length === 0) continue;
      tf.tidy(() => {
        const tensors = weights.map((weight) => {
          const tensor = trained.get(`layers.${name}.${weight}`);
          if (tensor === undefined) throw new RangeError(`the service has no ${weight} of layer ${name}`);
          return tf.tensor(Float32Array.from(tensor.values), [...tensor.shape]);
        });
        layer.setWeights(tensors);
      });
    }
  }

  dispose(options: RequestOptions = {}): Promise<void> {
    return this.session.delete(options);
  }

  #truth(y: Tensor): Promise<Float32Array> {
    return this.setting.loss === 'softmax-cross-entropy' ? labelsOf(y, this.setting.outputs) : float32(y);
  }
}

/** The weights of the model's layers, by the service's names. */
export async function weightsOf(layers: readonly ReadLayer[]): Promise<InitialWeights> {
  const found = layers.flatMap(({ layer, name, weights }) =>
    weights.map(async (weight, index): Promise<[string, DownloadedTensor]> => {
      const tensor = at(layer.weights, index).read();
      return [`layers.${name}.${weight}`, { shape: tensor.shape, values: await float32(tensor) }];
    }),
  );
  return new Map(await Promise.all(found));
}

async function float32(tensor: Tensor): Promise<Float32Array> {
  return Float32Array.from(await tensor.data());
}
