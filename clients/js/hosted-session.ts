/** A session in hosted mode: the service runs model, loss and optimizer; the caller sends mini-batches. */
import { dataSetSchema, type DataSet } from '../../shared/data-set.ts';
import { LIMITS } from '../../shared/limits.ts';
import { runListSchema, runSchema, type Run, type RunOrderInput } from '../../shared/run.ts';
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
import { DdpnoptError, RunError } from './errors.ts';
import { follow } from './events.ts';
import { ClientSession } from './session.ts';
import { type Answer, complete, type RequestOptions, type StepOptions } from './transport.ts';

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

export interface UploadOptions extends StepOptions {
  /** Samples of a chunk; as many as make about 16 MB unless given. */
  readonly chunkSamples?: number;
  /** Number of the first chunk: where more samples are added, how many chunks there are. */
  readonly firstChunk?: number;
  /** Called after every chunk: so many samples of so many are there. */
  readonly onProgress?: (progress: { readonly samples: number; readonly of: number }) => void;
}

export interface RunProgress {
  /** Of the last step. */
  readonly metrics: StepMetrics;
  /** Steps of the run that are taken, and that there are. */
  readonly step: number;
  readonly steps: number;
}

export interface RunOptions extends RequestOptions {
  /** Called after every step. */
  readonly onProgress?: (progress: RunProgress) => void;
}

