/** Items 1 and 2 as a page and figures: pure functions of the stored JSON. */
import { renderFigure } from '../../figure.ts';
import { markdownTable } from '../../markdown.ts';
import type { Files, ResultsHeader } from '../item.ts';
import type { AccuracyResults, OptimizerAccuracy, TaskAccuracy } from '../items/accuracy.ts';
import { mean, standardDeviation } from '../statistics.ts';
import { origin, percent } from './page.ts';

/** As many curves as there are colours. */
const DRAWN = ['sgd', 'rmsprop', 'adam', 'kfac', 'ekfac', 'paper-kronecker', 'ddpnopt', 'ddpnopt-default'];

export function renderAccuracy(stored: ResultsHeader & AccuracyResults): Files {
  const figures = stored.tasks.map((task): [string, string] => [lossFigure(task), renderLoss(task)]);
  return new Map([['accuracy.md', renderPage(stored)], ...figures]);
}

function lossFigure({ id }: TaskAccuracy): string {
  return `accuracy-${id}-loss.svg`;
}

/** Of a training, as long as the longest that did not diverge. */
function stepsOf({ optimizers }: TaskAccuracy): number {
  return Math.max(...optimizers.flatMap(({ curve }) => curve.map(({ step }) => step)));
}

function renderLoss(task: TaskAccuracy): string {
  const { id, epochs, optimizers } = task;
  return renderFigure({
    title: `${id}: training loss at each optimizer's chosen setting`,
    xLabel: 'steps',
    top: { label: 'epochs', unit: stepsOf(task) / epochs },
    yLabel: 'mean loss of the batches since the point before',
    series: optimizers
      .filter((optimizer) => DRAWN.includes(optimizer.id))
      .map(({ name, curve }) => ({
        name,
        points: curve.map(({ step, trainingLoss }) => [step, trainingLoss] as const),
      })),
  });
}

function renderPage(stored: ResultsHeader & AccuracyResults): string {
  const { tasks, learningRates, regularizations } = stored;
  return `# Accuracy and convergence

${origin(stored)}

Every optimizer trains the same network, from the same initial weights, on the same batches in the same order. Each was tuned over
${String(learningRates)} learning rates in half decades × ${String(regularizations)} regularisations, the same effort for all, by its accuracy on a validation part that nobody
trains on (of equal settings by the loss there), with seeds of their own; the test part has no say. The defaults are not tuned at all. "DDPNOpt
(paper)" is algorithm 3 of Liu, Chen and Theodorou (2021) to the letter, every sample by itself and with outer products of the loss gradient, over the three
metrics; "(paper, averaged)" has the mean over the batch in V_x and V_xx as well, and "(paper, without feedback)" the plain step in the same metric; [what of this is
the paper's](README.md#what-is-the-papers-and-what-is-not). "DDPNOpt, tuned" is the service's batch-exact form with its default options but η and λ. DDPNOpt runs in hosted sessions of the
service, over HTTP; the others in PyTorch. Accuracy on the test part in %, mean ± standard deviation over the seeds; a run that diverged counts as 0. A
setting marked ° is at an end of its grid, and might do better beyond. E-MSA and vanilla DDP, whose steps take a hundred times as long, are
tuned over the learning rates alone and with one seed, and run with the first half of the seeds, on WINE only.

The convolutional nets are tuned over the learning rates alone, with one seed. Whitened inputs are no images, so that Adam has them on dense nets
only.

WINE and DIGITS are split 60 : 20 : 20 into training, validation and test. WINE's measurements are standardised. The budgets of
training are small, as is stated for each: these are no records, but they are the same for all.
${tasks.map(renderTask).join('')}
## Regularisation

${markdownTable(['optimizer', 'what λ is'], regularizers(tasks))}
`;
}

function renderTask(task: TaskAccuracy): string {
  const { id, description, batch, epochs, trainingSamples, seeds, tuningSeeds, testSamples, isTestWhole, optimizers } =
    task;
  const best = Math.max(...optimizers.map(({ accuracies }) => mean(accuracies)));
  const rows = optimizers.map((optimizer) => rowOf(optimizer, best));
  const samples =
    trainingSamples === null ? 'the whole training part' : `the first ${String(trainingSamples)} training samples`;
  return `
## ${id}

Network ${description}; batches of ${String(batch)}; ${samples}, ${String(epochs)} ${epochs === 1 ? 'epoch' : 'epochs'}, ${String(stepsOf(task))} steps; ${String(seeds.length)} seeds, tuned with
${tuningSeeds.length === 1 ? 'another one' : `${String(tuningSeeds.length)} others`}; ${isTestWhole ? '' : 'the first '}${String(testSamples)} test samples. Bold: the best mean.

${markdownTable(['optimizer', 'η', 'λ', 'test accuracy', 'training loss at the end', 'diverged'], rows)}

![Training loss against steps, and epochs](${lossFigure(task)})
`;
}

function rowOf({ name, setting, isAtEnd, accuracies, curve }: OptimizerAccuracy, best: number): string[] {
  const average = mean(accuracies);
  const value = `${percent(average)} ± ${percent(standardDeviation(accuracies))}`;
  const diverged = accuracies.filter((accuracy) => accuracy === 0).length;
  return [
    name,
    `${String(setting.learningRate)}${isAtEnd ? ' °' : ''}`,
    String(setting.regularization),
    average === best ? `**${value}**` : value,
    curve.at(-1)?.trainingLoss.toPrecision(3) ?? '',
    diverged === 0 ? '' : String(diverged),
  ];
}

function regularizers(tasks: readonly TaskAccuracy[]): string[][] {
  const all = tasks.flatMap(({ optimizers }) => optimizers);
  return [...new Map(all.map(({ name, regularizer }) => [name, regularizer]))].map(([name, text]) => [name, text]);
}
