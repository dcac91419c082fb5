/** Who takes the step: the tensor engines of the worker, and the same step, its metric alone and Adam in PyTorch. */
import { hostedConfiguration, hostedStep, initialHostedState } from '../../gpu-worker/training/hosted-step.ts';
import { disposeReplaced, tensorsIn, type EngineName } from '../../gpu-worker/tensor/engine.ts';
import { loadEngine } from '../../gpu-worker/tensor/index.ts';
import { PeerProcess, type PeerOptimizer } from '../peers/peers.ts';
import { hostedDefinition, LEARNING_RATE, REFRESH_EVERY, type Problem, type Variant } from './problem.ts';

export interface Contender {
  readonly name: string;
  readonly prepare: (problem: Problem) => Promise<Runner>;
}

/** A problem made ready. */
export interface Runner {
  /** Milliseconds of each of the next steps, the first of which refreshes the metric. */
  readonly round: () => Promise<readonly number[]>;
  /** Operations a second of one product of two matrices of that order. */
  readonly peak: (order: number) => Promise<number>;
  readonly stop: () => Promise<void>;
}

/** The worker's hosted step on one of its engines: upload, both passes, curvature and policies. */
export function engineContender(engineName: EngineName, variant: Variant = 'default'): Contender {
  return {
    name: `DDPNOpt, ${engineName}${variant === 'default' ? '' : `, ${variant}`}`,
    async prepare({ model, batch, batches }) {
      const engine = await loadEngine(engineName);
      const configuration = hostedConfiguration(hostedDefinition(model, variant));
      const before = engine.liveTensors;
      let state = initialHostedState(engine, configuration);
      return {
        round: () =>
          Promise.resolve(
            batches.map(({ inputs, labels }) => {
              const began = performance.now();
              const next = engine.scope(() => {
                const input = engine.tensor(inputs, [batch, ...model.input]);
                const truth = { values: labels, sampleWeights: null };
                return hostedStep(engine, configuration, state, { input, truth }).state;
              });
              disposeReplaced(engine, state, next);
              state = next;
              return performance.now() - began;
            }),
          ),
        peak: (order) => {
          const began = performance.now();
          engine.scope(() => {
            const matrix = engine.tensor(new Float32Array(order ** 2).fill(1 / order), [order, order]);
            // Waits for the device, for the price of one number.
            engine.read(engine.slice(engine.reshape(engine.matMul(matrix, matrix), [order ** 2]), 0, 0, 1));
          });
          return Promise.resolve((2 * order ** 3 * 1000) / (performance.now() - began));
        },
        stop() {
          engine.dispose(tensorsIn(state, engine.isTensor));
          if (engine.liveTensors !== before) throw new Error(`${engineName} leaves tensors behind`);
          return Promise.resolve();
        },
      };
    },
  };
}

export function peerContender(name: string, optimizer: PeerOptimizer, threads: number): Contender {
  return {
    name: `${name}, PyTorch`,
    async prepare({ model, batch, batches }) {
      const process = await PeerProcess.start(threads);
      const size = batches[0]?.inputs.length ?? 0;
      const inputs = new Float32Array(batches.length * size);
      for (const [index, each] of batches.entries()) inputs.set(each.inputs, index * size);
      const labels = batches.flatMap((each) => [...each.labels]);
      await process.prepare({ network: model, batch, optimizer, data: { inputs, labels } });
      return {
        round: async () => (await process.steps(batches.length)).milliseconds,
        peak: async (order) => (await process.matmul(order)).flopsPerSecond,
        stop: () => process.stop(),
      };
    },
  };
}

export const PEERS: readonly (readonly [name: string, optimizer: PeerOptimizer])[] = [
  ['DDPNOpt', { kind: 'ddpnopt', learningRate: LEARNING_RATE, refreshEvery: REFRESH_EVERY }],
  ['K-FAC', { kind: 'kfac', learningRate: LEARNING_RATE, refreshEvery: REFRESH_EVERY }],
  ['Adam', { kind: 'adam', learningRate: 0.001 }],
];
