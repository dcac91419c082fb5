/** Mode `layers`: TensorFlow.js runs the passes here, the service has curvature and optimizer. */
import { derivedSeed } from '../../../shared/random.ts';
import type { LayerInput, StepInput, TrainingSession } from '../layers-session.ts';
import type { MetricsHistory } from '../metrics-history.ts';
import type { ParameterChanges } from '../parameter-changes.ts';
import type { LayerPolicy } from '../policy.ts';
import type { RequestOptions } from '../transport.ts';
import { addChanges, LocalModel, parametersOf, type Pass } from './local-model.ts';
import type { Tensor } from './tensorflow.ts';
import { Trainer, type Evaluation, type StepLogs, type TrainerSetting } from './trainer.ts';
import { truthOf } from './truth.ts';

export class LayersTrainer extends Trainer {
  readonly session: TrainingSession;
  readonly #model: LocalModel;

  constructor(setting: TrainerSetting, session: TrainingSession, model: LocalModel) {
    super(setting);
    this.session = session;
    this.#model = model;
  }

  get history(): MetricsHistory {
    return this.session.history;
  }

  async trainOnBatch(x: Tensor, y: Tensor, options: RequestOptions = {}): Promise<StepLogs> {
    const { tf, loss: kind, outputs } = this.setting;
    const truth = await truthOf(tf, kind, y, outputs);
    const seed = derivedSeed(this.setting.seed, this.session.nextStep);
    const pass = await this.#model.pass(x, truth, seed);
    try {
      const reply = await this.session.step(await this.#stepInput(pass), this.withType(options));
      const { loss } = reply.metrics;
      if (reply.kind === 'update') {
        for (const stage of this.#model.stages) addChanges(tf, stage, find(reply.changes, stage.name));
        return { loss, lossAfter: null };
      }
      const { policies } = reply;
      const lossAfter = await this.#model.changeInTurn(x, truth, pass, seed, (stage, trace, predicted) => {
        const policy = find(policies, stage.name);
        if (policy.tensors.kind === 'sample-factors') return Promise.resolve(policy.change(predicted));
        return this.#model
          .weightedGradient(stage, trace, policy.coefficients(predicted))
          .then((gradient) => policy.changeFrom(gradient));
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

  async #stepInput({ losses, traces }: Pass): Promise<StepInput> {
    const { optimizer } = this.session.session;
    const layers = this.#model.stages.map(async (stage, t): Promise<[string, LayerInput]> => {
      const trace = traces[t];
      if (trace === undefined) throw new RangeError(`the pass lacks layer ${stage.name}`);
      const [input, outputGradient] = await Promise.all([trace.input.data(), trace.gradient.data()]);
      const parameters =
        optimizer.weightDecay === null ? {} : { parameters: await parameterValues(stage.weights, parametersOf(stage)) };
      return [
        stage.name,
        { input: Float32Array.from(input), outputGradient: Float32Array.from(outputGradient), ...parameters },
      ];
    });
    return { losses, layers: Object.fromEntries(await Promise.all(layers)) };
  }
}

async function parameterValues(names: readonly string[], tensors: readonly Tensor[]): Promise<ParameterChanges> {
  const values = await Promise.all(tensors.map((tensor) => tensor.data()));
  return Object.fromEntries(names.map((name, index) => [name, Float32Array.from(values[index] ?? [])]));
}

function find<Item extends LayerPolicy | ParameterChanges>(items: ReadonlyMap<string, Item>, layer: string): Item {
  const item = items.get(layer);
  if (item === undefined) throw new RangeError(`the reply has nothing for layer ${layer}`);
  return item;
}
