/** Dropout (Srivastava et al., 2014), scaled in training so that evaluation is the identity. */
import { elementCount } from '../../shared/shape.ts';
import type { Random } from '../../shared/random.ts';
import type { Engine, Tensor } from '../tensor/engine.ts';
import { timesPerSample, type Differentiable } from './pullback.ts';

export function dropout(engine: Engine, rate: number, random: Random, x: Tensor): Differentiable {
  const size = elementCount(x.shape);
  const kept = Float32Array.from({ length: size }, () => (random() < rate ? 0 : 1 / (1 - rate)));
  const mask = engine.tensor(kept, x.shape);
  return { value: engine.multiply(x, mask), pullback: (rows) => timesPerSample(engine, rows, mask) };
}
