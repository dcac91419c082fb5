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
  const factors = (['metric', 'curvature', 'coupling', 'batchCoupling'] as const).map((factor) => {
    const levels = [...new Set(rows.map((row) => row[factor]))];
    const means = levels.map((level) => mean(rows.filter((row) => row[factor] === level).map(accuracyOf)));
    const best = levels.map((level) => Math.max(...rows.filter((row) => row[factor] === level).map(accuracyOf)));
    return levels.map((level, index) => [
      `${factor === 'batchCoupling' ? 'batch coupling' : factor}: ${level}`,
      percent(means[index] ?? 0),
      percent(best[index] ?? 0),
    ]);
  });
  return `# What each part of the method is worth

${origin(stored)}

DIGITS, network ${description}, batches of ${String(batch)}, ${String(epochs)} epochs. Each combination at the learning rate, of ${String(learningRates[metrics[0] ?? '']?.length ?? 0)} a decade apart, that has the
best accuracy on the validation part (${String(tuningSeeds)} seed); test accuracy in %, mean ± standard deviation over ${String(seeds)} seeds. The budget is small, so that what learns fast is ahead.
The batch couplings \`diagonal\`, \`paper-faithful\` and \`paper-averaged\` take the gradient's outer product alone.

Over all combinations with it, the mean accuracy and that of the best:

${markdownTable(['part', 'mean, %', 'best, %'], factors.flat())}
${metrics.map((metric) => renderMetric(metric, rows)).join('')}`;
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
