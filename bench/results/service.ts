/** Trials of the service: a worker and an edge of their own, and hosted sessions over HTTP with the JavaScript client. */
import type { LabelledData } from '../../clients/datasets/digits/digits.ts';
import { DdpnoptClient, type HostedTrainingSession, type RunProgress } from '../../clients/js/index.ts';
import { startStack, type LocalStack } from '../../deploy/local/stack.ts';
import { countRight } from '../accuracy.ts';
import { select, type Parts } from '../parts.ts';
import { evaluatedPart, runTrial, sampleOrder, trainingPart, type Training } from './run.ts';
import type { Network, Outcome, Score, ServiceOptimizer, Trial } from './trial.ts';

const LOSS = { kind: 'softmax-cross-entropy' } as const;
/** Samples of one prediction: as many as a convolutional net's activations leave room for. */
const EVALUATION_BATCH = 1000;
/** Of a training part that is sent once, for runs. A net on a larger one takes so long for a step that sending the batch adds little. */
const RUN_DATA_BYTES = 64_000_000;
/** Of one run: as many as the service keeps the metrics of, for who loses the connection meanwhile. */
const RUN_STEPS = 1000;

export class ServiceTrials {
  readonly #stack: LocalStack;
  readonly #client: DdpnoptClient;
  readonly #initial = new Map<string, Promise<Float32Array[]>>();

  private constructor(stack: LocalStack) {
    this.#stack = stack;
    this.#client = new DdpnoptClient({ url: stack.url });
  }

  /** @param engine of the worker; unless given, the fastest one that is there */
  static async start(engine?: string): Promise<ServiceTrials> {
    // Under Node the edge is there at once; a trial does not measure it.
    return new ServiceTrials(await startStack({ engine, edge: 'node' }));
  }

  get engine(): string {
    return this.#stack.engine;
  }

  run(trial: Trial, optimizer: ServiceOptimizer, parts: Parts): Promise<Outcome> {
    return runTrial(trial, parts, async () => {
      const session = await this.#createSession(trial.network, trial.seed, optimizer);
      const train = trainingPart(parts, trial);
      return {
        train: takesRuns(trial, train) ? byRuns(session, train, trial) : stepByStep(session, train, trial),
        evaluate: (part) => scoreOf(session, evaluatedPart(parts, part, trial)),
        stop: () => session.delete(),
      };
    });
  }

  /** Weight and bias of every layer as a session with that seed begins: everybody else begins with them too. */
  initialParameters(network: Network, seed: number): Promise<Float32Array[]> {
    const key = JSON.stringify([network, seed]);
    let parameters = this.#initial.get(key);
    if (parameters === undefined) {
      parameters = this.#fetchInitialParameters(network, seed);
      this.#initial.set(key, parameters);
    }
    return parameters;
  }

  stop(): Promise<void> {
    return this.#stack.stop();
  }

  async #fetchInitialParameters(network: Network, seed: number): Promise<Float32Array[]> {
    const session = await this.#createSession(network, seed, {});
    try {
      const weights = await session.weights();
      return parameterNames(network).map((name) => {
        const tensor = weights.get(name);
        if (tensor === undefined) throw new Error(`the session has no ${name}`);
        return Float32Array.from(tensor.values);
      });
    } finally {
      await session.delete();
    }
  }

  #createSession(model: Network, seed: number, optimizer: ServiceOptimizer): Promise<HostedTrainingSession> {
    return this.#client.createHostedSession({ model, loss: LOSS, optimizer, seed });
  }
}

/** Weight and bias of every layer, in the order of the forward pass. */
function parameterNames({ layers }: Network): string[] {
  return layers.flatMap((layer) =>
    layer.kind === 'dense' || layer.kind === 'conv2d'
      ? [`layers.${layer.name}.weight`, `layers.${layer.name}.bias`]
      : [],
  );
}

/** Unless the trial says so, the seconds that count are those of a client that sends every batch; nothing else of an outcome depends on it. */
function takesRuns({ alone, inRuns }: Trial, { size, features }: LabelledData): boolean {
  return inRuns ?? (!alone && size * features * Float32Array.BYTES_PER_ELEMENT <= RUN_DATA_BYTES);
}

function stepByStep(session: HostedTrainingSession, train: LabelledData, { batch }: Trial): Training['train'] {
  return async (samples) => {
    const losses: number[] = [];
    let milliseconds = 0;
    for (let begin = 0; begin < samples.length; begin += batch) {
      const { inputs: x, labels: y } = select(train, samples.subarray(begin, begin + batch));
      const began = performance.now();
      const { loss } = await session.step({ x, y });
      milliseconds += performance.now() - began;
      losses.push(loss);
    }
    return { losses, seconds: milliseconds / 1000 };
  };
}

/** The same steps in calls of many: the service draws the samples in the order in which the trial gives them. */
function byRuns(
  session: HostedTrainingSession,
  { size, features, inputs, labels }: LabelledData,
  trial: Trial,
): Training['train'] {
  const { batch } = trial;
  const order = sampleOrder(trial);
  return async (samples) => {
    const steps = samples.length / batch;
    const losses: number[] = [];
    const began = performance.now();
    if (session.nextStep === 0) {
      await session.uploadData({ x: inputs.subarray(0, size * features), y: labels.subarray(0, size) });
    }
    for (let begin = 0; begin < steps; begin += RUN_STEPS) {
      const onProgress = ({ metrics }: RunProgress): number => losses.push(metrics.loss);
      await session.run({ steps: Math.min(RUN_STEPS, steps - begin), batch, order }, { onProgress });
    }
    const seconds = (performance.now() - began) / 1000;
    if (losses.length === steps) return { losses, seconds };
    throw new Error(`of ${String(steps)} steps the service told of ${String(losses.length)}`);
  };
}

async function scoreOf(session: HostedTrainingSession, data: LabelledData): Promise<Score> {
  let loss = 0;
  let right = 0;
  for (let begin = 0; begin < data.size; begin += EVALUATION_BATCH) {
    const size = Math.min(EVALUATION_BATCH, data.size - begin);
    const inputs = data.inputs.subarray(begin * data.features, (begin + size) * data.features);
    const labels = data.labels.subarray(begin, begin + size);
    const { outputs, loss: mean } = await session.predict({ x: inputs, y: labels });
    loss += (mean ?? Number.NaN) * size;
    right += countRight(outputs, { ...data, size, inputs, labels });
  }
  return { loss: loss / data.size, accuracy: right / data.size };
}
