/** The contenders with their options. What is not stated is the default. */
import type { Engine } from '../../gpu-worker/tensor/engine.ts';
import { hostedContender, peerContender, type Contender, type RunOptions } from './contenders.ts';
import type { Task } from './task.ts';
import type { Whitening } from './whitening.ts';

const whitened = ({ rank }: Task): Whitening => ({ rank, damping: 1 });
const raw = (): null => null;

/** Statistics and refresh of the fast recipe. */
const SPARSE = { statisticsEvery: 5, refreshEvery: 25, damping: 1e-3 } as const;

function fast({ learningRate, steps }: RunOptions, metric: object, more: object = {}): object {
  return {
    learningRate: { kind: 'cosine', value: learningRate, steps },
    metric: { kind: 'kronecker', ...SPARSE, ...metric },
    terminalCurvature: { kind: 'gradient', lossScale: { floor: 0.1 } },
    coupling: 'value',
    batchCoupling: 'diagonal',
    ...more,
  };
}

const RATES = [0.1, 0.3, 1, 3, 10];
const ADAM_RATES = [3e-4, 1e-3, 2e-3, 4e-3, 8e-3];
const KFAC_RATES = [0.01, 0.03, 0.1, 0.3, 1];

export function lineUp(engine: Engine): Contender[] {
  const frozen = ({ rank }: Task): object => ({ firstInputFactor: { kind: 'frozen', rank, damping: 1, batches: 20 } });
  return [
    peerContender({ id: 'adam', name: 'Adam, PyTorch', learningRates: ADAM_RATES }, (_, { learningRate, steps }) => ({
      kind: 'adam',
      learningRate,
      cosineSteps: steps,
    })),
    peerContender(
      { id: 'adam-whitened', name: 'Adam on whitened inputs, PyTorch', learningRates: ADAM_RATES },
      (task, { learningRate, steps }) => ({
        kind: 'adam',
        learningRate,
        cosineSteps: steps,
        whitening: whitened(task),
      }),
    ),
    peerContender({ id: 'kfac', name: 'K-FAC, PyTorch', learningRates: KFAC_RATES }, (_, { learningRate, steps }) => ({
      kind: 'kfac',
      learningRate,
      cosineSteps: steps,
    })),
    peerContender(
      {
        id: 'kfac-whitened',
        name: 'K-FAC on whitened inputs, factors now and then, PyTorch',
        learningRates: KFAC_RATES,
      },
      (task, { learningRate, steps }) => ({
        kind: 'kfac',
        learningRate,
        cosineSteps: steps,
        whitening: whitened(task),
        statisticsEvery: SPARSE.statisticsEvery,
        refreshEvery: SPARSE.refreshEvery,
      }),
    ),
    hostedContender(engine, { id: 'default', name: 'DDPNOpt, defaults', learningRates: [10] }, () => ({}), raw),
    hostedContender(
      engine,
      { id: 'fast', name: 'DDPNOpt, fast', learningRates: RATES },
      (task, options) => fast(options, frozen(task)),
      raw,
    ),
    hostedContender(
      engine,
      { id: 'fast-full', name: 'DDPNOpt, fast, full batch coupling', learningRates: RATES },
      (task, options) => fast(options, frozen(task), { batchCoupling: 'full' }),
      raw,
    ),
    hostedContender(
      engine,
      { id: 'fast-whitened', name: 'DDPNOpt, fast, on whitened inputs', learningRates: RATES },
      (_, options) => fast(options, {}),
      whitened,
    ),
  ];
}
