/** A trial: one training run that is defined completely by its definition, and what came of it. */
import type { DdpnoptClient } from '../../clients/js/index.ts';
import { digestOf } from '../digest.ts';
import type { PeerOptimizer, PeerTask } from '../peers/peers.ts';
import type { DataSetName } from './data.ts';

export type Network = PeerTask['network'];

/** Features of the data sets whose nets are small. */
const SMALL_INPUT = 64;

/** WebAssembly where a step is so small that the way to the native library is most of it; else the fastest engine that is there. */
export function engineFor({ input }: Network): string | undefined {
  return input.length === 1 && input[0] <= SMALL_INPUT ? 'wasm' : undefined;
}

/** Options of the service's optimizer; what is left out is the default. */
export type ServiceOptimizer = NonNullable<Parameters<DdpnoptClient['createHostedSession']>[0]['optimizer']>;

/** Who trains: a hosted session of the service, or PyTorch. */
export type Trainer =
  | { readonly kind: 'service'; readonly optimizer: ServiceOptimizer }
  | { readonly kind: 'peer'; readonly optimizer: PeerOptimizer };

export interface Trial {
  readonly dataSet: DataSetName;
  /** How many samples of the training part are trained on, the first ones; null for all. */
  readonly trainingSamples: number | null;
  readonly network: Network;
  readonly batch: number;
  readonly epochs: number;
  /** Of the initial weights and of the order of the samples: trials of one seed share both, whoever trains. */
  readonly seed: number;
  /** How often the test part is evaluated, at equal distances; the last time at the end. */
  readonly evaluations: number;
  /** How many samples of the validation part and of the test part count, the first ones; all unless given. */
  readonly evaluatedSamples?: number | undefined;
  readonly trainer: Trainer;
  /** Whether nothing else runs meanwhile, so that its seconds can be compared. */
  readonly alone: boolean;
  /** Of the service where seconds count: whether it draws the batches itself, in runs, or is sent each of them, as it is unless given. */
  readonly inRuns?: boolean | undefined;
  /** Whether PyTorch has every processor to itself, as the service has; one unless given. */
  readonly onAllProcessors?: boolean | undefined;
}

export interface Score {
  readonly loss: number;
  readonly accuracy: number;
}

/** The test part after so many steps. */
export interface Point extends Score {
  readonly step: number;
  /**
   * Of steps as whoever trains sees them: of the service with what HTTP takes, of the peers without. Evaluations stop the clock. They can
   * be compared where the trial ran alone: then a client sends the service every batch, unless the trial is to be in runs; else it may
   * have the service draw them in any case.
   */
  readonly seconds: number;
  /** Mean loss of the batches since the point before, each before its step. */
  readonly trainingLoss: number;
}

export interface Outcome {
  /** Up to where the training diverged. */
  readonly points: readonly Point[];
  /** The validation part at the end; null if the training diverged. */
  readonly validation: Score | null;
  /** Whole milliseconds of the trial, preparation and evaluations included. */
  readonly milliseconds: number;
}

/** What a trial is stored under: a digest of its definition. */
export function keyOf(trial: Trial): string {
  return digestOf(canonical(trial)).slice(0, 24);
}

/** JSON with the keys in order, and without what is undefined. */
function canonical(value: unknown): string {
  return JSON.stringify(value, (_, inner: unknown) => {
    if (typeof inner !== 'object' || inner === null || Array.isArray(inner)) return inner;
    return Object.fromEntries(Object.entries(inner).toSorted(([a], [b]) => (a < b ? -1 : 1)));
  });
}

/** The accuracy on the test part at the end; 0 where the training diverged. */
export function finalAccuracy({ points, validation }: Outcome): number {
  return validation === null ? 0 : (points.at(-1)?.accuracy ?? 0);
}
