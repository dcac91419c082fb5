/** Momentum on the update: v ← μ v + δu, and v is applied in place of δu (Polyak, 1964). */
import type { Engine, Tensor } from '../../tensor/engine.ts';

/**
 * @param velocities per layer and block, as of the last step; null before the first
 * @returns the new velocities
 */
export function withMomentum(
  engine: Engine,
  momentum: number,
  velocities: readonly (readonly Tensor[])[] | null,
  changes: readonly (readonly Tensor[])[],
): Tensor[][] {
  return changes.map((blocks, t) =>
    blocks.map((change, block) => {
      const velocity = velocities?.[t]?.[block];
      return velocity === undefined ? change : engine.add(engine.multiply(velocity, momentum), change);
    }),
  );
}
