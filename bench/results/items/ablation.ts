/** Item 5: metric × terminal curvature × coupling × batch coupling, and the paper's own recursion, each at its best η. */
import type { Item } from '../item.ts';
import type { Optimizer } from '../optimizers.ts';
import { choose, chosenTrials, outcomesOf, tunedPlan } from '../plan.ts';
import type { TrialStore } from '../store.ts';
import { DIGITS, seeds, type Task } from '../tasks.ts';
import { finalAccuracy, type ServiceOptimizer } from '../trial.ts';

type BatchCoupling = NonNullable<ServiceOptimizer['batchCoupling']>;

export interface AblationRow {
  readonly metric: string;
  readonly curvature: string;
  readonly coupling: string;
  readonly batchCoupling: BatchCoupling;
  readonly learningRate: number;
  /** On the test part, a seed each; 0 where the training diverged. */
  readonly accuracies: readonly number[];
}

export interface AblationResults {
  readonly description: string;
  readonly batch: number;
  readonly epochs: number;
  readonly seeds: readonly number[];
  readonly tuningSeeds: readonly number[];
  readonly learningRates: Readonly<Record<string, readonly number[]>>;
  readonly rows: readonly AblationRow[];
}

/** Fewer epochs than item 1's: there are a hundred combinations, and as many learning rates for each. */
const TASK: Task = { ...DIGITS, epochs: 3, seeds: seeds(3), tuningSeeds: seeds(1, 100) };

/** Decades, around what is good for the metric. */
const LEARNING_RATES = {
  identity: [0.03, 0.3, 3, 30],
  rmsprop: [1e-3, 1e-2, 0.1, 1],
  kronecker: [0.03, 0.3, 3, 30],
  ekfac: [0.03, 0.3, 3, 30],
} as const;
type Metric = keyof typeof LEARNING_RATES;
const METRICS = ['kronecker', 'identity', 'rmsprop', 'ekfac'] as const satisfies readonly Metric[];

const CURVATURES = {
  'gradient, h by the loss': { kind: 'gradient' },
  'gradient, h = 1': { kind: 'gradient', lossScale: null },
  'gauss-newton': { kind: 'gauss-newton', columns: 10 },
  'sampled-fisher': { kind: 'sampled-fisher' },
} as const satisfies Record<string, ServiceOptimizer['terminalCurvature']>;
type Curvature = keyof typeof CURVATURES;

interface Combination {
  readonly metric: Metric;
  readonly curvature: Curvature;
  readonly coupling: NonNullable<ServiceOptimizer['coupling']>;
  readonly batchCoupling: BatchCoupling;
}

const COUPLINGS = ['layerwise', 'value', 'gauss-newton-step', 'feedback'] as const;
const FULL: readonly Curvature[] = ['gradient, h by the loss', 'gradient, h = 1', 'gauss-newton', 'sampled-fisher'];
/** The diagonal and the paper's recursions take the gradient's outer product alone. */
const DIAGONAL: readonly Curvature[] = ['gradient, h by the loss', 'gradient, h = 1'];

function combinationsOf(metric: Metric): Combination[] {
  const over = (curvatures: readonly Curvature[], batchCoupling: BatchCoupling): Combination[] =>
    curvatures.flatMap((curvature) => COUPLINGS.map((coupling) => ({ metric, curvature, coupling, batchCoupling })));
  return [
    ...over(FULL, 'full'),
    ...over(DIAGONAL, 'diagonal'),
    ...(['paper-faithful', 'paper-averaged'] as const).map((batchCoupling): Combination => {
      return { metric, curvature: 'gradient, h = 1', coupling: 'feedback', batchCoupling };
    }),
  ];
}

function optimizerOf({ metric, curvature, coupling, batchCoupling }: Combination): Optimizer {
  const learningRates = LEARNING_RATES[metric];
  return {
    id: [metric, curvature, coupling, batchCoupling].join(' '),
    name: '',
    learningRates,
    widerLearningRates: learningRates,
    regularizations: [0],
    regularizer: 'none',
    runsOn: () => true,
    isSlow: false,
    trainer: ({ learningRate }) => ({
      kind: 'service',
      optimizer: {
        learningRate: { kind: 'constant', value: learningRate },
        metric: { kind: metric },
        terminalCurvature: CURVATURES[curvature],
        coupling,
        batchCoupling,
      },
    }),
  };
}

interface Part {
  readonly id: string;
  readonly combinations: readonly Combination[];
}

/** Gauss–Newton's ten columns make ten times as many rows, and a step as much longer: a part of its own. */
const PARTS: readonly Part[] = METRICS.flatMap((metric) => {
  const isSlow = ({ curvature }: Combination): boolean => curvature === 'gauss-newton';
  const all = combinationsOf(metric);
  return [
    { id: metric, combinations: all.filter((each) => !isSlow(each)) },
    { id: `${metric}-gauss-newton`, combinations: all.filter(isSlow) },
  ];
});

export const ablation: Item<AblationResults> = {
  id: 'ablation',
  sections: PARTS.map(({ id, combinations }) => ({
    id,
    isQuick: false,
    plan: (store) => tunedPlan(store, TASK, combinations.map(optimizerOf)),
  })),
  results: (store, complete) => ({
    description: TASK.description,
    batch: TASK.batch,
    epochs: TASK.epochs,
    seeds: TASK.seeds,
    tuningSeeds: TASK.tuningSeeds,
    learningRates: LEARNING_RATES,
    rows: PARTS.filter(({ id }) => complete.has(id)).flatMap(({ combinations }) =>
      combinations.map((combination) => rowOf(store, combination)),
    ),
  }),
};

function rowOf(store: TrialStore, combination: Combination): AblationRow {
  const optimizer = optimizerOf(combination);
  const setting = choose(store, TASK, optimizer);
  const trials = chosenTrials(store, TASK, optimizer);
  const outcomes = trials === null ? null : outcomesOf(store, trials);
  if (setting === null || outcomes === null) throw new Error(`${optimizer.id} has not been run`);
  return { ...combination, learningRate: setting.learningRate, accuracies: outcomes.map(finalAccuracy) };
}
