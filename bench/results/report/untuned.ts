/** Item 9, and the wall-clock of item 2, as a page and figures: pure functions of the stored JSON. */
import { renderFigure } from '../../figure.ts';
import { markdownTable } from '../../markdown.ts';
import type { Files, ResultsHeader } from '../item.ts';
import { bestAccuracy, firstReaching, type Reached, type TaskCurves, type UntunedResults } from '../items/untuned.ts';
import { origin, percent } from './page.ts';

const DEFAULTS = 'ddpnopt-default';
const OURS = [DEFAULTS, 'ddpnopt'];
/** With the defaults in runs as many curves as there are colours. */
const DRAWN = ['sgd', 'rmsprop', 'adam', 'adam-whitened', 'kfac', 'ekfac', DEFAULTS];

export interface Comparison {
  readonly baseline: string;
  /** The best mean accuracy on the way. */
  readonly best: number;
  readonly own: Reached | null;
  /** When the defaults' mean accuracy is as good; null if it never is. */
  readonly defaults: Reached | null;
  /** When it is at most a point less. */
  readonly nearly: Reached | null;
}

const POINT = 0.01;

export function comparisons({ optimizers }: TaskCurves): Comparison[] {
  const defaults = optimizers.find(({ id }) => id === DEFAULTS);
  return optimizers
    .filter(({ id }) => !OURS.includes(id))
    .map((baseline) => {
      const best = bestAccuracy(baseline);
      return {
        baseline: baseline.name,
        best,
        own: firstReaching(baseline, best),
        defaults: defaults === undefined ? null : firstReaching(defaults, best),
        nearly: defaults === undefined ? null : firstReaching(defaults, best - POINT),
      };
    });
}

export function renderUntuned(stored: ResultsHeader & UntunedResults): Files {
  const figures = stored.tasks.map((task): [string, string] => [figureOf(task), renderSeconds(task)]);
  return new Map([['untuned.md', renderPage(stored)], ...figures]);
}

function figureOf({ id }: TaskCurves): string {
  return `untuned-${id}-seconds.svg`;
}

function renderSeconds({ id, optimizers }: TaskCurves): string {
  const drawn = optimizers.filter((optimizer) => DRAWN.includes(optimizer.id));
  return renderFigure({
    title: `${id}: training loss against seconds`,
    xLabel: 'seconds of training, HTTP included for DDPNOpt',
    yLabel: 'mean loss of the batches since the point before',
    series: [
      ...drawn.map(({ name, curve }) => ({
        name,
        points: curve.map(({ seconds, trainingLoss }) => [seconds, trainingLoss] as const),
      })),
      ...drawn.flatMap(({ name, millisecondsPerStepInRuns: pace, curve }) =>
        pace === null
          ? []
          : [
              {
                name: `${name}, in runs`,
                points: curve.map(({ step, trainingLoss }) => [(pace * step) / 1000, trainingLoss] as const),
              },
            ],
      ),
    ],
  });
}

function renderPage(stored: ResultsHeader & UntunedResults): string {
  return `# Defaults that nobody tuned

${origin(stored)}

A session of the service with no option given, against each baseline at the setting that [its tuning](accuracy.md) chose: the steps and
the seconds until the mean test accuracy is as good as the best that the baseline reaches on the way. Means over the seeds, at the
evaluations of each run; where the defaults never reach it the table says so. The seconds are those of steps, from runs that took turns, the
median pace of them; the machine may have had other work meanwhile, and trials that were added later took no turns, so that only ratios within
a table mean anything, and large ones. Of DDPNOpt they include what its requests take over HTTP: one a step, or, "in runs", one for the steps between two evaluations, which the service
takes by itself from [a data set that it was sent before](../guide.md#many-steps-in-one-call). On the small dense nets a step is mostly
overhead: of its request, and of starting many operations on small matrices ([what it costs without HTTP](engine.md); [seconds without HTTP on larger
nets](training-time.md)). PyTorch has one thread on dense nets, so small that more would slow it, and every processor on convolutional ones.
${stored.tasks.map(renderTask).join('')}`;
}

function renderTask(task: TaskCurves): string {
  const { id, description, batch, hadSay, evaluations, seeds, timedSeeds, optimizers } = task;
  const defaults = optimizers.find((optimizer) => optimizer.id === DEFAULTS);
  const rows = comparisons(task).map(({ baseline, best, own, defaults: reached, nearly }) => [
    baseline,
    percent(best),
    own === null ? '' : String(own.step),
    reached === null ? 'never' : String(reached.step),
    nearly === null ? 'never' : String(nearly.step),
    own === null ? '' : own.seconds.toPrecision(2),
    reached === null ? 'never' : reached.seconds.toPrecision(2),
    reached === null
      ? 'never'
      : ((reached.step * (defaults?.millisecondsPerStepInRuns ?? Number.NaN)) / 1000).toPrecision(2),
  ]);
  const paces = optimizers.flatMap(({ name, millisecondsPerStep, millisecondsPerStepInRuns }) => [
    [name, millisecondsPerStep.toPrecision(3)],
    ...(millisecondsPerStepInRuns === null ? [] : [[`${name}, in runs`, millisecondsPerStepInRuns.toPrecision(3)]]),
  ]);
  const say = hadSay
    ? 'The defaults were chosen in trials on this data set, among others.'
    : 'No default was chosen on this data set.';
  return `
## ${id}

Network ${description}; batches of ${String(batch)}; ${String(seeds.length)} seeds, timed on ${String(timedSeeds.length)}; ${String(evaluations)} evaluations. ${say}
The defaults' best is ${defaults === undefined ? 'not known' : `${percent(bestAccuracy(defaults))} %`}.

${markdownTable(['baseline, tuned', 'its best, %', 'its steps', "defaults' steps", 'to a point less', 'its seconds', "defaults' seconds", 'in runs'], rows)}

${markdownTable(['optimizer', 'ms / step'], paces)}

![Training loss against seconds](${figureOf(task)})
`;
}
