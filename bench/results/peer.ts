/** Trials in PyTorch, one after the other in a process of their own, from the initial weights that the service has. */
import type { PartFiles } from '../part-files.ts';
import type { Parts } from '../parts.ts';
import { PeerProcess, type PeerOptimizer } from '../peers/peers.ts';
import { evaluatedPart, runTrial, trainingPart } from './run.ts';
import type { Network, Outcome, Trial } from './trial.ts';

export class PeerTrials {
  readonly #process: PeerProcess;
  readonly torch: string;

  private constructor(process: PeerProcess, torch: string) {
    this.#process = process;
    this.torch = torch;
  }

  /** @throws Error if the peers are not installed */
  static async start(threads: number): Promise<PeerTrials> {
    const process = await PeerProcess.start(threads);
    return new PeerTrials(process, (await process.describe()).torch);
  }

  run(
    trial: Trial,
    optimizer: PeerOptimizer,
    parameters: readonly Float32Array[],
    parts: Parts,
    files: PartFiles,
  ): Promise<Outcome> {
    return runTrial(trial, parts, async () => {
      await this.#process.prepare({
        network: withoutInitialization(trial.network),
        batch: trial.batch,
        optimizer,
        files: { ...files.train, size: trainingPart(parts, trial).size },
        parameters,
      });
      return {
        train: async (samples) => {
          const { losses, milliseconds } = await this.#process.stepsOn(samples);
          return { losses, seconds: milliseconds.reduce((sum, value) => sum + value, 0) / 1000 };
        },
        evaluate: (part) => {
          const { size } = evaluatedPart(parts, part, trial);
          return this.#process.evaluate({ files: { ...files[part], size } });
        },
        stop: () => Promise.resolve(),
      };
    });
  }

  stop(): Promise<void> {
    return this.#process.stop();
  }
}

/** The peers are given the weights; JSON leaves out what is undefined. */
function withoutInitialization({ input, layers }: Network): Network {
  return {
    input,
    layers: layers.map((layer) =>
      layer.kind === 'dense' || layer.kind === 'conv2d' ? { ...layer, initialization: undefined } : layer,
    ),
  };
}
