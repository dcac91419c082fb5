/** The results as Markdown and figures: pure functions of the stored JSON, which a test holds the page to. */
import { renderFigure } from '../figure.ts';
import { markdownTable } from '../markdown.ts';
import type { Provenance } from '../provenance.ts';
import { mean, standardDeviation } from '../results/statistics.ts';
import type { Budget, DataSetName, LossKind, Task } from './tasks.ts';
import type { Score } from './trainings.ts';

/** A learning rate, and the accuracy on the validation part; null where the training diverged. */
export interface Tried {
  readonly learningRate: number;
  readonly accuracy: number | null;
}

/** Of every layer, from the first to the last. */
export interface Norms {
  /** ‖∂/∂u_t‖ of the batch's mean loss. */
  readonly gradients: readonly number[];
  /** ‖δu_t‖/‖u_t‖ of the step on that batch. */
  readonly changes: readonly number[];
}

export interface CellResult extends Task {
  readonly contender: string;
  readonly learningRate: number;
  readonly tried: readonly Tried[];
  /** One a seed; null where the training diverged. */
  readonly test: readonly (Score | null)[];
  /** Of the first seed; null where the training diverged before. */
  readonly norms: Norms | null;
}

export interface VanishingGradientResults extends Provenance {
  readonly command: string;
  readonly torch: string;
  readonly seeds: readonly number[];
  /** Steps before the one whose norms stand. */
  readonly normStep: number;
  readonly budgets: Readonly<Record<DataSetName, Budget>>;
  readonly contenders: readonly {
    readonly id: string;
    readonly name: string;
    readonly learningRates: readonly number[];
  }[];
  /** Planned, and not complete. */
  readonly missing: readonly Task[];
  readonly cells: readonly CellResult[];
}

const LOSS_NAMES: Readonly<Record<LossKind, string>> = {
  'softmax-cross-entropy': 'cross-entropy',
  'max-mahalanobis-centre': 'max-Mahalanobis-centre loss',
};
const DATA_NAMES: Readonly<Record<DataSetName, string>> = { digits: 'DIGITS', mnist: 'MNIST' };
/** Mean accuracy from which a net counts as trained; a guess is right in one of ten. */
const TRAINED = 0.8;

export function renderVanishingGradients(results: VanishingGradientResults): string {
  const { command, machine, revision, engine, torch, seeds, contenders, missing, cells } = results;
  const groups = groupsOf(cells);
  return `# Vanishing gradients

Made by \`${command}\` at revision ${revision}; engine ${engine}, PyTorch ${torch}; ${machine}.

A sigmoid's slope is at most a quarter, so a gradient that comes back through many of them is small, and smaller the deeper the net:
the first layers hardly learn. How deep a net does each optimizer still train? The loss is cross-entropy, or
the max-Mahalanobis-centre loss (Pang et al., 2020), which the paper uses for the same question: it does not saturate, so what vanishes vanishes in the net.

Every hidden layer is a sigmoid's; weights begin by Glorot & Bengio (2010). The service trains over HTTP, in hosted mode; SGD, Adam and K-FAC
are PyTorch's. All begin with the same weights and take the same batches in the same order, without a schedule or
weight decay. The budgets are short: what fails within them may succeed in longer ones. Each learning rate is the best of ${String(contenders[0]?.learningRates.length ?? 0)}, half a decade apart, on the validation part, with a seed that is not among the results'; an asterisk says that it is
at the end of its range. Test accuracy in %, mean ± standard deviation over seeds ${seeds.join(', ')}; a run that diverges counts 10 %, a guess.

${budgetLines(results)}
${missing.length === 0 ? '' : `\nPlanned, and not complete in this run: ${missing.map(describe).join('; ')}.\n`}
## How deep

The deepest net, of those tried, with a mean test accuracy of at least ${String(100 * TRAINED)} %:

${deepestTable(results, groups)}
${groups.map((group) => renderGroup(results, group)).join('')}${renderNorms(results)}`;
}

/** The SVG files by name. */
export function renderFigures(results: VanishingGradientResults): ReadonlyMap<string, string> {
  const figures = new Map<string, string>();
  for (const group of groupsOf(results.cells)) {
    const depths = depthsOf(group.cells);
    if (depths.length < 2) continue;
    const series = results.contenders.map(({ id, name }) => ({
      name,
      points: group.cells
        .filter(({ contender }) => contender === id)
        .map((cell) => [cell.depth, 100 - 100 * mean(accuraciesOf(cell))] as const),
    }));
    const title = `${DATA_NAMES[group.dataSet]}, ${LOSS_NAMES[group.loss]}`;
    const labels = { title, xLabel: 'hidden layers', yLabel: 'test error in %', xTicks: depths };
    figures.set(figureName(group), renderFigure({ ...labels, series }));
  }
  const deepest = deepestCells(results.cells);
  const [first] = deepest;
  if (first === undefined) return figures;
  for (const [kind, yLabel] of NORM_KINDS) {
    const series = results.contenders.map(({ id, name }) => {
      const norms = deepest.find(({ contender }) => contender === id)?.norms ?? null;
      return { name, points: (norms?.[kind] ?? []).map((value, layer) => [layer + 1, value] as const) };
    });
    const xTicks = Array.from({ length: first.depth + 1 }, (_, layer) => layer + 1);
    const labels = { title: describe(first), xLabel: 'layer', yLabel, xTicks };
    figures.set(`vanishing-gradients-${kind}.svg`, renderFigure({ ...labels, series }));
  }
  return figures;
}

