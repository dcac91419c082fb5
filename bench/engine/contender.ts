/** Who computes the step. The tensor engines of the worker are contenders; others need only this interface. */
import { INITIAL_STATE, type OptimizerState } from '../../gpu-worker/optimizer/state.ts';
import { ddpStep } from '../../gpu-worker/optimizer/step.ts';
import { tensorsIn, type EngineName } from '../../gpu-worker/tensor/engine.ts';
import { loadEngine } from '../../gpu-worker/tensor/index.ts';
import { layersDefinitionSchema, replyForm } from '../../shared/layers-definition.ts';
import type { Problem } from './problem.ts';

export interface Contender {
  readonly name: string;
  readonly prepare: (problem: Problem) => Promise<Runner>;
  /** Milliseconds of one product of two n×n matrices. */
  readonly product: (n: number) => Promise<number>;
}

/** A problem made ready: the batch is where it is computed. */
export interface Runner {
  /** Takes the next step to its end and returns its milliseconds. */
  readonly step: () => Promise<number>;
  readonly stop: () => Promise<void>;
}

/** The worker's step on one of its engines, without transport, upload and the client's passes. */
export function engineContender(name: EngineName): Contender {
  return {
    name,
    async prepare({ widths, batch, refreshEvery, losses, layers }) {
      const engine = await loadEngine(name);
      const definition = layersDefinitionSchema.parse({
        layers: widths.slice(1).map((outputs, t) => ({
          name: `layer${String(t)}`,
          kind: 'dense',
          inputs: widths[t],
          outputs,
        })),
        optimizer: { coupling: 'feedback', metric: { kind: 'kronecker', refreshEvery } },
      });
      const configuration = { ...definition, reply: replyForm(definition) };
      const before = engine.liveTensors;
      const uploaded = {
        losses: engine.tensor(losses, [batch]),
        previousLosses: null,
        layers: layers.map(({ input, gradient }, t) => ({
          input: engine.tensor(input, [batch, widths[t] ?? 0]),
          lossGradient: engine.tensor(gradient, [batch, widths[t + 1] ?? 0]),
          columnGradient: null,
          parameters: {},
        })),
      };
      let state: OptimizerState = INITIAL_STATE;
      return {
        step() {
          const began = performance.now();
          // The check for overflow reads from the device: when the step returns, everything is computed.
          const result = ddpStep(engine, configuration, state, uploaded);
          const milliseconds = performance.now() - began;
          const kept = tensorsIn([result.state, uploaded], engine.isTensor);
          engine.dispose([...tensorsIn([result, state], engine.isTensor)].filter((tensor) => !kept.has(tensor)));
          state = result.state;
          return Promise.resolve(milliseconds);
        },
        stop() {
          engine.dispose(tensorsIn([state, uploaded], engine.isTensor));
          if (engine.liveTensors !== before) throw new Error(`${name} leaves tensors behind`);
          return Promise.resolve();
        },
      };
    },
    async product(n) {
      const engine = await loadEngine(name);
      return engine.scope(() => {
        const matrix = engine.tensor(new Float32Array(n * n).fill(1 / n), [n, n]);
        const began = performance.now();
        const result = engine.matMul(matrix, matrix);
        // Waits for the device, for the price of one number.
        engine.read(engine.slice(engine.reshape(result, [n * n]), 0, 0, 1));
        return performance.now() - began;
      });
    },
  };
}
