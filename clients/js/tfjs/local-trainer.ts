/** What the modes share in which TensorFlow.js runs the passes here. */
import { derivedSeed } from '../../../shared/random.ts';
import type { RequestOptions } from '../transport.ts';
import type { LocalModel, PassedBatch } from './local-model.ts';
import type { Tensor } from './tensorflow.ts';
import { Trainer, type Evaluation, type StepLogs, type TrainerSetting } from './trainer.ts';
import { truthOf } from './truth.ts';

export abstract class LocalTrainer extends Trainer {
  protected readonly model: LocalModel;

  constructor(setting: TrainerSetting, model: LocalModel) {
    super(setting);
    this.model = model;
  }

  async trainOnBatch(x: Tensor, y: Tensor, options: RequestOptions = {}): Promise<StepLogs> {
    const { tf, loss, outputs } = this.setting;
    const truth = await truthOf(tf, loss, y, outputs);
    try {
      const seed = derivedSeed(this.setting.seed, this.nextStep);
      const pass = await this.model.pass(x, truth, seed);
      try {
        const logs = await this.step({ x, truth, pass, seed }, options);
        this.model.averageStatistics(pass);
        return logs;
      } finally {
        pass.dispose();
      }
    } finally {
      tf.dispose(truth);
    }
  }

  evaluate(x: Tensor, y: Tensor, { batchSize = 256 }: { readonly batchSize?: number } = {}): Promise<Evaluation> {
    return this.model.evaluate(x, y, batchSize);
  }

  /** The model is trained here, and has its weights already. */
  pull(): Promise<void> {
    return Promise.resolve();
  }

  protected abstract get nextStep(): number;

  /** Takes the step, and changes the model. */
  protected abstract step(batch: PassedBatch, options: RequestOptions): Promise<StepLogs>;
}

/** @throws RangeError for a layer that the reply has nothing for */
export function find<Item>(items: ReadonlyMap<string, Item>, layer: string): Item {
  const item = items.get(layer);
  if (item === undefined) throw new RangeError(`the reply has nothing for layer ${layer}`);
  return item;
}
