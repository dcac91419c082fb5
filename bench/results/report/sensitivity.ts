/** Item 3 as a page and figures: pure functions of the stored JSON. */
import { renderHeatMaps } from '../../heat-map.ts';
import { markdownTable } from '../../markdown.ts';
import type { Files, ResultsHeader } from '../item.ts';
import { goodRange, POINT, type Range, type SensitivityResults, type TaskSensitivity } from '../items/sensitivity.ts';
import { origin, percent } from './page.ts';

/** Accuracies further below the best are drawn alike. */
const DRAWN_POINTS = 30;

const WIDER = 5 * POINT;

export function renderSensitivity(stored: ResultsHeader & SensitivityResults): Files {
  const figures = stored.tasks.map((task): [string, string] => [figureOf(task), renderMaps(task)]);
  return new Map([['sensitivity.md', renderPage(stored)], ...figures]);
}

function figureOf({ id }: TaskSensitivity): string {
  return `sensitivity-${id}.svg`;
}

function renderMaps({ id, maps }: TaskSensitivity): string {
  const best = Math.max(...maps.flatMap(({ accuracies }) => accuracies.flat()));
  return renderHeatMaps({
    title: `${id}: test accuracy in %`,
    xLabel: 'learning rate',
    lowest: 100 * best - DRAWN_POINTS,
    maps: maps.map(({ name, learningRates, regularizations, accuracies }) => ({
      title: name,
      xValues: learningRates,
      yValues: regularizations,
      yLabel: 'λ',
      rows: accuracies.map((row) => row.map((accuracy) => 100 * accuracy)),
    })),
  });
}

function renderPage(stored: ResultsHeader & SensitivityResults): string {
  return `# Sensitivity to learning rate and weight decay

${origin(stored)}

Accuracy over ${String(stored.learningRates)} learning rates in half decades, five decades in all, around the centre of each optimizer's grid, and its three regularisations (what they
are is said [with the accuracies](accuracy.md#regularisation)). The width is that of the run of learning rates around the best one whose mean accuracy is within one point of the
best, at the best one's regularisation, in decades; half a decade is the distance of two neighbours. ≥ marks a run that reaches an end of
the grid. A run that diverged counts as 0.
${stored.tasks.map(renderTask).join('')}`;
}

function renderTask(task: TaskSensitivity): string {
  const { id, description, seeds, testSamples, maps } = task;
  const rows = maps.map((map) => {
    return [
      map.name,
      percent(goodRange(map, POINT).best),
      widthOf(goodRange(map, POINT)),
      widthOf(goodRange(map, WIDER)),
    ];
  });
  return `
## ${id}

Network ${description}; mean of ${String(seeds.length)} seeds; ${String(testSamples)} test samples, of which one is ${percent(1 / (seeds.length * testSamples), 2)} points of the mean.

${markdownTable(['optimizer', 'best accuracy, %', 'width, decades', 'the same within five points'], rows)}

![Test accuracy over learning rate and regularisation](${figureOf(task)})
`;
}

export function widthOf({ decades, isCut }: Range): string {
  return `${isCut ? '≥ ' : ''}${decades.toFixed(1)}`;
}
