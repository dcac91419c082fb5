/**
 * The peers that the service is compared with, in PyTorch: a process of their own (server.py) that takes its turns when it is asked
 * to. Tasks that alternate take a process each.
 */
import { spawn, type ChildProcessWithoutNullStreams } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import * as z from 'zod';
import type { LossInput } from '../../shared/loss.ts';
import type { ModelInput } from '../../shared/model.ts';
import { MISSING, peersInstalled, PYTHON } from './environment.ts';

interface PeerCommon {
  readonly learningRate: number;
  /** Half a cosine from the learning rate to 0 over so many steps; constant unless given. */
  readonly cosineSteps?: number;
  /** Inputs whitened once, on the whole data: `rank` features of them stay, damped by so many mean eigenvalues. */
  readonly whitening?: { readonly rank: number; readonly damping: number };
  /**
   * λ of the weights, 0 unless given; biases do not decay. In the form that is each optimizer's standard: added to the gradient with
   * sgd and rmsprop (L2); decoupled, ηλu a step, with adam (AdamW), muon, kfac and ekfac; decoupled as the service's, λ(η/η_peak)u a
   * step, with ddpnopt; as a running cost (λ/2)‖u‖² with e-msa and vanilla-ddp.
   */
  readonly weightDecay?: number;
}

/** The loss scale of K-FAC and EKFAC in which every sample counts the same, as in the textbook. */
export const UNWEIGHTED = { floor: 1, ceiling: 1 } as const;

/** Left out options have the service's defaults. */
export interface PeerKronecker extends PeerCommon {
  readonly damping?: number;
  readonly decay?: number;
  readonly statisticsEvery?: number;
  readonly refreshEvery?: number;
  /** Of the terminal weights h in the factors; floor and ceiling 1 give every sample the same, as the textbook's K-FAC. */
  readonly lossScale?: { readonly floor?: number; readonly ceiling?: number };
}

export type PeerOptimizer =
  | /** torch.optim.SGD, momentum 0.9 unless given. */ (PeerCommon & {
      readonly kind: 'sgd';
      readonly momentum?: number;
    })
  | /** torch.optim.RMSprop; `decay` is its alpha, 0.99 unless given. */ (PeerCommon & {
      readonly kind: 'rmsprop';
      readonly decay?: number;
      readonly momentum?: number;
    })
  | (PeerCommon & { readonly kind: 'adam' })
  | /** torch.optim.Muon for hidden weights, kernels flattened; AdamW for biases and the output layer, at the same η. */ (PeerCommon & {
      readonly kind: 'muon';
      readonly momentum?: number;
    })
  | /** `momentum` is 0 unless given. */ (PeerKronecker & {
      readonly kind: 'kfac' | 'ekfac';
      readonly momentum?: number;
    })
  | /** Metric kronecker, coupling feedback. */ (PeerKronecker & {
      readonly kind: 'ddpnopt';
      readonly batchCoupling?: 'full' | 'diagonal';
    })
  | /**
     * Li et al., 2018. `learningRate` is the share of the way to the maximiser of the augmented Hamiltonian that a step goes, 1 in
     * their method; `penalty` is its ρ, 1 unless given, `iterations` of L-BFGS, 10 unless given.
     */ (PeerCommon & {
      readonly kind: 'e-msa';
      readonly penalty?: number;
      readonly iterations?: number;
    })
  | /**
     * Dense differential dynamic programming on the stacked batch, of small dense nets: Q_uu is regularised by I/η. Steps that would take
     * more than `memoryLimit` bytes, 2e9 unless given, are refused.
     */ (PeerCommon & {
      readonly kind: 'vanilla-ddp';
      /** Second-order unless given: with the second derivatives of the layers. */
      readonly dynamics?: 'first-order' | 'second-order';
      readonly memoryLimit?: number;
    });

/** Of the service's losses, those that the peers have. */
export type PeerLoss = Extract<LossInput, { kind: 'softmax-cross-entropy' | 'max-mahalanobis-centre' }>;

/** Data in files that the peers map: float32 inputs, labels as bytes, one sample after the other. */
export interface PeerFiles {
  readonly inputs: string;
  readonly labels: string;
  readonly size: number;
}

type Numbers = Float32Array | Float64Array;

