/** The results as Markdown: a pure function of the stored JSON, which a test holds the page to. */
import { markdownTable } from '../markdown.ts';
import type { Provenance } from '../provenance.ts';
import type { Timing } from './measure.ts';

export interface ContenderResult extends Timing {
  /** Share of the contender's own rate for a large product that a step without refresh reaches; null where its operations are not counted. */
  readonly peakShare: number | null;
}

export interface ProblemResult {
  readonly name: string;
  readonly refreshEvery: number;
  readonly rounds: number;
  /** Null where they are not counted. */
  readonly operations: { readonly step: number; readonly refresh: number } | null;
  readonly contenders: readonly ContenderResult[];
}

export interface EngineResults extends Omit<Provenance, 'engine'> {
  readonly command: string;
  readonly productOrder: number;
  readonly problems: readonly ProblemResult[];
}

export function renderEngines({ command, machine, revision, productOrder, problems }: EngineResults): string {
  return `# What a training step costs

Made by \`${command}\` at revision ${revision}; ${machine}.

One whole step on a batch in memory: forward and backward pass, optimizer, and for DDPNOpt the second forward pass. Metric
\`kronecker\`, coupling \`feedback\`, full batch coupling, refreshed every ${String(problems[0]?.refreshEvery ?? 0)} steps. Medians over rounds of as many steps in which
the contenders take turns; the mean is that of a refresh and the steps up to the next. Where the default solves by conjugate gradients,
\`factorised\` takes the Cholesky factorisation, as the peers do. \`fast\` is the step with every lever that makes it cheaper: coupling
\`value\` and batch coupling \`diagonal\`, so no second pass, factors of every fifth batch, and a frozen factor of rank 128 for the
first layer of the perceptrons; it trains otherwise than the default. The peak is the contender's own rate for a product of order
${String(productOrder)}, timed between the rounds; a step's share of it is that of steps without refresh, whose operations are counted as in
[bench/engine/problem.ts](../../bench/engine/problem.ts). Only the ratios within a table mean anything: the machine is shared.
${problems.map(renderProblem).join('')}`;
}

function renderProblem({ name, rounds, operations, contenders }: ProblemResult): string {
  const ratio = (mean: number, peer: string): string => {
    const to = contenders.find(({ name: contender }) => contender === peer);
    return to === undefined ? '' : (mean / to.mean).toFixed(2);
  };
  const rows = contenders.map(({ name: contender, step, refreshStep, mean, peak, peakShare }) => [
    contender,
    step.toFixed(1),
    refreshStep.toFixed(1),
    mean.toFixed(1),
    ratio(mean, 'DDPNOpt, PyTorch'),
    ratio(mean, 'Adam, PyTorch'),
    `${(peak / 1e9).toFixed(0)} GFLOP/s`,
    peakShare === null ? '' : `${(100 * peakShare).toFixed(0)} %`,
  ]);
  const counted =
    operations === null
      ? ''
      : ` ${(operations.step / 1e6).toFixed(0)} million operations a step, ${(operations.refresh / 1e6).toFixed(0)} million more with a refresh.`;
  return `
## ${name}

${String(rounds)} rounds.${counted}

${markdownTable(['step by', 'ms', 'with refresh, ms', 'mean, ms', 'to PyTorch’s', 'to Adam', 'peak', 'share of it'], rows)}
`;
}
