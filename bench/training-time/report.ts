/** The results as Markdown and figures: pure functions of the stored JSON, which a test holds the page to. */
import { markdownTable } from '../markdown.ts';
import type { Provenance } from '../provenance.ts';
import { renderFigure } from '../figure.ts';
import type { Point, Tuning } from './measure.ts';

/** Runs of one contender with one budget. */
export interface BudgetResult {
  readonly epochs: number;
  /** Test curves, one a seed; shorter where the training diverged. */
  readonly curves: readonly (readonly Point[])[];
}

export interface ContenderResult {
  readonly id: string;
  readonly name: string;
  readonly tuning: Tuning;
  readonly budgets: readonly BudgetResult[];
}

export interface TaskResult {
  readonly dataSet: string;
  readonly widths: string;
  readonly batch: number;
  readonly trainingSamples: number;
  readonly tuningBudget: number;
  readonly contenders: readonly ContenderResult[];
}

export interface TrainingTimeResults extends Omit<Provenance, 'engine'> {
  readonly command: string;
  readonly seeds: readonly number[];
  readonly torch: string;
  readonly tasks: readonly TaskResult[];
}

/** Accuracy that may be missing to Adam's best in the second column of seconds. */
const SLACK = 0.002;
const ADAM = 'adam';

/** Mean over the seeds, point by point; points that not every seed has are left out. */
export function meanCurve({ curves }: BudgetResult): Point[] {
  const length = Math.min(...curves.map((curve) => curve.length));
  return Array.from({ length }, (_, index) => {
    const mean = (key: keyof Point): number =>
      curves.reduce((sum, curve) => sum + (curve[index]?.[key] ?? Number.NaN), 0) / curves.length;
    return { seconds: mean('seconds'), loss: mean('loss'), accuracy: mean('accuracy') };
  });
}

/** The largest mean accuracy of any point of any budget. */
export function bestAccuracy({ budgets }: ContenderResult): number {
  return Math.max(...budgets.flatMap(meanCurve).map(({ accuracy }) => accuracy));
}

/** Fewest seconds after which a mean curve of any budget is at least so accurate; null if none ever is. */
export function secondsTo({ budgets }: ContenderResult, accuracy: number): number | null {
  const reached = budgets.flatMap(meanCurve).filter((point) => point.accuracy >= accuracy);
  return reached.length === 0 ? null : Math.min(...reached.map(({ seconds }) => seconds));
}

function figureNames({ dataSet, batch }: TaskResult): { readonly accuracy: string; readonly loss: string } {
  const name = `training-time-${dataSet}-${String(batch)}`;
  return { accuracy: `${name}-error.svg`, loss: `${name}-loss.svg` };
}

/** The SVG files of a task by name: each contender's mean curves at the ends of its budgets. */
export function renderFigures(task: TaskResult): ReadonlyMap<string, string> {
  const names = figureNames(task);
  const title = `${task.dataSet}, batches of ${String(task.batch)}`;
  const xLabel = 'seconds of training';
  const series = (value: (point: Point) => number) =>
    task.contenders.map(({ name, budgets }) => ({
      name,
      points: budgets.flatMap((budget) => {
        const end = meanCurve(budget).at(-1);
        return end === undefined ? [] : [[end.seconds, value(end)] as const];
      }),
    }));
  return new Map([
    [
      names.accuracy,
      renderFigure({ title, xLabel, yLabel: 'test error, %', series: series(({ accuracy }) => 100 * (1 - accuracy)) }),
    ],
    [names.loss, renderFigure({ title, xLabel, yLabel: 'test loss', series: series(({ loss }) => loss) })],
  ]);
}