export interface PeerData {
  /** [samples, …], row-major, one sample after the other. */
  readonly inputs: Numbers;
  readonly labels: ArrayLike<number>;
}

export interface PeerTask {
  readonly network: ModelInput;
  readonly batch: number;
  readonly optimizer: PeerOptimizer;
  /** Softmax cross-entropy unless given. */
  readonly loss?: PeerLoss;
  readonly precision?: 'float32' | 'float64';
  /** Of the initial parameters and of data, where those are not given. */
  readonly seed?: number;
  /** The batches, one after the other, over and over; unless given, random samples. */
  readonly data?: PeerData;
  /** In the place of `data`. */
  readonly files?: PeerFiles;
  /** Weight and bias of every layer in the service's layout; unless given, random. */
  readonly parameters?: readonly Numbers[];
}

const preparedSchema = z.object({
  parameters: z.number(),
  milliseconds: z.number(),
  whiteningMilliseconds: z.number(),
});
const stepsSchema = z.object({
  milliseconds: z.array(z.number()),
  losses: z.array(z.number()),
  lossesAfter: z.array(z.number().nullable()),
});
const matmulSchema = z.object({ milliseconds: z.number(), flopsPerSecond: z.number() });
const descriptionSchema = z.object({
  python: z.string(),
  torch: z.string(),
  threads: z.number(),
  capability: z.string(),
});
const parametersSchema = z.object({ parameters: z.array(z.base64()) });
const evaluationSchema = z.object({ loss: z.number(), accuracy: z.number() });
const trainingSchema = z.object({
  milliseconds: z.number(),
  evaluations: z.array(
    z.object({
      steps: z.int(),
      milliseconds: z.number(),
      trainLoss: z.number(),
      scores: z.record(z.string(), evaluationSchema),
    }),
  ),
  divergedAt: z.int().nullable(),
});
const gradientsSchema = z.object({ norms: z.array(z.number()) });
const errorSchema = z.object({ error: z.string() });

export type PeerSteps = z.output<typeof stepsSchema>;
/**
 * `milliseconds` are those of the steps up to an evaluation, or to the end; `trainLoss` is the mean of the batches' losses since the
 * evaluation before. `divergedAt` is the step that ended the training early, for a number that was not finite.
 */
export type PeerTraining = z.output<typeof trainingSchema>;
export type PeerDescription = z.output<typeof descriptionSchema>;

const SERVER = fileURLToPath(new URL('server.py', import.meta.url));
/** Characters of the process's own complaints that an error repeats. */
const COMPLAINT_LENGTH = 2000;

/** One process; ask it one thing at a time. */
export class PeerProcess {
  readonly #child: ChildProcessWithoutNullStreams;
  readonly #lines: AsyncIterator<string>;
  #complaints = '';
  #precision: NonNullable<PeerTask['precision']> = 'float32';

