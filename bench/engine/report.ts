/** The results as Markdown: a pure function of the stored JSON, which a test holds the page to. */
import { markdownTable } from '../markdown.ts';
import type { Provenance } from '../provenance.ts';

export interface ContenderResult {
  readonly name: string;
  /** Median milliseconds of a step that refreshes nothing. */
  readonly step: number;
  /** Median milliseconds of a step that refreshes the factorisations. */
  readonly refreshStep: number;
  /** Their mean, one refresh in `refreshEvery` steps. */
  readonly mean: number;
  /** Median rate of a large product, operations a second. */
  readonly peak: number;
  /** Share of the contender's own rate for a large product that a step without refresh reaches. */
  readonly peakShare: number;
}

export interface ProblemResult {
  readonly name: string;
  readonly refreshEvery: number;
  readonly rounds: number;
  readonly operations: { readonly step: number; readonly refresh: number };
  readonly contenders: readonly ContenderResult[];
}

export interface EngineResults extends Omit<Provenance, 'engine'> {
  readonly command: string;
  readonly productOrder: number;
  readonly problems: readonly ProblemResult[];
}

export function renderEngines({ command, machine, revision, productOrder, problems }: EngineResults): string {
  return `# What a step costs on each tensor engine

Made by \`${command}\` at revision ${revision}; ${machine}.

One \`ddpStep\` with metric \`kronecker\` and coupling \`feedback\`, without transport, upload and the client's passes: medians over
rounds in which the engines take turns. The ratio is to the first engine's mean. The peak is the engine's own rate for a product of
order ${String(productOrder)}, timed between the steps; a step's share of it is that of steps without refresh, whose operations are counted as
in [bench/engine/problem.ts](../../bench/engine/problem.ts).
${problems.map(renderProblem).join('')}`;
}

function renderProblem({ name, refreshEvery, rounds, operations, contenders }: ProblemResult): string {
  const [first] = contenders;
  const rows = contenders.map(({ name: contender, step, refreshStep, mean, peak, peakShare }) => [
    contender,
    step.toFixed(1),
    refreshStep.toFixed(1),
    mean.toFixed(1),
    (mean / (first?.mean ?? Number.NaN)).toFixed(2),
    `${(peak / 1e9).toFixed(0)} GFLOP/s`,
    `${(100 * peakShare).toFixed(0)} %`,
  ]);
  return `
## ${name}

A refresh every ${String(refreshEvery)} steps; ${String(rounds)} rounds of as many; ${(operations.step / 1e6).toFixed(0)} million operations a step, ${(operations.refresh / 1e6).toFixed(0)} million more with a refresh.

${markdownTable(['engine', 'step, ms', 'with refresh, ms', 'mean, ms', 'ratio', 'peak', 'share of it'], rows)}
`;
}
