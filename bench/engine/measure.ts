/** Steps of several contenders on one problem, in rounds in which they take turns. */
import type { Contender } from './contender.ts';
import { REFRESH_EVERY, type Problem } from './problem.ts';
import { at } from '../../shared/at.ts';
import { median } from '../median.ts';

/** Rounds before the first that counts: our first refresh after the first step makes a graph, too. */
const WARM_UP_ROUNDS = 2;

/** Order of the product that is timed between the rounds. */
export const PRODUCT_ORDER = 1024;

export interface Timing {
  readonly name: string;
  /** Median milliseconds of a step that refreshes nothing. */
  readonly step: number;
  /** Median milliseconds of a step that refreshes the factorisations. */
  readonly refreshStep: number;
  /** Mean over the steps of a round, of each the median over the rounds. */
  readonly mean: number;
  /** Median rate of a large product, operations a second. */
  readonly peak: number;
}

/**
 * A round is a refresh and the steps up to the next.
 *
 * @param report hears of every round
 */
export async function measureInTurns(
  task: Problem,
  contenders: readonly Contender[],
  rounds: number,
  report: (text: string) => void,
): Promise<Timing[]> {
  const entries = [];
  for (const contender of contenders) {
    const runner = await contender.prepare(task);
    entries.push({ contender, runner, rounds: [] as (readonly number[])[], peaks: [] as number[] });
  }
  for (let round = 1 - WARM_UP_ROUNDS; round <= rounds; round++) {
    for (const { runner, rounds: measured, peaks } of entries) {
      const milliseconds = await runner.round();
      // Between the steps, so that whatever else the machine does meets both.
      const peak = await runner.peak(PRODUCT_ORDER);
      if (round < 1) continue;
      measured.push(milliseconds);
      peaks.push(peak);
    }
    report(`${task.name}: ${round < 1 ? 'warming up' : `round ${String(round)} of ${String(rounds)}`}`);
  }
  for (const { runner } of entries) await runner.stop();
  return entries.map(({ contender: { name }, rounds: measured, peaks }): Timing => {
    const medians = Array.from({ length: REFRESH_EVERY }, (_, index) =>
      median(measured.map((round) => at(round, index))),
    );
    return {
      name,
      step: median(measured.flatMap((round) => round.slice(1))),
      refreshStep: at(medians, 0),
      mean: medians.reduce((sum, each) => sum + each, 0) / REFRESH_EVERY,
      peak: median(peaks),
    };
  });
}
