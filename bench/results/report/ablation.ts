/** Item 5 as a page: a pure function of the stored JSON. */
import { markdownTable } from '../../markdown.ts';
import type { Files, ResultsHeader } from '../item.ts';
import type { AblationResults, AblationRow } from '../items/ablation.ts';
import { mean, standardDeviation } from '../statistics.ts';
import { origin, percent } from './page.ts';

export function renderAblation(stored: ResultsHeader & AblationResults): Files {
  return new Map([['ablation.md', renderPage(stored)]]);
}

function renderPage(stored: ResultsHeader & AblationResults): string {
  const { rows, description, batch, epochs, learningRates, seeds, tuningSeeds } = stored;
  const metrics = [...new Set(rows.map(({ metric }) => metric))];
  const parts = FACTORS.flatMap((factor) => renderFactor(factor, rows));
  return `# What each part of the method is worth

${origin(stored)}

DIGITS, network ${description}, batches of ${String(batch)}, ${String(epochs)} epochs. Each combination at the learning rate, of ${String(learningRates[metrics[0] ?? '']?.length ?? 0)} a decade apart, that has the
best accuracy on the validation part (${tuningSeeds.length === 1 ? 'one seed' : `${String(tuningSeeds.length)} seeds`}); test accuracy in %, mean ± standard deviation over ${String(seeds.length)} seeds. The budget is small, so that what learns fast is ahead.
The batch couplings \`diagonal\`, \`paper-faithful\` and \`paper-averaged\` take the gradient's outer product alone.

So that like is compared with like, the alternatives for a part are compared over those choices of the other parts with which each of them was run:

${markdownTable(['part', 'choices of the others', 'mean, %', 'best, %'], parts)}
${metrics.map((metric) => renderMetric(metric, rows)).join('')}`;
}

const FACTORS = ['metric', 'curvature', 'coupling', 'batchCoupling'] as const;
type Factor = (typeof FACTORS)[number];

function renderFactor(factor: Factor, rows: readonly AblationRow[]): string[][] {
  const levels = [...new Set(rows.map((row) => row[factor]))];
  const others = FACTORS.filter((other) => other !== factor);
  const blocks = Map.groupBy(rows, (row) => others.map((other) => row[other]).join('; '));
  const complete = [...blocks.values()].filter(({ length }) => length === levels.length);
  return levels.map((level) => {
    const accuracies = complete.flat().filter((row) => row[factor] === level).map(accuracyOf); // prettier-ignore
    const name = factor === 'batchCoupling' ? 'batch coupling' : factor;
    const figures = accuracies.length === 0 ? ['', ''] : [percent(mean(accuracies)), percent(Math.max(...accuracies))];
    return [`${name}: ${level}`, String(accuracies.length), ...figures];
  });
}

function accuracyOf({ accuracies }: Pick<AblationRow, 'accuracies'>): number {
  return mean(accuracies);
}

function renderMetric(metric: string, all: readonly AblationRow[]): string {
  const rows = all.filter((row) => row.metric === metric).toSorted((a, b) => accuracyOf(b) - accuracyOf(a));
  const cells = rows.map(({ curvature, coupling, batchCoupling, learningRate, accuracies }) => [
    `${curvature}; ${coupling}; ${batchCoupling}`,
    String(learningRate),
    `${percent(mean(accuracies))} ± ${percent(standardDeviation(accuracies))}`,
  ]);
  return `
## Metric ${metric}

${markdownTable(['terminal curvature; coupling; batch coupling', 'η', 'test accuracy, %'], cells)}
`;
}
