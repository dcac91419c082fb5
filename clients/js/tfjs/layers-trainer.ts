/** Mode `layers`: TensorFlow.js runs the passes here, the service has curvature and optimizer. */
import { at } from '../../../shared/at.ts';
import type { LayerInput, StepInput, TrainingSession } from '../layers-session.ts';
import type { MetricsHistory } from '../metrics-history.ts';
import type { ParameterChanges } from '../parameter-changes.ts';
import type { RequestOptions } from '../transport.ts';
import { addChanges, parametersOf, type LocalModel, type Pass, type PassedBatch } from './local-model.ts';
import { find, LocalTrainer } from './local-trainer.ts';
import type { Tensor } from './tensorflow.ts';
import type { StepLogs, TrainerSetting } from './trainer.ts';

export class LayersTrainer extends LocalTrainer {
  readonly session: TrainingSession;

  constructor(setting: TrainerSetting, session: TrainingSession, model: LocalModel) {
    super(setting, model);
    this.session = session;
  }

  get history(): MetricsHistory {
    return this.session.history;
  }

  protected get nextStep(): number {
    return this.session.nextStep;
  }

  protected async step(batch: PassedBatch, options: RequestOptions): Promise<StepLogs> {
    const { model } = this;
    const reply = await this.session.step(await this.#stepInput(batch.pass), this.withType(options));
    const { loss } = reply.metrics;
    if (reply.kind === 'update') {
      for (const stage of model.stages) addChanges(this.setting.tf, stage, find(reply.changes, stage.name));
      return { loss, lossAfter: null };
    }
    const { policies } = reply;
    const lossAfter = await model.changeInTurn(batch, async (stage, trace, predicted) => {
      const policy = find(policies, stage.name);
      if (policy.tensors.kind === 'sample-factors') return policy.change(predicted);
      return policy.changeFrom(await model.weightedGradient(stage, trace, policy.coefficients(predicted)));
    });
    return { loss, lossAfter };
  }

  dispose(options: RequestOptions = {}): Promise<void> {
    return this.session.delete(options);
  }

  async #stepInput({ losses, traces }: Pass): Promise<StepInput> {
    const { optimizer } = this.session.session;
    const layers = this.model.stages.map(async (stage, t): Promise<[string, LayerInput]> => {
      const trace = at(traces, t);
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
  return Object.fromEntries(names.map((name, index) => [name, Float32Array.from(at(values, index))]));
}
