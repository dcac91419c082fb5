/** The optimizers that are compared, each with the settings that it is tuned over: as many for each. */
import { optimizerSchema } from '../../shared/optimizer.ts';
import { UNWEIGHTED, type PeerOptimizer } from '../peers/peers.ts';
import { BREAST_CANCER, WINE, type Task } from './tasks.ts';
import type { ServiceOptimizer, Trainer } from './trial.ts';

export interface Setting {
  readonly learningRate: number;
  /** λ of weight decay; of E-MSA ρ. */
  readonly regularization: number;
}

export interface Optimizer {
  readonly id: string;
  readonly name: string;
  /** In half decades; a single one is not tuned. */
  readonly learningRates: readonly number[];
  /** The same and two more at either end, for the maps of sensitivity. */
  readonly widerLearningRates: readonly number[];
  readonly regularizations: readonly number[];
  /** What the regularisation is, for the reader. */
  readonly regularizer: string;
  readonly trainer: (setting: Setting, task: Task) => Trainer;
  /** Whether a step of it can be afforded on this task. */
  readonly runsOn: (task: Task) => boolean;
  /** Whether its steps take a hundred times as long as others': it is tuned with one seed, and run with half of them. */
  readonly isSlow: boolean;
}

const TUNED_RATES = 7;
const WIDER_RATES = 11;

type Rates = Pick<Optimizer, 'learningRates' | 'widerLearningRates'>;

/** @param centre in half decades from 1 */
function ratesAround(centre: number): Rates {
  return { learningRates: halfDecades(centre, TUNED_RATES), widerLearningRates: halfDecades(centre, WIDER_RATES) };
}

/** 1 and 3 of every decade. */
function halfDecades(centre: number, count: number): number[] {
  // Written out, so that 3e-3 is not 0.0030000000000000001.
  return Array.from({ length: count }, (_, index) => {
    const half = centre - (count - 1) / 2 + index;
    return Number(`${half % 2 === 0 ? '1' : '3'}e${String(Math.floor(half / 2))}`);
  });
}

/** Added to the gradient, or the running cost's gradient in the recursion. */
const PENALTY = [0, 1e-4, 1e-3];
/** Times η beside the update. */
const SCALED_DECAY = [0, 1e-2, 1e-1];
/** The share of a weight that a step takes away. */
const DECAY = [0, 1e-4, 1e-3];

const everywhere = (): boolean => true;
const isTabular = (task: Task): boolean => [WINE, BREAST_CANCER].includes(task);

type PeerSettings = (setting: Setting, task: Task) => PeerOptimizer;

function peer(
  base: Pick<Optimizer, 'id' | 'name' | 'regularizations' | 'regularizer'> &
    Partial<Pick<Optimizer, 'runsOn' | 'isSlow'>>,
  centre: number,
  settings: PeerSettings,
): Optimizer {
  return {
    runsOn: everywhere,
    isSlow: false,
    ...base,
    ...ratesAround(centre),
    trainer: (setting, task) => ({ kind: 'peer', optimizer: settings(setting, task) }),
  };
}

function inputsOf({ network: { input } }: Task): number {
  return input.reduce((product, length) => product * length, 1);
}

/** Whitened inputs are coordinates in the eigenvectors, no images that a convolution could pass over. */
function takesFeatures({ network: { input } }: Task): boolean {
  return input.length === 1;
}

/** Added to the eigenvalues, in mean eigenvalues. */
const WHITENING_DAMPING = 0.1;

export const BASELINES: readonly Optimizer[] = [
  peer(
    { id: 'sgd', name: 'SGD, momentum 0.9', regularizations: PENALTY, regularizer: 'λu added to the gradient' },
    -3,
    ({ learningRate, regularization: weightDecay }) => ({ kind: 'sgd', learningRate, weightDecay }),
  ),
  peer(
    { id: 'rmsprop', name: 'RMSprop', regularizations: PENALTY, regularizer: 'λu added to the gradient' },
    -5,
    ({ learningRate, regularization: weightDecay }) => ({ kind: 'rmsprop', learningRate, weightDecay }),
  ),
  peer(
    { id: 'adam', name: 'Adam', regularizations: SCALED_DECAY, regularizer: 'ηλu beside the update (AdamW)' },
    -4,
    ({ learningRate, regularization: weightDecay }) => ({ kind: 'adam', learningRate, weightDecay }),
  ),
  peer(
    {
      id: 'adam-whitened',
      name: 'Adam, whitened inputs',
      regularizations: SCALED_DECAY,
      regularizer: 'ηλu beside the update (AdamW)',
      runsOn: takesFeatures,
    },
    -4,
    ({ learningRate, regularization: weightDecay }, task) => ({
      kind: 'adam',
      learningRate,
      weightDecay,
      whitening: { rank: inputsOf(task), damping: WHITENING_DAMPING },
    }),
  ),
  peer(
    { id: 'muon', name: 'Muon', regularizations: SCALED_DECAY, regularizer: 'ηλu beside the update' },
    -4,
    ({ learningRate, regularization: weightDecay }) => ({ kind: 'muon', learningRate, weightDecay }),
  ),
  peer(
    { id: 'kfac', name: 'K-FAC', regularizations: SCALED_DECAY, regularizer: 'ηλu beside the update' },
    -2,
    ({ learningRate, regularization: weightDecay }) => ({
      kind: 'kfac',
      learningRate,
      weightDecay,
      lossScale: UNWEIGHTED,
    }),
  ),
  peer(
    { id: 'ekfac', name: 'EKFAC', regularizations: SCALED_DECAY, regularizer: 'ηλu beside the update' },
    -2,
    ({ learningRate, regularization: weightDecay }) => ({
      kind: 'ekfac',
      learningRate,
      weightDecay,
      lossScale: UNWEIGHTED,
    }),
  ),
];

