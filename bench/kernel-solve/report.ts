/** The results as Markdown: a pure function of the stored JSON, which a test holds the page to. */
import { markdownTable } from '../markdown.ts';
import type { Provenance } from '../provenance.ts';

export interface SolveTime {
  readonly stages: number;
  readonly batch: number;
  readonly where: 'edge' | 'worker';
  /** Median of one request. */
  readonly milliseconds: number;
  /** The same of a batch of one sample, at the edge, in alternating rounds. */
  readonly smallest: number;
}

export interface KernelSolveResults extends Provenance {
  readonly command: string;
  readonly repetitions: number;
  /** S·B³ up to which the edge solves. */
  readonly limit: number;
  readonly times: readonly SolveTime[];
}

export function renderKernelSolve({
  command,
  machine,
  revision,
  engine,
  repetitions,
  limit,
  times,
}: KernelSolveResults): string {
  const rows = times.map(({ stages, batch, where, milliseconds, smallest }) => [
    String(stages),
    String(batch),
    (stages * batch ** 3).toExponential(1),
    where,
    milliseconds.toFixed(2),
    (milliseconds - smallest).toFixed(2),
  ]);
  return `# Solving without a session

Made by \`${command}\` at revision ${revision}; engine ${engine}; ${machine}.

\`POST /v1/kernel/solve\` with S stages of B samples in float32, through HTTP and workerd on one machine, medians of ${String(repetitions)} alternating
rounds. "Above one sample": above the same request with B = 1, which is what reading, checking, solving and answering the larger one
adds. The edge solves up to S·B³ = ${String(limit)}; Cloudflare gives a Worker 10 ms of CPU time on its Free plan. Nothing was measured on
Cloudflare's network.

${markdownTable(['stages', 'B', 'S·B³', 'solved by', 'ms', 'ms above one sample'], rows)}
`;
}
