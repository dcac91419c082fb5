/** Item 8 as a page: a pure function of the stored JSON. */
import { markdownTable } from '../../markdown.ts';
import type { Files, ResultsHeader } from '../item.ts';
import { COUPLINGS, type Coupling, type FeedbackResults, type RegimeResult } from '../items/feedback.ts';
import { mean, pairedDifference, sign, type Interval } from '../statistics.ts';
import { origin, percent, points } from './page.ts';

const OTHERS = ['gauss-newton-step', 'value', 'layerwise'] as const satisfies readonly Coupling[];

/** The accuracy of feedback less that of another coupling, seed by seed. */
function gain({ accuracies }: RegimeResult, other: Coupling): Interval {
  return pairedDifference(accuracies.feedback, accuracies[other]);
}

export interface Tally {
  readonly better: number;
  readonly worse: number;
  readonly undecided: number;
}

/** In how many regimes feedback is better, worse, or cannot be told from another coupling. */
export function tally(regimes: readonly RegimeResult[], other: Coupling): Tally {
  const signs = regimes.map((regime) => sign(gain(regime, other)));
  const count = (which: number): number => signs.filter((each) => each === which).length;
  return { better: count(1), worse: count(-1), undecided: count(0) };
}

export function renderFeedback(stored: ResultsHeader & FeedbackResults): Files {
  return new Map([['feedback.md', renderPage(stored)]]);
}

function renderPage(stored: ResultsHeader & FeedbackResults): string {
  const { regimes, seeds, steps, width, trainingSamples } = stored;
  const tallies = OTHERS.map((other) => {
    const { better, worse, undecided } = tally(regimes, other);
    const all = mean(regimes.map((regime) => gain(regime, other).mean));
    return [other, String(better), String(worse), String(undecided), `${all > 0 ? '+' : ''}${percent(all, 2)}`];
  });
  const rows = regimes.map((regime) => [
    `${regime.activation}, ${String(regime.layers)} layers, B = ${String(regime.batch)}, η = ${String(regime.learningRate)}`,
    ...COUPLINGS.map((coupling) => percent(mean(regime.accuracies[coupling]))),
    ...OTHERS.map((other) => points(gain(regime, other))),
  ]);
  const losses = regimes.map((regime) => [
    `${regime.activation}, ${String(regime.layers)} layers, B = ${String(regime.batch)}, η = ${String(regime.learningRate)}`,
    ...COUPLINGS.map((coupling) => lossOf(regime.losses[coupling])),
  ]);
  const chance = Math.round(0.05 * OTHERS.length * regimes.length);
  return `# What feedback is worth beyond coupling

${origin(stored)}

DIGITS, ${String(trainingSamples)} training samples, hidden layers ${String(width)} wide, ${String(steps)} steps at most, ${String(seeds.length)} seeds, default options but coupling and η. \`layerwise\` leaves every layer
by itself; \`value\` couples the layers through the value function, without a second pass; \`gauss-newton-step\` adds the linear prediction of what
the layers before change; \`feedback\` adds the second forward pass, DDPNOpt proper. The four start from the same weights and see the same batches, so
that differences are taken seed by seed; ± is half the 95 % confidence interval of the mean difference in test accuracy, in points (Student's t), bold
where it excludes 0. With ${String(OTHERS.length * regimes.length)} such intervals, about ${String(chance)} exclude 0 by chance alone.

${markdownTable(['feedback against', 'better in', 'worse in', 'not told apart in', 'mean of all regimes, points'], tallies)}

${markdownTable(['regime', ...COUPLINGS.map((coupling) => `${coupling}, %`), ...OTHERS.map((other) => `feedback − ${other}`)], rows)}

Training loss at the end, mean over the seeds that did not diverge:

${markdownTable(['regime', ...COUPLINGS], losses)}
`;
}

function lossOf(losses: readonly (number | null)[]): string {
  const finite = losses.filter((loss) => loss !== null);
  return finite.length === 0 ? 'diverged' : mean(finite).toPrecision(3);
}
