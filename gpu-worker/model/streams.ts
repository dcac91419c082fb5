/** Where a hosted session's random numbers come from: one stream for each purpose, all from the session's seed. */
import { derivedSeed, seededRandom, type Random } from '../../shared/random.ts';

const PURPOSE = { weights: 0, dropout: 1, curvature: 2 } as const;

export function weightStream(seed: number, stage: number): Random {
  return seededRandom(derivedSeed(seed, PURPOSE.weights, stage));
}

/** The same stream for both forward passes of a step, so that both drop the same features. */
export function dropoutStream(seed: number, step: number, operation: number): Random {
  return seededRandom(derivedSeed(seed, PURPOSE.dropout, step, operation));
}

/** For labels drawn from the network's own prediction. */
export function curvatureStream(seed: number, step: number): Random {
  return seededRandom(derivedSeed(seed, PURPOSE.curvature, step));
}
