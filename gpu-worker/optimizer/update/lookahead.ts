/**
 * Lookahead (Zhang, Lucas, Hinton & Ba, "Lookahead Optimizer: k steps forward, 1 step back", NeurIPS 2019): after k fast steps
 * φ ← φ + α(θ − φ) and θ ← φ. In terms of changes: the k-th one gives back (1 − α) of the sum of all k.
 */
import type { Lookahead } from '../../../shared/optimizer.ts';
import type { Engine, Tensor } from '../../tensor/engine.ts';

type Changes = readonly (readonly Tensor[])[];

/** Whether the step with this sequence number, from 0, is the last of k. */
export function synchronises({ steps }: Lookahead, step: number): boolean {
  return (step + 1) % steps === 0;
}

/**
 * @param displacement sum of the changes since the last synchronisation, per layer and block; null right after it
 * @param step sequence number of this step
 * @returns the changes to be applied, and the next displacement
 */
export function withLookahead(
  engine: Engine,
  lookahead: Lookahead,
  displacement: Changes | null,
  changes: Changes,
  step: number,
): { readonly changes: Changes; readonly displacement: Changes | null } {
  const sum =
    displacement === null ? changes : combine(changes, displacement, (change, earlier) => engine.add(earlier, change));
  if (!synchronises(lookahead, step)) return { changes, displacement: sum };
  const givenBack = 1 - lookahead.interpolation;
  return {
    changes: combine(changes, sum, (change, total) => engine.subtract(change, engine.multiply(total, givenBack))),
    displacement: null,
  };
}

function combine(left: Changes, right: Changes, apply: (left: Tensor, right: Tensor) => Tensor): Tensor[][] {
  return left.map((blocks, t) =>
    blocks.map((block, index) => {
      const other = right[t]?.[index];
      if (other === undefined) throw new RangeError(`no block ${String(index)} in layer ${String(t)}`);
      return apply(block, other);
    }),
  );
}
