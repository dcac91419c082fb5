/** The default learning rate: a constant η against the leverage rule's c, over nets of different kinds, on the validation parts. */
import { optimizerSchema } from '../../../shared/optimizer.ts';
import type { Item } from '../item.ts';
import { outcomesOf, type PlannedTrial } from '../plan.ts';
import { mean } from '../statistics.ts';
import type { TrialStore } from '../store.ts';
import { denseNetwork, DIGITS, MNIST, seeds, trialOf, type Task } from '../tasks.ts';
import type { Trial } from '../trial.ts';

export const RULES = ['constant', 'leverage'] as const;
type Rule = (typeof RULES)[number];

export interface Candidate {
  readonly rule: Rule;
  /** η, or the leverage rule's c. */
  readonly value: number;
}

export interface CandidateScores extends Candidate {
  readonly tasks: readonly {
    readonly id: string;
    /** On the validation part, a seed each; 0 where the training diverged. */
    readonly accuracies: readonly number[];
    /** Mean loss there, over the seeds that did not diverge; null if all did. */
    readonly loss: number | null;
  }[];
}

export interface DefaultRateResults {
  /** The default of the service, as this was written. */
  readonly chosen: Candidate;
  readonly tasks: readonly (Pick<Task, 'id' | 'description' | 'batch' | 'epochs' | 'trainingSamples'> & {
    readonly seeds: number;
  })[];
  readonly candidates: readonly CandidateScores[];
}

const HIDDEN = 32;

function digits(id: string, activation: 'tanh' | 'relu' | 'sigmoid', hiddenLayers: number, epochs: number): Task {
  const widths = [...Array.from({ length: hiddenLayers }, () => HIDDEN), 10];
  return {
    ...DIGITS,
    id,
    description: `${widths.join('-')}, ${activation}`,
    network: denseNetwork([64, ...widths], activation),
    epochs,
    seeds: seeds(10, 300),
  };
}

/** WINE, Breast Cancer and Fashion-MNIST are left out: on them the defaults are judged. */
const TASKS: readonly Task[] = [
  digits('digits-tanh', 'tanh', 4, 5),
  digits('digits-relu', 'relu', 4, 5),
  digits('digits-tanh-deep', 'tanh', 8, 5),
  digits('digits-sigmoid-deep', 'sigmoid', 8, 10),
  { ...MNIST, seeds: seeds(5, 300) },
];

const VALUES = [0.1, 0.3, 1, 3, 10, 30];
const CANDIDATES: readonly Candidate[] = RULES.flatMap((rule) => VALUES.map((value) => ({ rule, value })));

function trialsOf(task: Task, { rule, value }: Candidate): Trial[] {
  const optimizer = { learningRate: { kind: rule, value } } as const;
  return task.seeds.map((seed) => trialOf(task, { kind: 'service', optimizer }, { seed, evaluations: 1 }));
}

export const defaultRate: Item<DefaultRateResults> = {
  id: 'default-rate',
  sections: TASKS.map((task) => ({
    id: task.id,
    isQuick: false,
    plan: () => ({
      trials: CANDIDATES.flatMap((candidate) =>
        trialsOf(task, candidate).map((trial): PlannedTrial => ({
          trial,
          group: `${task.id} ${candidate.rule} ${String(candidate.value)}`,
        })),
      ),
      waiting: 0,
    }),
  })),
  results: (store, complete) => {
    const tasks = TASKS.filter(({ id }) => complete.has(id));
    return {
      chosen: currentDefault(),
      tasks: tasks.map(({ id, description, batch, epochs, trainingSamples, seeds: { length } }) => ({
        id,
        description,
        batch,
        epochs,
        trainingSamples,
        seeds: length,
      })),
      candidates: CANDIDATES.map((candidate) => scoresOf(store, tasks, candidate)),
    };
  },
};

function currentDefault(): Candidate {
  const { learningRate } = optimizerSchema.parse({});
  if (learningRate.kind === 'constant' || learningRate.kind === 'leverage') {
    return { rule: learningRate.kind, value: learningRate.value };
  }
  throw new Error(`the default learning rate is ${learningRate.kind}, which this item does not compare`);
}

function scoresOf(store: TrialStore, tasks: readonly Task[], candidate: Candidate): CandidateScores {
  return {
    ...candidate,
    tasks: tasks.map((task) => {
      const outcomes = outcomesOf(store, trialsOf(task, candidate));
      if (outcomes === null) throw new Error(`${task.id} has not been run`);
      const losses = outcomes.flatMap(({ validation }) => (validation === null ? [] : [validation.loss]));
      return {
        id: task.id,
        accuracies: outcomes.map(({ validation }) => Number((validation?.accuracy ?? 0).toFixed(5))),
        loss: losses.length === 0 ? null : Number(mean(losses).toPrecision(4)),
      };
    }),
  };
}
