/**
 * The peers that the engine is compared with: DDPNOpt, K-FAC and Adam in PyTorch, in a process of their own (server.py) that takes
 * its turns when it is asked to. Tasks that alternate take a process each.
 */
import { spawn, type ChildProcessWithoutNullStreams } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import * as z from 'zod';
import type { ModelInput } from '../../shared/model.ts';
import { MISSING, peersInstalled, PYTHON } from './environment.ts';

/** Left out options have the service's defaults. */
export interface PeerKronecker {
  readonly learningRate: number;
  readonly damping?: number;
  readonly decay?: number;
  readonly statisticsEvery?: number;
  readonly refreshEvery?: number;
  readonly lossScale?: { readonly floor?: number; readonly ceiling?: number };
}

interface PeerSchedule {
  /** Half a cosine from the learning rate to 0 over so many steps; constant unless given. */
  readonly cosineSteps?: number;
  /** Inputs whitened once, on the whole data: `rank` features of them stay, damped by so many mean eigenvalues. */
  readonly whitening?: { readonly rank: number; readonly damping: number };
}

export type PeerOptimizer = PeerSchedule &
  (
    | /** Metric kronecker, coupling feedback. */ (PeerKronecker & {
        readonly kind: 'ddpnopt';
        readonly batchCoupling?: 'full' | 'diagonal';
      })
    | (PeerKronecker & { readonly kind: 'kfac' })
    | { readonly kind: 'adam'; readonly learningRate: number }
  );

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
const errorSchema = z.object({ error: z.string() });

export type PeerSteps = z.output<typeof stepsSchema>;
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

  /** Takes the next steps; `losses` are the batches' mean losses before each, `lossesAfter` those after it, with ddpnopt. */
  steps(count: number): Promise<PeerSteps> {
    return this.#ask(stepsSchema, { command: 'steps', count });
  }

  /** Takes the next steps on batches of these samples; the last one may be smaller. */
  stepsOn(samples: ArrayLike<number>): Promise<PeerSteps> {
    return this.#ask(stepsSchema, { command: 'steps', samples: Array.from(samples) });
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
    return this.#ask(evaluationSchema, { command: 'evaluate', ...('files' in data ? data : this.#encodedData(data)) });
  }

  /** Ends the process, once it has done what it was asked. */
  async stop(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const ended = once(this.#child, 'exit');
    this.#child.stdin.end();
    await ended;
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
