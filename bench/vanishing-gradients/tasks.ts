/** What is trained: deep sigmoid nets, by whom, and over which learning rates. */
import type { DdpnoptClient } from '../../clients/js/index.ts';
import { UNWEIGHTED, type PeerLoss, type PeerOptimizer, type PeerTask } from '../peers/peers.ts';

export const DATA_SETS = ['digits', 'mnist'] as const;
export type DataSetName = (typeof DATA_SETS)[number];

export const LOSSES = ['softmax-cross-entropy', 'max-mahalanobis-centre'] as const;
export type LossKind = (typeof LOSSES)[number];

export interface Budget {
  /** The first samples of the training part; null for all. */
  readonly trainingSamples: number | null;
  readonly inputs: number;
  /** Of every hidden layer. */
  readonly width: number;
  readonly depths: readonly number[];
  readonly batch: number;
  readonly epochs: number;
}

export const BUDGETS: Readonly<Record<DataSetName, Budget>> = {
  digits: { trainingSamples: null, inputs: 64, width: 32, depths: [5, 8, 12], batch: 64, epochs: 15 },
  mnist: { trainingSamples: 10_000, inputs: 784, width: 32, depths: [8], batch: 128, epochs: 4 },
};

const CLASSES = 10;

export interface Task {
  readonly dataSet: DataSetName;
  /** Hidden layers. */
  readonly depth: number;
  readonly loss: LossKind;
}

/** Sigmoid after every layer but the last; weights begin by Glorot & Bengio (2010), biases at 0. */
export function networkOf({ dataSet, depth }: Task): PeerTask['network'] {
  const { inputs, width } = BUDGETS[dataSet];
  const dense = (t: number, outputs: number) =>
    ({ kind: 'dense', name: `dense${String(t)}`, outputs, initialization: 'glorot-uniform' }) as const;
  const hidden = Array.from({ length: depth }, (_, t) => [dense(t + 1, width), { kind: 'sigmoid' } as const]);
  return { input: [inputs], layers: [...hidden.flat(), dense(depth + 1, CLASSES)] };
}

export function lossOf({ loss }: Task): PeerLoss {
  return loss === 'softmax-cross-entropy' ? { kind: loss } : { kind: loss, classes: CLASSES };
}

/** Options of the service's optimizer; what is left out is the default. */
export type ServiceOptimizer = NonNullable<Parameters<DdpnoptClient['createHostedSession']>[0]['optimizer']>;

/** A trainer at a learning rate. */
export type Optimizer =
  | { readonly kind: 'service'; readonly optimizer: ServiceOptimizer }
  | { readonly kind: 'peer'; readonly optimizer: PeerOptimizer };

export interface Contender {
  readonly id: string;
  readonly name: string;
  /** Half a decade apart, as many for each. */
  readonly learningRates: readonly number[];
  readonly at: (learningRate: number) => Optimizer;
}

function service(
  id: string,
  name: string,
  learningRates: readonly number[],
  optimizer: Omit<ServiceOptimizer, 'learningRate'>,
): Contender {
  return {
    id,
    name,
    learningRates,
    at: (value) => ({ kind: 'service', optimizer: { ...optimizer, learningRate: { kind: 'constant', value } } }),
  };
}

function peer(
  id: string,
  name: string,
  learningRates: readonly number[],
  optimizer: (learningRate: number) => PeerOptimizer,
): Contender {
  return { id, name, learningRates, at: (learningRate) => ({ kind: 'peer', optimizer: optimizer(learningRate) }) };
}

// Set by a probe on DIGITS with five hidden layers, up to a decade beyond either end.
const SGD_RATES = [0.01, 0.03, 0.1, 0.3, 1];
const ADAM_RATES = [0.001, 0.003, 0.01, 0.03, 0.1];
const KFAC_RATES = [0.01, 0.03, 0.1, 0.3, 1];
const DDPNOPT_RATES = [0.1, 0.3, 1, 3, 10];
const PAPER_RATES = [0.01, 0.03, 0.1, 0.3, 1];

export const CONTENDERS: readonly Contender[] = [
  peer('sgd', 'SGD, momentum 0.9', SGD_RATES, (learningRate) => ({ kind: 'sgd', learningRate })),
  peer('adam', 'Adam', ADAM_RATES, (learningRate) => ({ kind: 'adam', learningRate })),
  peer('kfac', 'K-FAC', KFAC_RATES, (learningRate) => ({ kind: 'kfac', learningRate, lossScale: UNWEIGHTED })),
  service('layerwise', 'DDPNOpt, layerwise', DDPNOPT_RATES, { coupling: 'layerwise' }),
  service('value', 'DDPNOpt, value', DDPNOPT_RATES, { coupling: 'value' }),
  service('feedback', 'DDPNOpt, feedback', DDPNOPT_RATES, { coupling: 'feedback' }),
  ...(['paper-faithful', 'paper-averaged'] as const).map((batchCoupling) =>
    service(batchCoupling, `DDPNOpt, ${batchCoupling}`, PAPER_RATES, {
      batchCoupling,
      terminalCurvature: { kind: 'gradient', lossScale: null },
    }),
  ),
];

/** Of the published runs; the one that chooses a learning rate is none of them. */
export const SEEDS = [0, 1, 2];
export const TUNING_SEED = 100;
