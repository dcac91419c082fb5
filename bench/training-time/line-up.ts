/** The contenders with their options. What is not stated is the default. */
import type { Engine } from '../../gpu-worker/tensor/engine.ts';
import { hostedContender, peerContender, type Contender, type RunOptions } from './contenders.ts';
import type { Task } from './task.ts';
import type { Whitening } from './whitening.ts';

/** Of damping 1 and 10 the better one on MNIST's validation part, for Adam as for DDPNOpt. */
const WHITENING_DAMPING = 10;
/** Statistics and refresh of the fast recipe. */
const SPARSE = { statisticsEvery: 5, refreshEvery: 25 } as const;

// Five each, around what is best. K-FAC diverges, on most tasks between the last two.
const ADAM_RATES = [1e-3, 2e-3, 4e-3, 8e-3, 16e-3];
const WHITENED_ADAM_RATES = [2e-3, 4e-3, 8e-3, 16e-3, 32e-3];
const KFAC_RATES = [0.01, 0.02, 0.04, 0.08, 0.16];
const DDPNOPT_RATES = [0.01, 0.03, 0.1, 0.3, 1];

const whitened = ({ rank }: Task): Whitening => ({ rank, damping: WHITENING_DAMPING });
const raw = (): null => null;
const frozen = ({ rank }: Task): object => ({ firstInputFactor: { kind: 'frozen', rank } });

function fast({ learningRate, steps }: RunOptions, metric: object, coupling: object): object {
  return {
    learningRate: { kind: 'cosine', value: learningRate, steps },
    metric: { kind: 'kronecker', damping: 1e-3, ...SPARSE, ...metric },
    ...coupling,
  };
}

const DIAGONAL = { coupling: 'value', batchCoupling: 'diagonal' } as const;
const FULL = { coupling: 'feedback', batchCoupling: 'full' } as const;

export function lineUp(engine: Engine): Contender[] {
  return [
    peerContender(
      { id: 'adam', name: 'Adam', learningRates: ADAM_RATES, isBaseline: true },
      (_, { learningRate, steps }) => ({
        kind: 'adam',
        learningRate,
        cosineSteps: steps,
      }),
    ),
    peerContender(
      { id: 'adam-whitened', name: 'Adam, whitened inputs', learningRates: WHITENED_ADAM_RATES, isBaseline: true },
      (task, { learningRate, steps }) => ({
        kind: 'adam',
        learningRate,
        cosineSteps: steps,
        whitening: whitened(task),
      }),
    ),
    peerContender(
      { id: 'kfac', name: 'K-FAC', learningRates: KFAC_RATES, isBaseline: false },
      (_, { learningRate, steps }) => ({
        kind: 'kfac',
        learningRate,
        cosineSteps: steps,
      }),
    ),
    peerContender(
      { id: 'kfac-whitened', name: 'K-FAC, whitened inputs, sparse', learningRates: KFAC_RATES, isBaseline: false },
      (task, { learningRate, steps }) => ({
        kind: 'kfac',
        learningRate,
        cosineSteps: steps,
        whitening: whitened(task),
        ...SPARSE,
      }),
    ),
    hostedContender(
      engine,
      { id: 'default', name: 'DDPNOpt, η = 10', learningRates: [10] },
      (_task, { learningRate: value }) => ({ learningRate: { kind: 'constant', value } }),
      raw,
    ),
    hostedContender(
      engine,
      { id: 'fast', name: 'DDPNOpt, fast', learningRates: DDPNOPT_RATES },
      (task, options) => fast(options, frozen(task), DIAGONAL),
      raw,
    ),
    hostedContender(
      engine,
      { id: 'fast-full', name: 'DDPNOpt, fast, coupled in full', learningRates: DDPNOPT_RATES },
      (task, options) => fast(options, frozen(task), FULL),
      raw,
    ),
    hostedContender(
      engine,
      { id: 'fast-whitened', name: 'DDPNOpt, fast, whitened inputs', learningRates: DDPNOPT_RATES },
      (_, options) => fast(options, {}, DIAGONAL),
      whitened,
    ),
  ];
}
