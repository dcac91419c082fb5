/** What a session and a step take, so that neither can ask for more than a worker can give. */
import type { Layer } from './layer.ts';
import type { Optimizer } from './optimizer.ts';

/** Orders n and c of the two Kronecker factors of a layer, the bias counted as an input. */
function factorOrders({ inputs, outputs, bias }: Layer): readonly [number, number] {
  return [bias ? inputs + 1 : inputs, outputs];
}

/** Bytes of a session's state: two factors and their two inverses per layer, in float32. */
export function stateBytes({ layers, optimizer }: { layers: readonly Layer[]; optimizer: Optimizer }): number {
  if (optimizer.metric.kind !== 'kronecker') return 0;
  return layers.reduce((sum, layer) => {
    const [n, c] = factorOrders(layer);
    return sum + 4 * 2 * (n ** 2 + c ** 2);
  }, 0);
}

/** Multiply-adds of one refresh of the metric, up to a factor: Σ n³ + c³. */
export function refreshWork({ layers, optimizer }: { layers: readonly Layer[]; optimizer: Optimizer }): number {
  if (optimizer.metric.kind !== 'kronecker') return 0;
  return layers.reduce((sum, layer) => {
    const [n, c] = factorOrders(layer);
    return sum + n ** 3 + c ** 3;
  }, 0);
}

/** Multiply-adds of the batch's factorisations in one step, up to a factor: L·B³. */
export function batchWork(layers: number, batch: number): number {
  return layers * batch ** 3;
}

/** Bytes of the batch's factors in one reply: L·B² in float32. */
export function batchFactorBytes(layers: number, batch: number): number {
  return 4 * layers * batch ** 2;
}
