/** Item 8: what feedback is worth beyond coupling, in regimes of depth, activation, learning rate and batch. */
import type { Item, Section } from '../item.ts';
import type { PlannedTrial } from '../plan.ts';
import { outcomesOf } from '../plan.ts';
import type { TrialStore } from '../store.ts';
import { denseNetwork, DIGITS, seeds, trialOf, type Task } from '../tasks.ts';
import { finalAccuracy, type Trial } from '../trial.ts';

export const COUPLINGS = ['layerwise', 'value', 'gauss-newton-step', 'feedback'] as const;
export type Coupling = (typeof COUPLINGS)[number];

interface Regime {
  readonly activation: 'tanh' | 'relu' | 'sigmoid';
  readonly layers: number;
  readonly learningRate: number;
  readonly batch: number;
}

export interface RegimeResult extends Regime {
  /** A seed each; 0 where the training diverged. */
  readonly accuracies: Readonly<Record<Coupling, readonly number[]>>;
  /** Mean loss of the last batches; null where the training diverged. */
  readonly losses: Readonly<Record<Coupling, readonly (number | null)[]>>;
}

export interface FeedbackResults {
  readonly width: number;
  readonly trainingSamples: number;
  readonly steps: number;
  readonly seeds: readonly number[];
  readonly regimes: readonly RegimeResult[];
}

const ACTIVATIONS = ['tanh', 'relu', 'sigmoid'] as const;
const DEPTHS = [3, 8];
const LEARNING_RATES = [0.3, 30];
/** About as many steps of each batch size. */
const TRAINING_SAMPLES = 800;
const BATCHES = [
  { batch: 8, epochs: 1 },
  { batch: 64, epochs: 8 },
] as const;
const WIDTH = 16;
const SEEDS = seeds(6);
/** A tenth of the steps are what the final training loss is the mean of. */
const EVALUATIONS = 10;

interface RegimeTask {
  readonly regime: Regime;
  readonly task: Task;
}

const REGIMES: readonly RegimeTask[] = ACTIVATIONS.flatMap((activation) =>
  DEPTHS.flatMap((layers) =>
    BATCHES.flatMap(({ batch, epochs }) =>
      LEARNING_RATES.map((learningRate) => ({
        regime: { activation, layers, learningRate, batch },
        task: {
          ...DIGITS,
          id: `digits-${activation}-${String(layers)}-${String(batch)}`,
          description: '',
          trainingSamples: TRAINING_SAMPLES,
          network: denseNetwork([64, ...Array.from({ length: layers - 1 }, () => WIDTH), 10], activation),
          batch,
          epochs,
          seeds: SEEDS,
          tuningSeeds: [],
        },
      })),
    ),
  ),
);

function trialsOf({ regime, task }: RegimeTask, coupling: Coupling): Trial[] {
  const optimizer = { learningRate: { kind: 'constant', value: regime.learningRate }, coupling } as const;
  return task.seeds.map((seed) => trialOf(task, { kind: 'service', optimizer }, { seed, evaluations: EVALUATIONS }));
}

function regimesOf(activation: string): RegimeTask[] {
  return REGIMES.filter(({ regime }) => regime.activation === activation);
}

const SECTIONS = ACTIVATIONS.map((activation): Section => ({
  id: activation,
  isQuick: false,
  plan: () => ({
    trials: regimesOf(activation).flatMap((each) =>
      COUPLINGS.flatMap((coupling) =>
        trialsOf(each, coupling).map((trial): PlannedTrial => ({ trial, group: `${each.task.id} ${coupling}` })),
      ),
    ),
    waiting: 0,
  }),
}));

export const feedback: Item<FeedbackResults> = {
  id: 'feedback',
  sections: SECTIONS,
  results: (store, complete) => {
    const done = ACTIVATIONS.filter((activation) => complete.has(activation)).flatMap(regimesOf);
    return {
      width: WIDTH,
      trainingSamples: TRAINING_SAMPLES,
      steps: stepsOf(store, done),
      seeds: SEEDS,
      regimes: done.map((each) => regimeResult(store, each)),
    };
  },
};

function outcomes(store: TrialStore, each: RegimeTask, coupling: Coupling): NonNullable<ReturnType<typeof outcomesOf>> {
  const found = outcomesOf(store, trialsOf(each, coupling));
  if (found === null) throw new Error(`${each.task.id} ${coupling} has not been run`);
  return found;
}

/** Of the longest run. */
function stepsOf(store: TrialStore, regimes: readonly RegimeTask[]): number {
  const last = regimes.flatMap((each) =>
    outcomes(store, each, 'feedback').map(({ points }) => points.at(-1)?.step ?? 0),
  );
  return Math.max(...last);
}

function regimeResult(store: TrialStore, each: RegimeTask): RegimeResult {
  const byCoupling = <Value>(value: (coupling: Coupling) => Value): Record<Coupling, Value> => ({
    layerwise: value('layerwise'),
    value: value('value'),
    'gauss-newton-step': value('gauss-newton-step'),
    feedback: value('feedback'),
  });
  return {
    ...each.regime,
    accuracies: byCoupling((coupling) => outcomes(store, each, coupling).map(finalAccuracy).map(rounded)),
    losses: byCoupling((coupling) =>
      outcomes(store, each, coupling).map(({ points, validation }) => {
        const last = points.at(-1);
        return validation === null || last === undefined ? null : Number(last.trainingLoss.toPrecision(4));
      }),
    ),
  };
}

function rounded(value: number): number {
  return Number(value.toFixed(5));
}
