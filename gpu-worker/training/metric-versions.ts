/** Which inverse factors a client holds: a reply repeats them only where they are old. */
import { at } from '../../shared/at.ts';
import { assertEach, type CheckedTensor } from '../../shared/checked-tensors.ts';
import { TENSOR } from '../../shared/tensor-names.ts';

/**
 * The versions that a step names, per layer; 0, for none, where it names none.
 *
 * @param newest the largest that a client can hold, per layer
 * @throws ProblemError `invalid_parameter`
 */
export function readVersions(
  tensors: ReadonlyMap<string, CheckedTensor>,
  layers: readonly unknown[],
  newest: readonly number[],
): number[] {
  const held = tensors.get(TENSOR.metricVersions);
  if (held === undefined) return layers.map(() => 0);
  assertEach(held, (value, t) => Number.isInteger(value) && value >= 0 && value <= at(newest, t), {
    code: 'invalid_parameter',
    rule: `a whole number from 0, for none, to what the last reply said, here ${newest.slice(0, 8).join(', ')}${newest.length > 8 ? ', …' : ''},`,
    remedy: `Send the ${TENSOR.metricVersions} of the inverses that you hold, or leave them out to get them all.`,
  });
  return [...held.values];
}
