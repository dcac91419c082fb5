/** Limits on the update as a whole: its norm, and the change of the loss it predicts. Both scale all layers alike. */
import { elementCount } from '../../../shared/shape.ts';
import type { Engine, Tensor } from '../../tensor/engine.ts';

type Changes = readonly (readonly Tensor[])[];

/** Scales the changes so that their joint Euclidean norm is at most `maximumNorm`. */
export function clipNorm(engine: Engine, changes: Changes, maximumNorm: number): Tensor[][] {
  const { add, divide, maximum, minimum, multiply, reshape, sqrt, square, sum } = engine;
  const squares = changes.flat().map((change) => {
    const length = elementCount(change.shape);
    return sum(reshape(square(change), [length]), 0);
  });
  const norm = sqrt(squares.reduce((total, term) => add(total, term)));
  const factor = minimum(1, divide(maximumNorm, maximum(norm, SMALLEST)));
  return scaleAll(changes, (change) => multiply(change, factor));
}

/**
 * Trust region on the predicted change: scales the changes so that the decrease of the mean loss they predict to first order is
 * at most `share` of the mean loss.
 *
 * @param predicted (1/B) Σ_i of the predicted change of sample i's loss, a scalar tensor
 * @param loss mean loss, a scalar tensor
 */
export function limitPredictedDecrease(
  engine: Engine,
  changes: Changes,
  predicted: Tensor,
  loss: Tensor,
  share: number,
): Tensor[][] {
  const { divide, maximum, minimum, multiply } = engine;
  const allowed = multiply(maximum(loss, 0), share);
  const factor = minimum(1, divide(allowed, maximum(multiply(predicted, -1), SMALLEST)));
  return scaleAll(changes, (change) => multiply(change, factor));
}

function scaleAll(changes: Changes, scale: (change: Tensor) => Tensor): Tensor[][] {
  return changes.map((blocks) => blocks.map(scale));
}

/** Keeps a division finite; nothing that small is scaled down. */
const SMALLEST = 1e-30;
