/** The default learning rate: a constant η against the leverage rule's c, over nets of different kinds, on the validation parts. */
import { optimizerSchema } from '../../../shared/optimizer.ts';
import type { Item } from '../item.ts';
import { outcomesOf, type PlannedTrial } from '../plan.ts';
import { mean } from '../statistics.ts';
import type { TrialStore } from '../store.ts';
import { denseNetwork, DIGITS, MNIST, seeds, trialOf, type Activation, type Task } from '../tasks.ts';
import type { Network, Trial } from '../trial.ts';

type Rule = 'constant' | 'leverage';

export interface Candidate {
  readonly rule: Rule;
  /** η, or the leverage rule's c. */
  readonly value: number;
  /** Steps over which η grows to it. */
  readonly warmUpSteps: number;
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
    readonly seeds: readonly number[];
  })[];
  readonly candidates: readonly CandidateScores[];
}

const HIDDEN = 32;

function digits(id: string, activation: Activation, hiddenLayers: number, epochs: number): Task {
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

/** The same net with the initial weights that PyTorch's layers have by themselves: smaller. */
function asInPyTorch(task: Task): Task {
  const { input, layers } = task.network;
  const network: Network = {
    input,
    layers: layers.map((layer) => (layer.kind === 'dense' ? { ...layer, initialization: 'fan-in-uniform' } : layer)),
  };
  return { ...task, id: `${task.id}-pytorch`, description: `${task.description}, PyTorch’s initial weights`, network };
}

/** WINE, Breast Cancer and Fashion-MNIST are left out: on them the defaults are judged. */
const TANH = digits('digits-tanh', 'tanh', 4, 5);
const RELU = digits('digits-relu', 'relu', 4, 5);
const IMAGES: Task = { ...MNIST, seeds: seeds(5, 300) };
const TASKS: readonly Task[] = [
  TANH,
  asInPyTorch(TANH),
  RELU,
  asInPyTorch(RELU),
  digits('digits-tanh-deep', 'tanh', 8, 5),
  digits('digits-sigmoid-deep', 'sigmoid', 8, 10),
  IMAGES,
  asInPyTorch(IMAGES),
];

const CANDIDATES: readonly Candidate[] = [
  ...valuesOf('constant', 0, [0.1, 0.3, 1, 3, 10, 30]),
  ...valuesOf('constant', 10, [0.3, 1, 3, 10]),
  ...valuesOf('leverage', 0, [1, 3, 10]),
  ...valuesOf('leverage', 10, [0.3, 1, 3, 10, 30]),
];

function valuesOf(rule: Rule, warmUpSteps: number, values: readonly number[]): Candidate[] {
  return values.map((value) => ({ rule, value, warmUpSteps }));
}

function trialsOf(task: Task, { rule, value, warmUpSteps }: Candidate): Trial[] {
  const optimizer = { learningRate: { kind: rule, value, warmUpSteps } };
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
          group: `${task.id} ${candidate.rule} ${String(candidate.value)} ${String(candidate.warmUpSteps)}`,
        })),
      ),
      waiting: 0,
    }),
  })),
  results: (store, complete) => {
    const tasks = TASKS.filter(({ id }) => complete.has(id));
    return {
      chosen: currentDefault(),
      tasks: tasks.map(({ id, description, batch, epochs, trainingSamples, seeds: own }) => ({
        id,
        description,
        batch,
        epochs,
        trainingSamples,
        seeds: own,
      })),
      candidates: CANDIDATES.map((candidate) => scoresOf(store, tasks, candidate)),
    };
  },
};

function currentDefault(): Candidate {
  const { learningRate } = optimizerSchema.parse({});
  if (learningRate.kind === 'constant' || learningRate.kind === 'leverage') {
    return { rule: learningRate.kind, value: learningRate.value, warmUpSteps: learningRate.warmUpSteps };
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
