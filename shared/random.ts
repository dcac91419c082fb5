/** Seeded random numbers, so that a session can be repeated. */

/** Uniform in [0, 1). */
export type Random = () => number;

/** The mulberry32 generator: a 32-bit state, plenty for initial weights, dropout masks and drawn labels. */
export function seededRandom(seed: number): Random {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** A seed of its own for every combination of whole numbers, such as (session's seed, step, layer). */
export function derivedSeed(...parts: readonly number[]): number {
  return parts.reduce((seed, part) => {
    let mixed = Math.imul((seed ^ (part >>> 0)) + 0x9e3779b9, 0x85ebca6b);
    mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2ae35);
    return (mixed ^ (mixed >>> 16)) >>> 0;
  }, 0x2545f491);
}

/** Standard normal, by the Box–Muller transform. */
export function gaussian(random: Random): number {
  // 1 − random() is in (0, 1], so the logarithm is finite.
  return Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
}

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
