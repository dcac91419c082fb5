/** How many samples a classifier gets right. */
import type { LabelledData } from '../clients/datasets/digits/digits.ts';

/** @param outputs the logits, [size, classes] */
export function countRight(outputs: ArrayLike<number>, { size, classes, labels }: LabelledData): number {
  let right = 0;
  for (let i = 0; i < size; i++) {
    let best = 0;
    for (let c = 1; c < classes; c++) {
      if ((outputs[i * classes + c] ?? 0) > (outputs[i * classes + best] ?? 0)) best = c;
    }
    if (best === labels[i]) right++;
  }
  return right;
}
