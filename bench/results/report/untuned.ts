/** Item 9, and the wall-clock of item 2, as a page and figures: pure functions of the stored JSON. */
import { renderFigure } from '../../figure.ts';
import { markdownTable } from '../../markdown.ts';
import type { Files, ResultsHeader } from '../item.ts';
import {
  bestAccuracy,
  firstReaching,
  type OptimizerCurve,
  type TaskCurves,
  type UntunedResults,
} from '../items/untuned.ts';
import { origin, percent } from './page.ts';

const DEFAULTS = 'ddpnopt-default';
const OURS = [DEFAULTS, 'ddpnopt'];
/** With the defaults in runs as many curves as there are colours. */
const DRAWN = ['sgd', 'rmsprop', 'adam', 'adam-whitened', 'kfac', 'ekfac', DEFAULTS];

export interface Comparison {
  readonly baseline: string;
  /** The best mean accuracy on the way. */
  readonly best: number;
  /** Steps to it. */
  readonly own: number | null;
  /** Steps until the defaults' mean accuracy is as good; null if it never is. */
  readonly defaults: number | null;
  /** Steps until it is at most a point less. */
  readonly nearly: number | null;
  readonly millisecondsPerStep: number | null;
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
        millisecondsPerStep: baseline.millisecondsPerStep,
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
    series: pacesOf(drawn).flatMap(({ name, curve, pace }) =>
      typeof pace !== 'number'
        ? []
        : [{ name, points: curve.map(({ step, trainingLoss }) => [secondsOf(step, pace), trainingLoss] as const) }],
    ),
  });
}

interface Paced extends Pick<OptimizerCurve, 'name' | 'curve'> {
  /** Milliseconds a step. */
  readonly pace: number | null;
}

/** Those that take their batches in runs, too, stand twice. */
function pacesOf(optimizers: readonly OptimizerCurve[]): Paced[] {
  const inRuns = optimizers.flatMap(({ name, curve, millisecondsPerStepInRuns: pace }) =>
    pace === undefined ? [] : [{ name: `${name}, in runs`, curve, pace }],
  );
  return [...optimizers.map(({ name, curve, millisecondsPerStep: pace }) => ({ name, curve, pace })), ...inRuns];
}

function secondsOf(step: number, pace: number): number {
  return (step * pace) / 1000;
}

/** "never" where an accuracy is not reached; nothing where the pace is not known. */
function seconds(step: number | null, pace: number | null | undefined): string {
  if (step === null) return 'never';
  return typeof pace === 'number' ? secondsOf(step, pace).toPrecision(2) : '';
}

function renderPage(stored: ResultsHeader & UntunedResults): string {
  return `# Defaults that nobody tuned

${origin(stored)}

A session of the service with no option given, against each baseline at the setting that [its tuning](accuracy.md) chose: the steps and
the seconds until the mean test accuracy is as good as the best that the baseline reaches on the way. Means over the seeds on which the
training did not diverge, at the evaluations of each run; where the defaults never reach it the table says so. The seconds are those of steps, from
trials that took turns and had the machine to themselves, the median pace of them; other machines' work may have slowed some, so that only
ratios within a table mean anything, and large ones. Of DDPNOpt they include what its requests take over HTTP: one a step, with its batch, or, "in
runs", [a data set that is sent once](../guide.md#many-steps-in-one-call), which they include as well, and one request for the steps between two
evaluations. On the small dense nets a step is mostly overhead: of its request, and of starting many operations on small matrices ([what it
costs without HTTP](engine.md); [seconds without HTTP on larger nets](training-time.md)). PyTorch has as many processors as the service, one where
that computes in WebAssembly; on dense nets, where two may be slower, the better of one and all.
${stored.tasks.map(renderTask).join('')}`;
}

function renderTask(task: TaskCurves): string {
  const { id, description, batch, hadSay, evaluations, seeds, timedSeeds, optimizers } = task;
  const defaults = optimizers.find((optimizer) => optimizer.id === DEFAULTS);
  const rows = comparisons(task).map(({ baseline, best, own, defaults: reached, nearly, millisecondsPerStep }) => [
    baseline,
    percent(best),
    own === null ? '' : String(own),
    reached === null ? 'never' : String(reached),
    nearly === null ? 'never' : String(nearly),
    seconds(own, millisecondsPerStep),
    seconds(reached, defaults?.millisecondsPerStep),
    seconds(reached, defaults?.millisecondsPerStepInRuns),
  ]);
  const paces = pacesOf(optimizers).map(({ name, pace }) => [name, pace?.toPrecision(3) ?? 'diverged']);
  const lost = optimizers.filter(({ diverged }) => diverged > 0);
  const losses = lost.map(
    ({ name, diverged }) => `${name} diverged on ${String(diverged)} of the ${String(seeds.length)} seeds.`,
  );
  const say = hadSay
    ? 'The defaults were chosen in trials on this data set, among others.'
    : 'No default was chosen on this data set.';
  return `
## ${id}

Network ${description}; batches of ${String(batch)}; ${String(seeds.length)} seeds, timed on ${timedSeeds.length === 1 ? 'another one' : `${String(timedSeeds.length)} others`}; ${String(evaluations)} evaluations. ${say}
The defaults' best is ${defaults === undefined ? 'not known' : `${percent(bestAccuracy(defaults))} %`}.${losses.length === 0 ? '' : ` ${losses.join(' ')}`}

${markdownTable(['baseline, tuned', 'its best, %', 'its steps', "defaults' steps", 'to a point less', 'its seconds', "defaults' seconds", 'in runs'], rows)}

${markdownTable(['optimizer', 'ms / step'], paces)}

![Training loss against seconds](${figureOf(task)})
`;
}
