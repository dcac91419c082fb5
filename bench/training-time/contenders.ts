/** Who trains: the worker's hosted step on the native engine, and Adam and K-FAC in PyTorch. */
import { availableParallelism } from 'node:os';
import type { LabelledData } from '../../clients/datasets/digits/digits.ts';
import { disposeReplaced, tensorsIn, type Engine } from '../../gpu-worker/tensor/engine.ts';
import {
  evaluate,
  hostedConfiguration,
  hostedStep,
  initialHostedState,
} from '../../gpu-worker/training/hosted-step.ts';
import { hostedDefinitionSchema } from '../../shared/hosted-definition.ts';
import { countRight } from '../accuracy.ts';
import type { PartFiles } from '../part-files.ts';
import { select, type Parts } from '../parts.ts';
import { PeerProcess, type PeerOptimizer } from '../peers/peers.ts';
import type { Task } from './task.ts';
import { fitWhitening, type Whitening } from './whitening.ts';

export interface RunOptions {
  readonly learningRate: number;
  /** Of the whole run: a schedule ends with it. */
  readonly steps: number;
  readonly seed: number;
}

export interface Score {
  readonly loss: number;
  readonly accuracy: number;
}

/** One training run in progress. */
export interface Run {
  /** What was done to the data once, before the first step. */
  readonly setUpSeconds: number;
  /** Takes the steps on batches of these samples; seconds that the steps took. @throws Error if the training diverges */
  readonly train: (samples: Uint32Array) => Promise<number>;
  readonly evaluate: (part: 'validation' | 'test') => Promise<Score>;
  readonly stop: () => Promise<void>;
}

/** A contender that has been given a task. */
export interface Entrant {
  readonly start: (options: RunOptions) => Promise<Run>;
  readonly stop: () => Promise<void>;
}

export interface Contender {
  readonly id: string;
  readonly name: string;
  /** Learning rates to choose from; a single one is not tuned. */
  readonly learningRates: readonly number[];
  /** Whether it trains for the longest budget, too. */
  readonly isBaseline: boolean;
  readonly enter: (task: Task, parts: Parts, files: PartFiles) => Promise<Entrant>;
}

type OptimizerSettings = (task: Task, options: RunOptions) => object;

const EVALUATION_BATCH = 5000;

/** The worker's hosted step, in this process: no HTTP, no thread, the batch in memory. */
export function hostedContender(
  engine: Engine,
  { id, name, learningRates }: Pick<Contender, 'id' | 'name' | 'learningRates'>,
  optimizer: OptimizerSettings,
  whiteningOf: (task: Task) => Whitening | null,
): Contender {
  return {
    id,
    name,
    learningRates,
    isBaseline: false,
    enter(task, parts) {
      const whitening = whiteningOf(task);
      return Promise.resolve({
        start(options) {
          const began = performance.now();
          let train = parts.train;
          let setUpSeconds = 0;
          let test = parts.test;
          let validation = parts.validation;
          if (whitening !== null) {
            const map = fitWhitening(engine, train, whitening);
            train = map.apply(train);
            setUpSeconds = (performance.now() - began) / 1000;
            test = map.apply(test);
            validation = map.apply(validation);
          }
          const configuration = hostedConfiguration(
            hostedDefinitionSchema.parse({
              mode: 'hosted',
              model: { ...task.network, input: [train.features] },
              loss: { kind: 'softmax-cross-entropy' },
              optimizer: optimizer(task, options),
              seed: options.seed,
            }),
          );
          let state = initialHostedState(engine, configuration);
          const stepOn = (batch: LabelledData): void => {
            const next = engine.scope(() => {
              const input = engine.tensor(batch.inputs, [batch.size, batch.features]);
              const truth = { values: batch.labels, sampleWeights: null };
              return hostedStep(engine, configuration, state, { input, truth }).state;
            });
            disposeReplaced(engine, state, next);
            state = next;
          };
          const scoreOf = (data: LabelledData): Score => {
            let loss = 0;
            let right = 0;
            for (let begin = 0; begin < data.size; begin += EVALUATION_BATCH) {
              const size = Math.min(EVALUATION_BATCH, data.size - begin);
              const chunk = select(
                data,
                Uint32Array.from({ length: size }, (_, index) => begin + index),
              );
              const { outputs, mean } = engine.scope(() => {
                const input = engine.tensor(chunk.inputs, [size, data.features]);
                const truth = { values: chunk.labels, sampleWeights: null };
                const result = evaluate(engine, configuration, state, input, truth);
                return { outputs: engine.read(result.outputs), mean: result.loss ?? Number.NaN };
              });
              loss += mean * size;
              right += countRight(outputs, chunk);
            }
            return { loss: loss / data.size, accuracy: right / data.size };
          };
          return Promise.resolve({
            setUpSeconds,
            train(samples) {
              let seconds = 0;
              for (let begin = 0; begin < samples.length; begin += task.batch) {
                const batch = select(train, samples.subarray(begin, begin + task.batch));
                const stepBegan = performance.now();
                stepOn(batch);
                seconds += (performance.now() - stepBegan) / 1000;
              }
              return Promise.resolve(seconds);
            },
            evaluate: (part) => Promise.resolve(scoreOf(part === 'test' ? test : validation)),
            stop() {
              engine.dispose(tensorsIn(state, engine.isTensor));
              return Promise.resolve();
            },
          });
        },
        stop: () => Promise.resolve(),
      });
    },
  };
}

/** A PyTorch peer, in a process of its own that is idle when it is not its turn. */
export function peerContender(
  { id, name, learningRates, isBaseline }: Omit<Contender, 'enter'>,
  optimizer: (task: Task, options: RunOptions) => PeerOptimizer,
): Contender {
  return {
    id,
    name,
    learningRates,
    isBaseline,
    async enter(task, _, files) {
      const process = await PeerProcess.start(availableParallelism());
      return {
        async start(options) {
          const { whiteningMilliseconds } = await process.prepare({
            network: task.network,
            batch: task.batch,
            optimizer: optimizer(task, options),
            seed: options.seed,
            files: files.train,
          });
          return {
            setUpSeconds: whiteningMilliseconds / 1000,
            async train(samples) {
              const { milliseconds } = await process.stepsOn(samples);
              return milliseconds.reduce((sum, value) => sum + value, 0) / 1000;
            },
            evaluate: (part) => process.evaluate({ files: files[part] }),
            stop: () => Promise.resolve(),
          };
        },
        stop: () => process.stop(),
      };
    },
  };
}
