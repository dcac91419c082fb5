/** What the pages of the results have in common. */
import type { ResultsHeader } from '../item.ts';
import type { Interval } from '../statistics.ts';

/** Where the numbers come from, in a sentence or two. */
export function origin({ command, machine, revisions, trainers, missing }: ResultsHeader): string {
  const source = `Made by \`${command}\` at ${revisions.length === 1 ? 'revision' : 'revisions'} ${revisions.join(', ')}; ${trainers.join(', ')}; ${machine}.`;
  if (missing.length === 0) return source;
  return `${source} **Not run here**, each with \`${command}:\` and its name: ${missing.join(', ')}.`;
}

export function percent(share: number, digits = 1): string {
  return (100 * share).toFixed(digits);
}

/** In points of accuracy: mean ± half the 95 % interval; bold where the interval excludes 0. */
export function points({ mean, half }: Interval): string {
  if (Number.isNaN(half)) return 'on too few seeds to compare';
  const text = `${mean > 0 ? '+' : ''}${percent(mean)} ± ${percent(half)}`;
  return Math.abs(mean) > half ? `**${text}**` : text;
}