  private constructor(child: ChildProcessWithoutNullStreams) {
    this.#child = child;
    this.#lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      this.#complaints = (this.#complaints + text).slice(-COMPLAINT_LENGTH);
    });
    // A process that ends early shows in the answer that does not come.
    child.stdin.on('error', () => undefined);
  }

  /**
   * @param threads of an operation
   * @throws Error if the peers are not installed, or do not start
   */
  static async start(threads: number): Promise<PeerProcess> {
    if (!peersInstalled()) throw new Error(MISSING);
    const child = spawn(PYTHON, [SERVER, '--threads', String(threads)], {
      // Otherwise PyTorch's threads spin between requests, and take the cores from whoever's turn it is.
      env: { ...process.env, OMP_WAIT_POLICY: 'PASSIVE' },
    });
    await once(child, 'spawn');
    return new PeerProcess(child);
  }

  /** Of the operating system. */
  get id(): number {
    if (this.#child.pid === undefined) throw new Error('a process that has not started');
    return this.#child.pid;
  }

  describe(): Promise<PeerDescription> {
    return this.#ask(descriptionSchema, { command: 'describe' });
  }

  /** A product of two float32 matrices of that order. */
  matmul(size: number): Promise<z.output<typeof matmulSchema>> {
    return this.#ask(matmulSchema, { command: 'matmul', size });
  }

  /** Takes up a task in place of the one before; `milliseconds` is what that took, whitening included. */
  prepare({ data, parameters, ...task }: PeerTask): Promise<z.output<typeof preparedSchema>> {
    this.#precision = task.precision ?? 'float32';
    return this.#ask(preparedSchema, {
      command: 'prepare',
      ...task,
      ...(data === undefined ? {} : this.#encodedData(data)),
      ...(parameters === undefined ? {} : { parameters: parameters.map((values) => this.#encoded(values)) }),
    });
  }

  /**
   * Takes the next steps; `losses` are the batches' mean losses before each, `lossesAfter` those after it, with ddpnopt and
   * vanilla-ddp.
   */
  steps(count: number): Promise<PeerSteps> {
    return this.#ask(stepsSchema, { command: 'steps', count });
  }

  /** Takes the next steps on batches of these samples; the last one may be smaller. */
  stepsOn(samples: ArrayLike<number>): Promise<PeerSteps> {
    return this.#ask(stepsSchema, { command: 'steps', samples: Array.from(samples) });
  }

  /**
   * A whole training in one request: the next steps on batches of these samples, with an evaluation on every part after `every` of
   * them, and after the last.
   */
  train(
    samples: ArrayLike<number>,
    every: number,
    parts: Readonly<Record<string, PeerData | { readonly files: PeerFiles }>>,
  ): Promise<PeerTraining> {
    const encoded = Object.entries(parts).map(([name, part]) => [name, this.#part(part)]);
    const evaluated = Object.fromEntries(encoded) as Record<string, object>;
    return this.#ask(trainingSchema, { command: 'train', samples: Array.from(samples), every, parts: evaluated });
  }

  /** The norm of every layer's gradient of the mean loss on these samples, weight and bias together. */
  async gradientNorms(samples: ArrayLike<number>): Promise<number[]> {
    return (await this.#ask(gradientsSchema, { command: 'gradients', samples: Array.from(samples) })).norms;
  }

  /** Weight and bias of every layer as they are now. */
  async parameters(): Promise<Numbers[]> {
    const reply = await this.#ask(parametersSchema, { command: 'parameters' });
    return reply.parameters.map((text) => {
      // A copy: a small buffer's memory is part of a larger one and need not be aligned.
      const { buffer } = Uint8Array.from(Buffer.from(text, 'base64'));
      return this.#precision === 'float64' ? new Float64Array(buffer) : new Float32Array(buffer);
    });
  }

  evaluate(data: PeerData | { readonly files: PeerFiles }): Promise<z.output<typeof evaluationSchema>> {
    return this.#ask(evaluationSchema, { command: 'evaluate', ...this.#part(data) });
  }

  /** Ends the process, once it has done what it was asked. */
  async stop(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const ended = once(this.#child, 'exit');
    this.#child.stdin.end();
    await ended;
  }

  #part(data: PeerData | { readonly files: PeerFiles }): object {
    return 'files' in data ? data : this.#encodedData(data);
  }

  #encodedData({ inputs, labels }: PeerData): { inputs: string; labels: number[] } {
    return { inputs: this.#encoded(inputs), labels: Array.from(labels) };
  }

  #encoded(values: Numbers): string {
    const { buffer, byteOffset, byteLength } =
      this.#precision === 'float64' ? Float64Array.from(values) : Float32Array.from(values);
    return Buffer.from(buffer, byteOffset, byteLength).toString('base64');
  }

  async #ask<Reply>(schema: z.ZodType<Reply>, request: Readonly<Record<string, unknown>>): Promise<Reply> {
    this.#child.stdin.write(`${JSON.stringify(request)}\n`);
    const line = await this.#lines.next();
    if (line.done === true) throw new Error(`The peers' process has ended.\n${this.#complaints}`);
    const reply: unknown = JSON.parse(line.value);
    const failure = errorSchema.safeParse(reply);
    if (failure.success) throw new Error(`The peers answer: ${failure.data.error}`);
    return schema.parse(reply);
  }
}

/** Of the peers. @throws Error as {@link PeerProcess.start} */
export async function torchVersion(): Promise<string> {
  const process = await PeerProcess.start(1);
  try {
    return (await process.describe()).torch;
  } finally {
    await process.stop();
  }
}
