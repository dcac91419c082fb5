/** Parameter groups: what a layer's name says about its learning rate and its weight decay. */
import type { Optimizer, ParameterGroup } from './optimizer.ts';

/** The group of a layer: the first whose pattern its name matches. */
export function groupOf<Group extends Pick<ParameterGroup, 'pattern'>>(
  groups: readonly Group[],
  layer: string,
): Group | undefined {
  return groups.find(({ pattern }) => matches(pattern, layer));
}

/** The factors of a layer: those of its group, else 1. */
export function groupFactors(
  groups: readonly ParameterGroup[],
  layer: string,
): Pick<ParameterGroup, 'learningRateFactor' | 'weightDecayFactor'> {
  return groupOf(groups, layer) ?? { learningRateFactor: 1, weightDecayFactor: 1 };
}

/** λ of a layer, its group's factor included; 0 without weight decay. */
export function weightDecayRate({ weightDecay, groups }: Optimizer, layer: string): number {
  return weightDecay === null ? 0 : weightDecay.rate * groupFactors(groups, layer).weightDecayFactor;
}

/** Whether a name matches a pattern in which * stands for any characters. */
function matches(pattern: string, name: string): boolean {
  const [first = '', ...rest] = pattern.split('*');
  if (rest.length === 0) return name === pattern;
  if (!name.startsWith(first)) return false;
  const last = rest.pop() ?? '';
  let position = first.length;
  for (const part of rest) {
    const found = name.indexOf(part, position);
    if (found < 0) return false;
    position = found + part.length;
  }
  return name.length - last.length >= position && name.endsWith(last);
}
