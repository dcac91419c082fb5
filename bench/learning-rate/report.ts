/** The results as Markdown: a pure function of the stored JSON, which a test holds the page to. */
import { markdownTable } from '../markdown.ts';
import type { Provenance } from '../provenance.ts';

export const METRICS = ['identity', 'adam', 'kronecker'] as const;
export const RULES = ['constant', 'leverage'] as const;

export interface Cell {
  readonly metric: (typeof METRICS)[number];
  readonly rule: (typeof RULES)[number];
  /** η of the constant rule, c of the leverage rule. */
  readonly value: number;
  /** Test accuracy per seed; 0 where the run diverged. */
  readonly accuracies: readonly number[];
}

export interface LearningRateResults extends Provenance {
  readonly command: string;
  readonly epochs: number;
  readonly widths: readonly number[];
  readonly batchSize: number;
  readonly seeds: readonly number[];
  readonly values: readonly number[];
  readonly cells: readonly Cell[];
}

const RULE_NAMES = { constant: 'fixed η', leverage: 'leverage rule, c' } as const;

export function renderLearningRates(results: LearningRateResults): string {
  const { command, machine, revision, engine, epochs, widths, batchSize, seeds, values, cells } = results;
  const rows = METRICS.flatMap((metric) =>
    RULES.map((rule) => {
      const means = values.map((value) => {
        const cell = cells.find((other) => other.metric === metric && other.rule === rule && other.value === value);
        const accuracies = cell?.accuracies ?? [];
        return accuracies.reduce((sum, accuracy) => sum + accuracy, 0) / accuracies.length;
      });
      const best = Math.max(...means);
      return [
        `${metric}, ${RULE_NAMES[rule]}`,
        ...means.map((mean) => (mean >= best - 0.01 ? `**${percent(mean)}**` : percent(mean))),
      ];
    }),
  );
  return `# Fixed learning rate and leverage rule

Made by \`${command}\` at revision ${revision}; engine ${engine}; ${machine}.

DIGITS, network ${widths.join('-')}, batches of ${String(batchSize)}, ${String(epochs)} epochs, coupling \`gauss-newton-step\`, defaults otherwise: mean test accuracy in %
over seeds ${seeds.join(', ')}, for each value of η, or of the leverage rule's c. Bold: within one point of the row's best.

${markdownTable(['metric, rule', ...values.map(String)], rows)}
`;
}

function percent(share: number): string {
  return (100 * share).toFixed(1);
}
