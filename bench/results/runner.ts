/**
 * Runs trials: those of the service several at a time, in sessions of one worker; those of PyTorch one after the other beside them;
 * and those whose seconds count when all the others are done, one at a time.
 */
import { availableParallelism } from 'node:os';
import { setImmediate } from 'node:timers/promises';
import { ConnectionError } from '../../clients/js/index.ts';
import { withFiles, type PartFiles } from '../part-files.ts';
import type { Parts } from '../parts.ts';
import { loadParts, type DataSetName } from './data.ts';
import { PeerTrials } from './peer.ts';
import type { PlannedTrial } from './plan.ts';
import { ServiceTrials } from './service.ts';
import type { TrialStore, Versions } from './store.ts';
import { engineFor, keyOf, type Network, type Outcome, type Trainer, type Trial } from './trial.ts';

/** Sessions that train at a time: the worker computes one step while the others' requests are on their way. */
const SESSIONS = 4;
/** Of a trial whose connection breaks. */
const ATTEMPTS = 3;

export interface RunOptions {
  readonly revision: string;
  /** Of the service; unless given, what suits the network. */
  readonly engine: string | undefined;
  /** `performance.now()` after which no trial begins any more. */
  readonly ends: number;
}

/** Called after every trial. */
type OnDone = (planned: PlannedTrial, outcome: Outcome) => void;

interface Lent {
  readonly parts: Parts;
  readonly files: PartFiles;
}

interface Computed {
  readonly outcome: Outcome;
  /** Who computed it. */
  readonly trainer: string;
}

/** Each only once, however many plans have it. */
export function missingOf(store: TrialStore, trials: readonly PlannedTrial[]): PlannedTrial[] {
  const byKey = new Map(trials.map((each) => [keyOf(each.trial), each]));
  return [...byKey.values()].filter(({ trial }) => store.outcome(trial) === undefined);
}

/** Starts processes when a trial needs them, and keeps them until it is stopped. */
export class TrialRunner {
  readonly #store: TrialStore;
  readonly #options: RunOptions;
  readonly #data = new Map<DataSetName, Promise<Parts>>();
  readonly #services = new Map<string | undefined, Promise<ServiceTrials>>();
  /** By their threads. */
  readonly #peers = new Map<number, Promise<PeerTrials>>();

  constructor(store: TrialStore, options: RunOptions) {
    this.#store = store;
    this.#options = options;
  }

  /** Runs those trials that the store lacks. @returns false if the time was up before */
  async run(trials: readonly PlannedTrial[], onDone: OnDone): Promise<boolean> {
    const missing = missingOf(this.#store, trials);
    const together = missing.filter(({ trial }) => !trial.alone);
    const of = (kind: Trainer['kind']): PlannedTrial[] => together.filter(({ trial }) => trial.trainer.kind === kind);
    await Promise.all([this.#all(of('service'), SESSIONS, onDone), this.#all(of('peer'), 1, onDone)]);
    const alone = missing.filter(({ trial }) => trial.alone);
    await this.#all(alone, 1, onDone);
    return missingOf(this.#store, trials).length === 0;
  }

  async stop(): Promise<void> {
    for (const peer of this.#peers.values()) await (await peer).stop();
    for (const service of this.#services.values()) await (await service).stop();
  }

  /** Takes the trials data set by data set, in their order, so many at a time. */
  async #all(trials: readonly PlannedTrial[], atATime: number, onDone: OnDone): Promise<void> {
    for (const dataSet of new Set(trials.map(({ trial }) => trial.dataSet))) {
      const parts = await this.#parts(dataSet);
      const queue = trials.filter(({ trial }) => trial.dataSet === dataSet).values();
      await withFiles(parts, async (files) => {
        const lane = async (): Promise<void> => {
          for (const planned of queue) {
            if (performance.now() > this.#options.ends) return;
            await this.#one(planned, { parts, files }, onDone);
          }
        };
        await Promise.all(Array.from({ length: atATime }, lane));
      });
    }
  }

  async #one(planned: PlannedTrial, lent: Lent, onDone: OnDone): Promise<void> {
    const { trial } = planned;
    const { outcome, trainer } = await this.#persistently(trial, lent);
    const versions: Versions = { revision: this.#options.revision, trainer };
    this.#store.add(trial, outcome, versions);
    onDone(planned, outcome);
    // Lets the other lanes and signals have their turn.
    await setImmediate();
  }

  /** A trial whose connection breaks begins anew: on a machine without time to spare a socket may be closed while it is written to. */
  async #persistently(trial: Trial, lent: Lent): Promise<Computed> {
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.#run(trial, lent);
      } catch (error) {
        if (!(error instanceof ConnectionError) || attempt === ATTEMPTS) throw error;
        process.stderr.write(`${error.message}; the trial begins anew\n`);
      }
    }
  }

  async #run(trial: Trial, { parts, files }: Lent): Promise<Computed> {
    const service = await this.#serviceFor(trial.network);
    const { trainer } = trial;
    switch (trainer.kind) {
      case 'service':
        return { outcome: await service.run(trial, trainer.optimizer, parts), trainer: service.engine };
      case 'peer': {
        const peer = await this.#peerFor(trial);
        const parameters = await service.initialParameters(trial.network, trial.seed);
        const outcome = await peer.run(trial, trainer.optimizer, parameters, parts, files);
        return { outcome, trainer: `PyTorch ${peer.torch}` };
      }
    }
  }

  #serviceFor(network: Network): Promise<ServiceTrials> {
    const engine = this.#options.engine ?? engineFor(network);
    let service = this.#services.get(engine);
    if (service === undefined) {
      service = ServiceTrials.start(engine);
      this.#services.set(engine, service);
    }
    return service;
  }

  #peerFor({ onAllProcessors = false }: Trial): Promise<PeerTrials> {
    const threads = onAllProcessors ? availableParallelism() : 1;
    let peer = this.#peers.get(threads);
    if (peer === undefined) {
      peer = PeerTrials.start(threads);
      this.#peers.set(threads, peer);
    }
    return peer;
  }

  #parts(name: DataSetName): Promise<Parts> {
    let parts = this.#data.get(name);
    if (parts === undefined) {
      parts = loadParts(name);
      this.#data.set(name, parts);
    }
    return parts;
  }
}
