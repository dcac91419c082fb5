/** How the default learning rate was chosen, as a page and a figure: pure functions of the stored JSON. */
import { renderFigure } from '../../figure.ts';
import { markdownTable } from '../../markdown.ts';
import type { Files, ResultsHeader } from '../item.ts';
import type { Candidate, CandidateScores, DefaultRateResults } from '../items/default-rate.ts';
import { mean, standardDeviation } from '../statistics.ts';
import { origin, percent } from './page.ts';

const FIGURE = 'default-rate-error.svg';
const NAMES = { constant: 'constant η', leverage: 'leverage rule, c' } as const satisfies Record<
  Candidate['rule'],
  string
>;

export function renderDefaultRate(stored: ResultsHeader & DefaultRateResults): Files {
  return new Map([
    ['default-rate.md', renderPage(stored)],
    [FIGURE, renderError(stored)],
  ]);
}

/** Over the tasks, of the mean over the seeds. */
function meanAccuracy({ tasks }: CandidateScores): number {
  return mean(tasks.map(({ accuracies }) => mean(accuracies)));
}

function bestCandidate({ candidates }: DefaultRateResults): Candidate | null {
  const ranked = candidates.toSorted((a, b) => meanAccuracy(b) - meanAccuracy(a));
  return ranked[0] ?? null;
}

function renderError({ candidates }: DefaultRateResults): string {
  return renderFigure({
    title: 'Mean validation error over the nets',
    xLabel: 'η, or c',
    yLabel: '% of the samples',
    xTicks: [...new Set(candidates.map(({ value }) => value))],
    series: [...Map.groupBy(candidates, kindOf)].map(([name, members]) => ({
      name,
      points: members.map((candidate) => [candidate.value, 100 * (1 - meanAccuracy(candidate))] as const),
    })),
  });
}

function nameOf(candidate: Candidate): string {
  return `${NAMES[candidate.rule]} = ${String(candidate.value)}${warmUpOf(candidate)}`;
}

function kindOf(candidate: Candidate): string {
  return `${NAMES[candidate.rule]}${warmUpOf(candidate)}`;
}

function warmUpOf({ warmUpSteps }: Candidate): string {
  return warmUpSteps === 0 ? '' : `, warm-up ${String(warmUpSteps)}`;
}

function renderPage(stored: ResultsHeader & DefaultRateResults): string {
  const { candidates, chosen, tasks } = stored;
  const accuracies = candidates.map((candidate) => [
    nameOf(candidate),
    ...candidate.tasks.map(
      (task) => `${percent(mean(task.accuracies))} ± ${percent(standardDeviation(task.accuracies))}`,
    ),
    percent(meanAccuracy(candidate)),
  ]);
  const losses = candidates.map((candidate) => [
    nameOf(candidate),
    ...candidate.tasks.map(({ loss }) => (loss === null ? 'diverged' : loss.toPrecision(3))),
  ]);
  const nets = tasks.map((task) => [
    task.id,
    task.description,
    String(task.batch),
    String(task.trainingSamples ?? 'all'),
    String(task.epochs),
    String(task.seeds.length),
  ]);
  const best = bestCandidate(stored);
  return `# How the default learning rate was chosen

${origin(stored)}

Which learning rate should a session have that is told nothing? Two rules were compared, all other options being the defaults: a constant η;
and the leverage rule, which takes η = c / (running average of the batch's mean leverage at η = 1), so that c has no unit; either also with a warm-up, which
lets η grow linearly over as many steps. What counts is the accuracy on
the validation part, with seeds that no other result uses. WINE, Breast Cancer and Fashion-MNIST have no say here: on them, among others, the
[defaults are judged](untuned.md).

${markdownTable(['net', 'layers, activation', 'batch', 'training samples', 'epochs', 'seeds'], nets)}

The initial weights are Glorot and Bengio's with tanh and sigmoid and He's with relu, where it does not say PyTorch's, which are smaller. The best mean is that of ${best === null ? 'none' : nameOf(best)}; the default is **${nameOf(chosen)}**. Validation accuracy in %, mean ± standard deviation over the seeds; a run that diverged counts
as 0:

${markdownTable(['learning rate', ...tasks.map(({ id }) => id), 'mean'], accuracies)}

![Mean validation error](${FIGURE})

Validation loss:

${markdownTable(['learning rate', ...tasks.map(({ id }) => id)], losses)}
`;
}