const NORM_KINDS = [
  ['gradients', 'norm of the gradient'],
  ['changes', 'relative change of a step'],
] as const;

interface Group {
  readonly dataSet: DataSetName;
  readonly loss: LossKind;
  readonly cells: readonly CellResult[];
}

function groupsOf(cells: readonly CellResult[]): Group[] {
  const keyed = Map.groupBy(cells, ({ dataSet, loss }) => `${dataSet} ${loss}`);
  return [...keyed.values()].flatMap((own) => {
    const [first] = own;
    return first === undefined ? [] : [{ dataSet: first.dataSet, loss: first.loss, cells: own }];
  });
}

function depthsOf(cells: readonly CellResult[]): number[] {
  return [...new Set(cells.map(({ depth }) => depth))];
}

function describe({ dataSet, depth, loss }: Task): string {
  return `${DATA_NAMES[dataSet]}, ${String(depth)} hidden layers, ${LOSS_NAMES[loss]}`;
}

function figureName({ dataSet, loss }: Pick<Group, 'dataSet' | 'loss'>): string {
  return `vanishing-gradients-${dataSet}-${loss}.svg`;
}

function budgetLines({ budgets, cells }: VanishingGradientResults): string {
  const shown = new Set(cells.map(({ dataSet }) => dataSet));
  return [...shown]
    .map((dataSet) => {
      const { trainingSamples, inputs, width, batch, epochs } = budgets[dataSet];
      const samples =
        trainingSamples === null ? 'all training samples' : `the first ${String(trainingSamples)} training samples`;
      return `- ${DATA_NAMES[dataSet]}: ${String(inputs)} inputs, hidden layers of ${String(width)}, ${samples}, batches of ${String(batch)}, ${String(epochs)} epochs`;
    })
    .join('\n');
}

function accuraciesOf({ test }: CellResult): number[] {
  return test.map((score) => score?.accuracy ?? 0.1);
}

function deepestTable({ contenders }: VanishingGradientResults, groups: readonly Group[]): string {
  const header = ['optimizer', ...groups.map(({ dataSet, loss }) => `${DATA_NAMES[dataSet]}, ${LOSS_NAMES[loss]}`)];
  const rows = contenders.map(({ id, name }) => [
    name,
    ...groups.map(({ cells }) => {
      const trained = cells.filter((cell) => cell.contender === id && mean(accuraciesOf(cell)) >= TRAINED);
      return trained.length === 0 ? 'none' : String(Math.max(...trained.map(({ depth }) => depth)));
    }),
  ]);
  return markdownTable(header, rows);
}

function renderGroup({ contenders }: VanishingGradientResults, group: Group): string {
  const { dataSet, loss, cells } = group;
  const depths = depthsOf(cells);
  const rows = contenders.map(({ id, name, learningRates }) => [
    name,
    ...depths.flatMap((depth) => {
      const cell = cells.find((each) => each.contender === id && each.depth === depth);
      if (cell === undefined) return ['', ''];
      const accuracies = accuraciesOf(cell);
      const isAtEnd = [learningRates[0], learningRates.at(-1)].includes(cell.learningRate);
      return [spread(accuracies), `${String(cell.learningRate)}${isAtEnd ? '*' : ''}`];
    }),
  ]);
  const header = ['optimizer', ...depths.flatMap((depth) => [`${String(depth)} hidden layers`, 'η'])];
  const figure = depths.length < 2 ? '' : `\n![Test error against depth](${figureName(group)})\n`;
  return `
## ${DATA_NAMES[dataSet]}, ${LOSS_NAMES[loss]}

${markdownTable(header, rows)}
${figure}`;
}

/** Of the first data set and loss, the deepest net that some optimizer trains, or the deepest of all. */
function deepestCells(cells: readonly CellResult[]): CellResult[] {
  const [first] = cells;
  if (first === undefined) return [];
  const own = cells.filter(({ dataSet, loss }) => dataSet === first.dataSet && loss === first.loss);
  const trained = own.filter((cell) => mean(accuraciesOf(cell)) >= TRAINED);
  const depth = Math.max(...(trained.length === 0 ? own : trained).map((cell) => cell.depth));
  return own.filter((cell) => cell.depth === depth);
}

function renderNorms({ contenders, cells, normStep, seeds }: VanishingGradientResults): string {
  const deepest = deepestCells(cells);
  const [first] = deepest;
  if (first === undefined) return '';
  const rows = contenders.map(({ id, name }) => {
    const norms = deepest.find(({ contender }) => contender === id)?.norms ?? null;
    if (norms === null) return [name, 'diverged', '', '', ''];
    return [name, ...[norms.gradients, norms.changes].flatMap((values) => [values[0], values.at(-1)].map(short))];
  });
  return `
## What reaches the first layer

${describe(first)}, seed ${String(seeds[0])}, after ${String(normStep)} steps, each at its own learning rate: the norm of the gradient of the batch's mean loss in a layer's
parameters, and by what share of their norm the step changes them, in the first and in the last layer.

${markdownTable(['optimizer', 'gradient, first', 'gradient, last', 'change, first', 'change, last'], rows)}

![Gradient norms by layer](vanishing-gradients-gradients.svg)
![Relative changes by layer](vanishing-gradients-changes.svg)
`;
}

/** In %. */
function spread(accuracies: readonly number[]): string {
  const middle = (100 * mean(accuracies)).toFixed(1);
  return accuracies.length < 2 ? middle : `${middle} ± ${(100 * standardDeviation(accuracies)).toFixed(1)}`;
}

function short(value = Number.NaN): string {
  return value.toExponential(1);
}
