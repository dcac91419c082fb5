/** A session in hosted mode: the service runs model, loss and optimizer; the caller sends mini-batches. */
import { elementCount } from '../../shared/shape.ts';
import { HOSTED_TENSOR } from '../../shared/hosted-tensors.ts';
import { truthKind } from '../../shared/loss.ts';
import { modelOutputs } from '../../shared/model.ts';
import {
  encode,
  readHeader,
  readValues,
  SAFETENSORS_CONTENT_TYPE,
  type NamedTensor,
  type TensorValues,
} from '../../shared/safetensors.ts';
import { stepMetricsSchema, type HostedSession, type StepMetrics } from '../../shared/session.ts';
import type { StepParts } from '../../shared/step-parts.ts';
import { ClientSession } from './session.ts';
import { complete, type RequestOptions, type StepOptions } from './transport.ts';

/** One mini-batch of B samples; row-major. */
export interface MiniBatchInput {
  /** Samples in the model's input shape, [B, …]. */
  readonly x: TensorValues;
  /** Labels counted from 0, [B], or targets [B, C], as the loss takes. */
  readonly y: ArrayLike<number>;
  /** What each sample's loss is multiplied by, [B]; left out for ones. */
  readonly sampleWeights?: TensorValues;
}

/** A tensor of the service; row-major. */
export interface DownloadedTensor {
  readonly shape: readonly number[];
  readonly values: TensorValues;
}

export interface Prediction {
  /** [B, C]. */
  readonly outputs: TensorValues;
  /** Mean loss, where the truth was given. */
  readonly loss: number | null;
}

export class HostedTrainingSession extends ClientSession<HostedSession> {
  /**
   * Trains on one mini-batch; the next one must wait for its reply. What follows an error is said at `TrainingSession.step`.
   *
   * @throws DdpnoptError, ConnectionError; RangeError if the values are no whole samples
   */
  step(batch: MiniBatchInput, options: StepOptions = {}): Promise<StepMetrics> {
    return this.takeStep(
      () => encode(this.#tensorsOf(batch, options)),
      async (answer) => stepMetricsSchema.parse(await answer.json()),
      options,
    );
  }

  /** Sends a mini-batch as part k of the next step; the parts make up one batch in the order of k. @throws as {@link step} */
  sendPart(k: number, batch: MiniBatchInput, options: StepOptions = {}): Promise<StepParts> {
    return this.putPart(k, encode(this.#tensorsOf(batch, options)), options);
  }

  /** Takes the step whose parts 0 to `parts` − 1 have been sent. @throws DdpnoptError `parts_missing`; ConnectionError */
  commit(parts: number, options: RequestOptions = {}): Promise<StepMetrics> {
    return this.commitParts(parts, async (answer) => stepMetricsSchema.parse(await answer.json()), options);
  }

  /** The metrics of a step that another client has committed. @throws DdpnoptError `step_out_of_order` as long as it has not */
  reply(options: RequestOptions = {}): Promise<StepMetrics> {
    return this.takeReply(async (answer) => stepMetricsSchema.parse(await answer.json()), options);
  }

  /** The parameters by name, `layers.<layer>.<parameter>`, as of the last step. @throws DdpnoptError, ConnectionError */
  async weights(options: RequestOptions = {}): Promise<ReadonlyMap<string, DownloadedTensor>> {
    const answer = await this.transport.request('GET', `${this.path}/weights`, options);
    return complete(async () => readTensors(new Uint8Array(await answer.arrayBuffer())).tensors);
  }

  /** What the model answers, in evaluation mode. @throws DdpnoptError, ConnectionError, RangeError as {@link step} */
  async predict(
    { x, y }: Pick<MiniBatchInput, 'x'> & Partial<Pick<MiniBatchInput, 'y'>>,
    options: RequestOptions = {},
  ): Promise<Prediction> {
    const content = encode([this.#samples(x), ...(y === undefined ? [] : [this.#truth(y)])]);
    const body = { contentType: SAFETENSORS_CONTENT_TYPE, content, isRepeatable: true };
    const answer = await this.transport.request('POST', `${this.path}/predictions`, options, body);
    return complete(async () => {
      const { tensors, metadata } = readTensors(new Uint8Array(await answer.arrayBuffer()));
      const outputs = tensors.get(HOSTED_TENSOR.outputs);
      if (outputs === undefined) throw new RangeError('it lacks the outputs');
      const { loss } = metadata;
      return { outputs: outputs.values, loss: loss === undefined ? null : Number(loss) };
    });
  }

  #tensorsOf({ x, y, sampleWeights }: MiniBatchInput, { sendAs }: StepOptions): NamedTensor[] {
    const weights: NamedTensor[] =
      sampleWeights === undefined
        ? []
        : [{ name: HOSTED_TENSOR.sampleWeights, shape: [sampleWeights.length], values: sampleWeights }];
    return [{ ...this.#samples(x), ...(sendAs === undefined ? {} : { dtype: sendAs }) }, this.#truth(y), ...weights];
  }

  #samples(x: TensorValues): NamedTensor {
    const { input } = this.session.model;
    const size = elementCount(input);
    return { name: HOSTED_TENSOR.samples, shape: [rows(HOSTED_TENSOR.samples, x, size), ...input], values: x };
  }

  #truth(y: ArrayLike<number>): NamedTensor {
    const { loss, model } = this.session;
    const values = y instanceof Float32Array || y instanceof Float64Array ? y : Float32Array.from(y);
    if (truthKind(loss) === 'labels') return { name: HOSTED_TENSOR.truth, shape: [values.length], values };
    const outputs = modelOutputs(model);
    return { name: HOSTED_TENSOR.truth, shape: [rows(HOSTED_TENSOR.truth, values, outputs), outputs], values };
  }
}

/** How many samples these values are. @throws RangeError if they do not end with a whole one */
function rows(name: string, values: TensorValues, size: number): number {
  if (values.length % size === 0) return values.length / size;
  throw new RangeError(`${name} has ${String(values.length)} values; a sample has ${String(size)}`);
}

function readTensors(body: Uint8Array): {
  readonly tensors: ReadonlyMap<string, DownloadedTensor>;
  readonly metadata: Readonly<Record<string, string>>;
} {
  const header = readHeader(body);
  const tensors = header.entries.map((entry): [string, DownloadedTensor] => [
    entry.name,
    { shape: entry.shape, values: readValues(body, header, entry) },
  ]);
  return { tensors: new Map(tensors), metadata: header.metadata };
}
