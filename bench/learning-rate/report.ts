/** The results as Markdown: a pure function of the stored JSON, which a test holds the page to. */
import { markdownTable } from '../markdown.ts';
import type { Provenance } from '../provenance.ts';

export const METRICS = ['identity', 'adam', 'kronecker'] as const;
/** `textbook` and `unseen`: the Levenberg–Marquardt rule with these limits of ρ. */
export const RATIO_LIMITS = { textbook: { low: 0.25, high: 0.75 }, unseen: { low: 0, high: 0.1 } } as const;
export const RULES = ['constant', 'leverage', 'textbook', 'unseen'] as const;

export interface Cell {
  readonly metric: (typeof METRICS)[number];
  readonly rule: (typeof RULES)[number];
  /** η of the constant rule, c of the leverage rule, the first η of the Levenberg–Marquardt rule. */
  readonly value: number;
  /** Test accuracy per seed; 0 where the run diverged. */
  readonly accuracies: readonly number[];
  /** η of the last step, per seed. */
  readonly lastRates: readonly number[];
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

const RULE_NAMES = {
  constant: 'fixed η',
  leverage: 'leverage rule, c',
  textbook: levenbergMarquardt('textbook'),
  unseen: levenbergMarquardt('unseen'),
} as const;

function levenbergMarquardt(limits: keyof typeof RATIO_LIMITS): string {
  const { low, high } = RATIO_LIMITS[limits];
  return `Levenberg–Marquardt rule, ρ ${String(low)} to ${String(high)}, first η`;
}

export function renderLearningRates(results: LearningRateResults): string {
  const { command, machine, revision, engine, epochs, widths, batchSize, seeds, values, cells } = results;
  const cellOf = (metric: Cell['metric'], rule: Cell['rule'], value: number): Cell | undefined =>
    cells.find((cell) => cell.metric === metric && cell.rule === rule && cell.value === value);
  const accuracies = METRICS.flatMap((metric) =>
    RULES.map((rule) => {
      const means = values.map((value) => mean(cellOf(metric, rule, value)?.accuracies ?? []));
      const best = Math.max(...means);
      return [
        `${metric}, ${RULE_NAMES[rule]}`,
        ...means.map((share) => (share >= best - 0.01 ? `**${percent(share)}**` : percent(share))),
      ];
    }),
  );
  const lastRates = METRICS.flatMap((metric) =>
    (['textbook', 'unseen'] as const).map((rule) => [
      `${metric}, ${RULE_NAMES[rule]}`,
      ...values.map((value) => {
        const rates = cellOf(metric, rule, value)?.lastRates ?? [];
        return Math.exp(mean(rates.map(Math.log))).toPrecision(2);
      }),
    ]),
  );
  return `# Rules for the learning rate

Made by \`${command}\` at revision ${revision}; engine ${engine}; ${machine}.

DIGITS, network ${widths.join('-')}, batches of ${String(batchSize)}, ${String(epochs)} epochs, coupling \`gauss-newton-step\`, defaults otherwise: mean test accuracy in %
over seeds ${seeds.join(', ')}, for each value of η, of the leverage rule's c, or of the η with which the Levenberg–Marquardt rule
starts. ρ is the ratio of actual and predicted change within which that rule leaves η. Bold: within one point of the row's best.

${markdownTable(['metric, rule', ...values.map(String)], accuracies)}

Where the Levenberg–Marquardt rule had taken η by the last step, from each first η (geometric mean over the seeds):

${markdownTable(['metric, rule', ...values.map(String)], lastRates)}
`;
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

function percent(share: number): string {
  return (100 * share).toFixed(1);
}
