/** What every mode of training a TensorFlow.js model offers: steps, and a loop over epochs like `model.fit`. */
import { permutation, seededRandom } from '../../../shared/random.ts';
import type { MetricsHistory } from '../metrics-history.ts';
import type { NarrowDtype } from '../../../shared/safetensors.ts';
import type { RequestOptions, StepOptions } from '../transport.ts';
import type { ReadLayer, TfjsLoss } from './read-model.ts';
import type { Tensor, TensorFlow } from './tensorflow.ts';

export interface StepLogs {
  /** Mean loss of the batch before the step. */
  readonly loss: number;
  /** And after it; null where no second forward pass was taken. */
  readonly lossAfter: number | null;
}

export interface EpochLogs {
  /** Mean over the epoch's samples of the losses before each step. */
  readonly loss: number;
  readonly val_loss?: number;
  /** Share of samples whose largest output is the label's; with softmax-cross-entropy. */
  readonly val_acc?: number;
}

export interface FitOptions {
  /** Samples a step; 64 unless given. The last step of an epoch may have fewer. */
  readonly batchSize?: number;
  /** 1 unless given. */
  readonly epochs?: number;
  /** Whether every epoch takes the samples in a new order; so unless told otherwise. */
  readonly shuffle?: boolean;
  /** Of the order; 0 unless given. */
  readonly seed?: number;
  readonly validationData?: readonly [x: Tensor, y: Tensor];
  /** As those of `model.fit`. */
  readonly callbacks?: {
    readonly onEpochBegin?: (epoch: number) => void | Promise<void>;
    readonly onEpochEnd?: (epoch: number, logs: EpochLogs) => void | Promise<void>;
    readonly onBatchEnd?: (batch: number, logs: StepLogs) => void | Promise<void>;
  };
  /** Stops, also while a request waits. The model then has what the steps so far have made of it, after an error once you call `pull`. */
  readonly signal?: AbortSignal;
}

export interface FitHistory {
  /** From 0. */
  readonly epoch: readonly number[];
  readonly history: {
    readonly loss: readonly number[];
    readonly val_loss?: readonly number[];
    readonly val_acc?: readonly number[];
  };
}

export interface Evaluation {
  readonly loss: number;
  /** With softmax-cross-entropy. */
  readonly accuracy?: number;
}

/** What a trainer works with. */
export interface TrainerSetting {
  readonly tf: TensorFlow;
  readonly loss: TfjsLoss;
  readonly layers: readonly ReadLayer[];
  /** C. */
  readonly outputs: number;
  readonly seed: number;
  readonly sendAs: NarrowDtype | undefined;
}

/** Trains a TensorFlow.js model through the service, in one of the modes. */
export abstract class Trainer {
  protected readonly setting: TrainerSetting;

  constructor(setting: TrainerSetting) {
    this.setting = setting;
  }

  /** Options of a step's request. */
  protected withType(options: RequestOptions): StepOptions {
    const { sendAs } = this.setting;
    return sendAs === undefined ? options : { ...options, sendAs };
  }

  /** What the session's steps reported, ready to plot. */
  abstract get history(): MetricsHistory;

  /**
   * One optimizer step on one batch. What follows an error is said at `TrainingSession.step`.
   *
   * @param x samples, [B, …]
   * @param y labels [B] or [B, 1], classes one-hot [B, C], or targets [B, C]
   * @throws DdpnoptError, ConnectionError, ReplayError, RangeError
   */
  abstract trainOnBatch(x: Tensor, y: Tensor, options?: RequestOptions): Promise<StepLogs>;

  /** Loss and accuracy in evaluation mode, with the weights as they are in training. @throws as {@link trainOnBatch} */
  abstract evaluate(
    x: Tensor,
    y: Tensor,
    options?: RequestOptions & { readonly batchSize?: number },
  ): Promise<Evaluation>;

  /** Brings the trained weights into the model. Where the client trains the model itself they are there. */
  abstract pull(options?: RequestOptions): Promise<void>;

  /** Deletes the session at the service. The model stays. */
  abstract dispose(options?: RequestOptions): Promise<void>;

  /** Trains for some epochs, then pulls the weights. @throws as {@link trainOnBatch}; the signal's reason */
  async fit(x: Tensor, y: Tensor, options: FitOptions = {}): Promise<FitHistory> {
    const { batchSize = 64, epochs = 1, shuffle = true, seed = 0, validationData, callbacks = {}, signal } = options;
    if (!Number.isInteger(batchSize) || batchSize < 1) throw new RangeError(`batchSize is ${String(batchSize)}; a whole number from 1 was expected`); // prettier-ignore
    const size = x.shape[0];
    if (size === 0 || y.shape[0] !== size) throw new RangeError(`x has ${String(size)} samples, y ${String(y.shape[0])}; as many were expected, at least one`); // prettier-ignore
    const random = seededRandom(seed);
    const requests = signal === undefined ? {} : { signal };
    const logs: EpochLogs[] = [];
    try {
      for (let epoch = 0; epoch < epochs; epoch++) {
        await callbacks.onEpochBegin?.(epoch);
        const order = shuffle ? permutation(size, random) : Uint32Array.from({ length: size }, (_, index) => index);
        let sum = 0;
        for (let begin = 0; begin < size; begin += batchSize) {
          signal?.throwIfAborted();
          const indices = Array.from(order.subarray(begin, begin + batchSize));
          const step = await this.#onRows(x, y, indices, (batchX, batchY) =>
            this.trainOnBatch(batchX, batchY, requests),
          );
          sum += step.loss * indices.length;
          await callbacks.onBatchEnd?.(begin / batchSize, step);
        }
        const validation = validationData === undefined ? null : await this.evaluate(...validationData, requests);
        const epochLogs: EpochLogs = {
          loss: sum / size,
          ...(validation === null ? {} : { val_loss: validation.loss }),
          ...(validation?.accuracy === undefined ? {} : { val_acc: validation.accuracy }),
        };
        logs.push(epochLogs);
        await callbacks.onEpochEnd?.(epoch, epochLogs);
      }
    } catch (error) {
      if (signal?.aborted === true) await this.pull();
      throw error;
    }
    await this.pull();
    const column = (name: keyof EpochLogs): number[] => logs.flatMap((each) => each[name] ?? []);
    return {
      epoch: logs.map((_, epoch) => epoch),
      history: {
        loss: column('loss'),
        ...(validationData === undefined ? {} : { val_loss: column('val_loss'), val_acc: column('val_acc') }),
      },
    };
  }

  async #onRows<Result>(
    x: Tensor,
    y: Tensor,
    indices: number[],
    use: (x: Tensor, y: Tensor) => Promise<Result>,
  ): Promise<Result> {
    const { tf } = this.setting;
    const [batchX, batchY] = tf.tidy(() => {
      const rows = tf.tensor(indices, [indices.length], 'int32');
      return [tf.gather(x, rows), tf.gather(y, rows)] as [Tensor, Tensor];
    });
    try {
      return await use(batchX, batchY);
    } finally {
      tf.dispose([batchX, batchY]);
    }
  }
}