export function renderTrainingTime({ command, machine, revision, torch, seeds, tasks }: TrainingTimeResults): string {
  return `# What a given accuracy costs in seconds

Made by \`${command}\` at revision ${revision}; ${machine}; PyTorch ${torch}.

Every contender trains the same network on the same batches in the same order, seeds ${seeds.join(', ')}, and takes turns with the others
eight times a run. The clock counts training steps on batches in memory, and the whitening of inputs where there is one; not
evaluations, not the reading of data, not a warm-up of some sixty steps. **HTTP is not in it**: DDPNOpt is the worker's own hosted step, called in the
bench's process on the native engine; a session adds what its requests take.

Learning rates were chosen per contender on a validation part (1/12 of the training set), which nobody trains on, from as many
values each and at one budget; DDPNOpt at η = 10, with
default options otherwise, is untuned (the default was that η when this was measured; [now it is the leverage rule](default-rate.md)). The other options of the fast recipe, γ, h₀, rank and intervals,
were fixed beforehand in trials on MNIST's validation part, an effort that Adam did not get. Each budget of epochs is a run of its own,
with a cosine that ends with it (but for η = 10, which is constant). "Adam's best" is the best mean test accuracy of tuned Adam
over its budgets; the seconds to it are those of the first evaluation, of any budget, whose mean over the seeds is as good. Accuracies
a tenth of a point apart are noise with so few seeds, so that the seconds to 0.2 points less stand beside.
${tasks.map(renderTask).join('')}`;
}

function renderTask(task: TaskResult): string {
  const { dataSet, widths, batch, trainingSamples, tuningBudget, contenders } = task;
  const adam = contenders.find(({ id }) => id === ADAM);
  const target = adam === undefined ? Number.NaN : bestAccuracy(adam);
  const steps = Math.floor(trainingSamples / batch);
  const budgets = contenders[0]?.budgets.map(({ epochs }) => epochs) ?? [];
  const rows = contenders.map((contender) => {
    const { name, tuning } = contender;
    const ratioTo = (accuracy: number): string => {
      const seconds = secondsTo(contender, accuracy);
      const adamSeconds = adam === undefined ? null : secondsTo(adam, accuracy);
      if (seconds === null || adamSeconds === null) return 'never';
      return `${digits(seconds)} (${(seconds / adamSeconds).toFixed(2)})`;
    };
    return [
      name,
      String(tuning.learningRate),
      stepMilliseconds(contender, steps).toFixed(2),
      ...budgets.map((epochs) => {
        const budget = contender.budgets.find((each) => each.epochs === epochs);
        if (budget === undefined) return '';
        const end = meanCurve(budget).at(-1);
        return end === undefined ? 'diverged' : (100 * end.accuracy).toFixed(2);
      }),
      ratioTo(target),
      ratioTo(target - SLACK),
    ];
  });
  const { accuracy, loss } = figureNames(task);
  const header = [
    'contender',
    'η',
    'ms / step',
    ...budgets.map((epochs) => `${String(epochs)} epochs`),
    "s to Adam's best (ratio)",
    's to 0.2 points less (ratio)',
  ];
  return `
## ${dataSet}, batches of ${String(batch)}

Network ${widths}; ${String(trainingSamples)} training samples; tuned at ${String(tuningBudget)} epochs. Mean test accuracy in % at the end of each budget;
Adam's best is ${(100 * target).toFixed(2)} %.

${markdownTable(header, rows)}

![Test error against seconds](${accuracy})
![Test loss against seconds](${loss})
`;
}

/** Median over the runs of the mean step, whitening left out as far as it is shared by the budgets. */
function stepMilliseconds({ budgets }: ContenderResult, stepsPerEpoch: number): number {
  const values = budgets
    .flatMap(({ epochs, curves }) =>
      curves.flatMap((curve) => {
        const [first, last] = [curve[0], curve.at(-1)];
        if (first === undefined || last === undefined || curve.length < 2) return [];
        const steps = epochs * stepsPerEpoch;
        const share = (curve.length - 1) / curve.length;
        return [(1000 * (last.seconds - first.seconds)) / (steps * share)];
      }),
    )
    .toSorted((a, b) => a - b);
  return values[Math.floor(values.length / 2)] ?? Number.NaN;
}

function digits(seconds: number): string {
  return seconds < 10 ? seconds.toFixed(2) : seconds.toFixed(1);
}
