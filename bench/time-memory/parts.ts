/** What is measured: small dense nets, so that dynamic programming with dense matrices still fits. */
import type { ModelInput } from '../../shared/model.ts';
import { perceptron } from '../peers/networks.ts';
import type { PeerOptimizer } from '../peers/peers.ts';
import { LEARNING_RATE, REFRESH_EVERY } from '../engine/problem.ts';

export const PARTS = ['width', 'batch', 'depth'] as const;
export type PartName = (typeof PARTS)[number];

/** One point of a part. */
export interface Setting {
  readonly x: number;
  readonly network: ModelInput;
  readonly batch: number;
  /** Rounds of ten steps, after two that warm up. */
  readonly rounds: number;
  /** Whether DDP with dense matrices is measured, too: beyond, a step takes minutes. */
  readonly hasVanilla: boolean;
}

const CLASSES = 10;

/** As many hidden layers of that width, and as many inputs; the last layer has ten outputs. */
function net(width: number, hidden: number): ModelInput {
  return perceptron([...new Array<number>(hidden + 1).fill(width), CLASSES]);
}

const WIDTH = { hidden: 3, batch: 16 } as const;
const BATCH = { width: 32, hidden: 4 } as const;
const DEPTH = { width: 16, batch: 32 } as const;

export const DESCRIPTIONS: Readonly<Record<PartName, string>> = {
  width: `${String(WIDTH.hidden)} hidden layers and as many inputs as a layer is wide, batches of ${String(WIDTH.batch)}`,
  batch: `${String(BATCH.hidden)} hidden layers, ${String(BATCH.width)} wide`,
  depth: `Layers ${String(DEPTH.width)} wide, batches of ${String(DEPTH.batch)}`,
};

export const X_NAMES: Readonly<Record<PartName, string>> = {
  width: 'width of the layers',
  batch: 'samples in a batch',
  depth: 'hidden layers',
};

/** Fewer rounds where DDP with dense matrices takes a second or more a step. */
export function settingsOf(part: PartName, isQuick: boolean): Setting[] {
  const points: Setting[] = allSettings(part);
  return isQuick ? points.slice(0, 2).map((point) => ({ ...point, rounds: 1 })) : points;
}

function allSettings(part: PartName): Setting[] {
  switch (part) {
    case 'width':
      return [8, 16, 32, 64].map((x) => {
        const { hidden, batch } = WIDTH;
        return { x, network: net(x, hidden), batch, rounds: x === 32 ? 2 : 7, hasVanilla: x <= 32 };
      });
    case 'batch':
      return [8, 16, 32, 128].map((x) => {
        const { width, hidden } = BATCH;
        return { x, network: net(width, hidden), batch: x, rounds: x <= 32 ? 1 : 7, hasVanilla: x <= 32 };
      });
    case 'depth':
      return [2, 4, 8, 16].map((x) => {
        return { x, network: net(DEPTH.width, x), batch: DEPTH.batch, rounds: x <= 4 ? 7 : 3, hasVanilla: true };
      });
  }
}

/** Without the second derivatives of the layers, the cheaper of its forms. */
export const VANILLA: PeerOptimizer = {
  kind: 'vanilla-ddp',
  learningRate: LEARNING_RATE,
  dynamics: 'first-order',
};

const factored = { learningRate: LEARNING_RATE, refreshEvery: REFRESH_EVERY } as const;

/** In PyTorch, by name. */
export const OPTIMIZERS: readonly (readonly [name: string, optimizer: PeerOptimizer])[] = [
  ['SGD', { kind: 'sgd', learningRate: LEARNING_RATE }],
  ['RMSprop', { kind: 'rmsprop', learningRate: LEARNING_RATE }],
  ['Adam', { kind: 'adam', learningRate: LEARNING_RATE }],
  ['Muon', { kind: 'muon', learningRate: LEARNING_RATE }],
  ['K-FAC', { kind: 'kfac', ...factored }],
  ['EKFAC', { kind: 'ekfac', ...factored }],
  ['E-MSA', { kind: 'e-msa', learningRate: LEARNING_RATE }],
  ['DDPNOpt', { kind: 'ddpnopt', ...factored }],
  ['vanilla DDP', VANILLA],
];