/** Bytes of a chunk: small enough to be sent again, large enough to be few. */
const CHUNK_BYTES = 16_000_000;

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

  /**
   * Sends the data set that {@link run} draws from, in chunks; more of it may be sent later, and while a run goes on. What is there
   * already, chunk by chunk, is not sent again: after a failure call it with the same samples and options.
   *
   * @throws DdpnoptError `chunk_conflict` if another data set is there, `data_too_large`; ConnectionError; RangeError if the values are no
   *   whole samples
   */
  async uploadData(samples: MiniBatchInput, options: UploadOptions = {}): Promise<DataSet> {
    const { chunkSamples = this.#chunkSamples(samples.x.length), firstChunk = 0, onProgress } = options;
    if (!Number.isInteger(chunkSamples) || chunkSamples < 1) {
      throw new RangeError(`chunkSamples is ${String(chunkSamples)}; a whole number from 1 was expected`);
    }
    let data = await this.data(options);
    const total = rows(HOSTED_TENSOR.samples, samples.x, this.#sampleSize);
    for (let begin = 0; begin < total; begin += chunkSamples) {
      const k = firstChunk + begin / chunkSamples;
      const end = Math.min(total, begin + chunkSamples);
      const content = encode(this.#tensorsOf(this.#slice(samples, begin, end, total), options));
      const present = data.chunks.find(({ chunk }) => chunk === k)?.digest;
      if (present === undefined || present !== (await digestOf(content))) {
        const body = { contentType: SAFETENSORS_CONTENT_TYPE, content };
        data = await readData(await this.transport.request('PUT', `${this.path}/data/${String(k)}`, options, body));
      }
      onProgress?.({ samples: end, of: total });
    }
    return data;
  }

  /** The data set as the service has it. @throws DdpnoptError, ConnectionError */
  async data(options: RequestOptions = {}): Promise<DataSet> {
    return readData(await this.transport.request('GET', `${this.path}/data`, options));
  }

  /** Deletes the data set; what was trained on it stays. @throws DdpnoptError `run_in_progress`; ConnectionError */
  async deleteData(options: RequestOptions = {}): Promise<void> {
    await this.transport.request('DELETE', `${this.path}/data`, options);
  }

  /**
   * Has the service take `steps` steps of `batch` samples on the data set, and waits for the last one. A connection that breaks is taken up
   * again; the run does not depend on it.
   *
   * @returns the run, finished, or cancelled by somebody else
   * @throws RunError if a step could not be taken; the signal's reason, after the run was cancelled: the steps that it has taken count;
   *   DdpnoptError, ConnectionError: the run may go on, `runs` says
   */
  run(order: RunOrderInput, options: RunOptions = {}): Promise<Run> {
    const { signal, onProgress } = options;
    return this.takeSteps(async (n, { taken, ended }) => {
      const body = { contentType: 'application/json', content: JSON.stringify(order) };
      const path = `${this.path}/runs/${String(n)}`;
      try {
        let run = await readRun(await this.transport.request('PUT', path, options, body));
        const end = n + run.steps;
        for await (const event of follow(this.transport, path, { after: n - 1, ...options })) {
          if (event.event === 'run') run = event.data;
          else if (event.event === 'step') {
            taken(event.data);
            onProgress?.({ metrics: event.data, step: event.data.step + 1 - n, steps: end - n });
          }
        }
        ended(run.nextStep);
        if (run.state === 'failed') throw new RunError(run);
        return run;
      } catch (error) {
        if (signal?.aborted === true) ended((await this.#cancelIfBegun(n))?.nextStep ?? n);
        throw error;
      }
    });
  }

  /**
   * Ends a run after the step that is being computed. A run that has ended stays as it is.
   *
   * @param n number of its first step
   * @throws DdpnoptError `run_not_found`; ConnectionError
   */
  async cancelRun(n: number, options: RequestOptions = {}): Promise<Run> {
    return readRun(await this.transport.request('DELETE', `${this.path}/runs/${String(n)}`, options));
  }

  async #cancelIfBegun(n: number): Promise<Run | null> {
    try {
      return await this.cancelRun(n);
    } catch (error) {
      if (error instanceof DdpnoptError && error.code === 'run_not_found') return null;
      throw error;
    }
  }

  /** The last runs of the session, in their order. @throws DdpnoptError, ConnectionError */
  async runs(options: RequestOptions = {}): Promise<readonly Run[]> {
    const answer = await this.transport.request('GET', `${this.path}/runs`, options);
    return complete(async () => runListSchema.parse(await answer.json()).runs);
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
    return {
      name: HOSTED_TENSOR.samples,
      shape: [rows(HOSTED_TENSOR.samples, x, this.#sampleSize), ...input],
      values: x,
    };
  }

  get #sampleSize(): number {
    return elementCount(this.session.model.input);
  }

  /** So many that a chunk is about {@link CHUNK_BYTES} in float32, and that there are not too many chunks. */
  #chunkSamples(values: number): number {
    const byBytes = Math.floor(CHUNK_BYTES / (4 * this.#sampleSize));
    return Math.max(1, byBytes, Math.ceil(values / this.#sampleSize / LIMITS.dataChunks));
  }

  /** Samples `begin` to `end` − 1 of so many. */
  #slice({ x, y, sampleWeights }: MiniBatchInput, begin: number, end: number, total: number): MiniBatchInput {
    const size = this.#sampleSize;
    const truths = Array.from(y);
    const perSample = truths.length / total;
    return {
      x: x.slice(begin * size, end * size),
      y: truths.slice(begin * perSample, end * perSample),
      ...(sampleWeights === undefined ? {} : { sampleWeights: sampleWeights.slice(begin, end) }),
    };
  }

  #truth(y: ArrayLike<number>): NamedTensor {
    const { loss, model } = this.session;
    const values = y instanceof Float32Array || y instanceof Float64Array ? y : Float32Array.from(y);
    if (truthKind(loss) === 'labels') return { name: HOSTED_TENSOR.truth, shape: [values.length], values };
    const outputs = modelOutputs(model);
    return { name: HOSTED_TENSOR.truth, shape: [rows(HOSTED_TENSOR.truth, values, outputs), outputs], values };
  }
}

function readData(answer: Answer): Promise<DataSet> {
  return complete(async () => dataSetSchema.parse(await answer.json()));
}

function readRun(answer: Answer): Promise<Run> {
  return complete(async () => runSchema.parse(await answer.json()));
}

/** SHA-256 in hexadecimal; null where the platform has none, as a page that did not come by TLS. */
async function digestOf(content: Uint8Array<ArrayBuffer>): Promise<string | null> {
  const { subtle } = crypto as { readonly subtle?: typeof crypto.subtle };
  if (subtle === undefined) return null;
  const digest = new Uint8Array(await subtle.digest('SHA-256', content));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, '0')).join('');
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
