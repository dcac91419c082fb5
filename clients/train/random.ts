/** Seeded randomness of training runs. */
import type { Random } from '../../shared/random.ts';

export { seededRandom } from '../../shared/random.ts';

/** 0 … size − 1 in random order (Fisher–Yates). */
export function permutation(size: number, random: Random): Uint32Array {
  const order = Uint32Array.from({ length: size }, (_, index) => index);
  for (let index = size - 1; index > 0; index--) {
    const other = Math.floor(random() * (index + 1));
    const swapped = order[index] ?? 0;
    order[index] = order[other] ?? 0;
    order[other] = swapped;
  }
  return order;
}
