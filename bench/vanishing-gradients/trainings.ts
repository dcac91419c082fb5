/** A training by the service, in a hosted session over HTTP, or by a PyTorch peer, seen alike: steps, and the parameters after them. */
import type { LabelledData } from '../../clients/datasets/digits/digits.ts';
import { DdpnoptClient } from '../../clients/js/index.ts';
import { select } from '../parts.ts';
import { PeerProcess, type PeerFiles } from '../peers/peers.ts';
import { lossOf, networkOf, type Optimizer, type Task } from './tasks.ts';

export type Parameters = readonly Float32Array[];

export interface Training {
  /** Takes steps on batches of these samples. @throws Error if the training diverges */
  readonly train: (samples: Uint32Array) => Promise<void>;
  /** Weight and bias of every layer. */
  readonly parameters: () => Promise<Parameters>;
  readonly stop: () => Promise<void>;
}

export interface TrainingData {
  readonly data: LabelledData;
  readonly file: PeerFiles;
  readonly batch: number;
}

/** Whose trainings they are. One training at a time; several of these run beside each other. */
export class Trainings {
  readonly #client: DdpnoptClient;
  readonly #peer: PeerProcess;

  private constructor(client: DdpnoptClient, peer: PeerProcess) {
    this.#client = client;
    this.#peer = peer;
  }

  static async start(url: string): Promise<Trainings> {
    return new Trainings(new DdpnoptClient({ url }), await PeerProcess.start(1));
  }

  /** What every training of that task and seed begins with: the weights of a new session. */
  async initialParameters(task: Task, seed: number): Promise<Parameters> {
    const training = await this.#session(task, {}, seed, null);
    try {
      return await training.parameters();
    } finally {
      await training.stop();
    }
  }

  /** @param initial what {@link initialParameters} gives for the task and seed: the session makes them itself */
  async start(
    task: Task,
    { kind, optimizer }: Optimizer,
    seed: number,
    initial: Parameters,
    train: TrainingData,
  ): Promise<Training> {
    if (kind === 'service') return this.#session(task, optimizer, seed, train);
    const { batch, file: files } = train;
    const [network, loss] = [networkOf(task), lossOf(task)];
    await this.#peer.prepare({ network, loss, batch, optimizer, files, parameters: initial });
    return {
      train: async (samples) => {
        await this.#peer.stepsOn(samples);
      },
      parameters: async () => (await this.#peer.parameters()).map((values) => Float32Array.from(values)),
      stop: () => Promise.resolve(),
    };
  }

  async stop(): Promise<void> {
    await this.#peer.stop();
  }

  async #session(
    task: Task,
    optimizer: Extract<Optimizer, { kind: 'service' }>['optimizer'],
    seed: number,
    train: TrainingData | null,
  ): Promise<Training> {
    const model = networkOf(task);
    const session = await this.#client.createHostedSession({ model, loss: lossOf(task), optimizer, seed });
    return {
      async train(samples) {
        if (train === null) throw new Error('a session that has no data');
        for (let begin = 0; begin < samples.length; begin += train.batch) {
          const { inputs: x, labels: y } = select(train.data, samples.subarray(begin, begin + train.batch));
          await session.step({ x, y });
        }
      },
      async parameters() {
        const weights = await session.weights();
        const named = model.layers.flatMap((layer) =>
          layer.kind === 'dense' ? [`layers.${layer.name}.weight`, `layers.${layer.name}.bias`] : [],
        );
        return named.map((name) => {
          const tensor = weights.get(name);
          if (tensor === undefined) throw new Error(`the session has no ${name}`);
          return Float32Array.from(tensor.values);
        });
      },
      stop: () => session.delete(),
    };
  }
}

/** Judges parameters, whoever trained them: a peer that takes no step. */
export class Judge {
  readonly #peer: PeerProcess;

  private constructor(peer: PeerProcess) {
    this.#peer = peer;
  }

  static async start(): Promise<Judge> {
    return new Judge(await PeerProcess.start(1));
  }

  /** Loss and accuracy on each part; with the max-Mahalanobis-centre loss a sample is of the class with the nearest centre. */
  async scores(
    task: Task,
    parameters: Parameters,
    parts: Readonly<Record<'validation' | 'test', PeerFiles>>,
  ): Promise<Readonly<Record<'validation' | 'test', Score>>> {
    await this.#take(task, parameters, parts.validation, 1);
    return {
      validation: await this.#peer.evaluate({ files: parts.validation }),
      test: await this.#peer.evaluate({ files: parts.test }),
    };
  }

  /** ‖∂/∂u_t‖ of the mean loss on these samples, of every layer. */
  async gradientNorms(
    task: Task,
    parameters: Parameters,
    { file, batch }: TrainingData,
    samples: Uint32Array,
  ): Promise<number[]> {
    await this.#take(task, parameters, file, batch);
    return this.#peer.gradientNorms(samples);
  }

  stop(): Promise<void> {
    return this.#peer.stop();
  }

  async #take(task: Task, parameters: Parameters, files: PeerFiles, batch: number): Promise<void> {
    const optimizer = { kind: 'sgd', learningRate: 1 } as const;
    await this.#peer.prepare({ network: networkOf(task), loss: lossOf(task), batch, optimizer, files, parameters });
  }
}

export interface Score {
  readonly loss: number;
  readonly accuracy: number;
}