/** Of optimal control, as the paper compares with them: for small dense nets, and with a third of the others' settings. */
export const OPTIMAL_CONTROL: readonly Optimizer[] = [
  peer(
    {
      id: 'e-msa',
      name: 'E-MSA',
      regularizations: [1],
      regularizer: 'ρ of the augmented Hamiltonian',
      runsOn: isTabular,
      isSlow: true,
    },
    -3,
    ({ learningRate, regularization: penalty }) => ({ kind: 'e-msa', learningRate, penalty, iterations: 5 }),
  ),
  peer(
    {
      id: 'vanilla-ddp',
      name: 'vanilla DDP',
      regularizations: [0],
      regularizer: 'none; η regularises Q_uu by I/η',
      runsOn: isTabular,
      isSlow: true,
    },
    -1,
    ({ learningRate }) => ({ kind: 'vanilla-ddp', learningRate }),
  ),
];

function service(
  base: Pick<Optimizer, 'id' | 'name' | 'regularizations' | 'regularizer'>,
  rates: Rates,
  settings: (setting: Setting) => ServiceOptimizer,
): Optimizer {
  return {
    ...base,
    ...rates,
    runsOn: everywhere,
    isSlow: false,
    trainer: (setting) => ({ kind: 'service', optimizer: settings(setting) }),
  };
}

type Coupling = NonNullable<ServiceOptimizer['coupling']>;

/** The paper's control metrics, each with the centre of its grid: the same with and without feedback. */
const PAPER_METRICS = {
  identity: { metric: { kind: 'identity' }, centre: -2 },
  // Its E[Q_u ⊙ Q_u], over the samples of the batch.
  rmsprop: { metric: { kind: 'rmsprop', secondMoment: 'per-sample' }, centre: -4 },
  kronecker: { metric: { kind: 'kronecker' }, centre: -3 },
} as const satisfies Record<string, { readonly metric: ServiceOptimizer['metric']; readonly centre: number }>;

/** A form of the paper's recursion: the loss gradient's outer product unweighted, decay as the running cost. */
function ofPaper(
  prefix: string,
  reading: string,
  batchCoupling: 'paper-faithful' | 'paper-averaged',
  coupling: Coupling,
): Optimizer[] {
  return Object.entries(PAPER_METRICS).map(([kind, { metric, centre }]) =>
    service(
      {
        id: `${prefix}-${kind}`,
        name: `DDPNOpt (${reading}), ${kind}`,
        regularizations: PENALTY,
        regularizer: 'running cost (λ/2)‖u‖²',
      },
      ratesAround(centre),
      ({ learningRate, regularization }) => ({
        learningRate: { kind: 'constant', value: learningRate },
        metric,
        terminalCurvature: { kind: 'gradient', lossScale: null },
        coupling,
        batchCoupling,
        weightDecay: regularization === 0 ? null : { kind: 'running-cost', rate: regularization },
      }),
    ),
  );
}

/** The paper's algorithm 3 to the letter; the same with the mean over the batch in V_x and V_xx; and without any feedback. */
export const PAPER: readonly Optimizer[] = [
  ...ofPaper('paper', 'paper', 'paper-faithful', 'feedback'),
  ...ofPaper('paper-averaged', 'paper, averaged', 'paper-averaged', 'feedback'),
  ...ofPaper('paper-plain', 'paper, without feedback', 'paper-faithful', 'layerwise'),
];

function ours(id: string, name: string, coupling: Coupling, centre: number): Optimizer {
  return service(
    { id, name, regularizations: DECAY, regularizer: 'λu beside the update' },
    ratesAround(centre),
    ({ learningRate, regularization }) => ({
      learningRate: { kind: 'constant', value: learningRate },
      coupling,
      weightDecay: regularization === 0 ? null : { kind: 'decoupled', rate: regularization },
    }),
  );
}

/** The service's batch-exact form with its default metric, curvature and batch coupling. */
export const TUNED = ours('ddpnopt', 'DDPNOpt, tuned', 'feedback', 1);

/** The same without any coupling of the layers, and so without feedback. */
export const LAYERWISE = ours('ddpnopt-layerwise', 'DDPNOpt, layerwise', 'layerwise', 1);

const DEFAULT_RATE = optimizerSchema.parse({}).learningRate;
if (DEFAULT_RATE.kind !== 'leverage') throw new Error(`the default learning rate is of kind ${DEFAULT_RATE.kind}`);

/** What a session has that is given no option. The rate is named, so that trials of another default are not taken for these. */
export const UNTUNED: Optimizer = service(
  { id: 'ddpnopt-default', name: 'DDPNOpt, defaults', regularizations: [0], regularizer: 'none' },
  { learningRates: [DEFAULT_RATE.value], widerLearningRates: [DEFAULT_RATE.value] },
  () => ({ learningRate: DEFAULT_RATE }),
);

/** Everybody, in the order of the tables. */
export const ALL: readonly Optimizer[] = [...BASELINES, ...OPTIMAL_CONTROL, ...PAPER, TUNED, UNTUNED];

/** What is tried on a task. */
export function settingsOf({ learningRates, regularizations }: Optimizer, { tunesRegularization }: Task): Setting[] {
  return learningRates.flatMap((learningRate) =>
    (tunesRegularization ? regularizations : regularizations.slice(0, 1)).map((regularization) => ({
      learningRate,
      regularization,
    })),
  );
}
