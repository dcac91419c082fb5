/** The results as Markdown: a pure function of the stored JSON, which a test holds the page to. */
import { markdownTable } from '../markdown.ts';
import type { Provenance } from '../provenance.ts';

/** Milliseconds from the moment at which a check was due to its answer. */
export interface Latencies {
  readonly checks: number;
  readonly median: number;
  /** 99 of 100 checks were answered sooner. */
  readonly percentile99: number;
  readonly largest: number;
}

/** What was asked: the worker itself; the edge, which asks the worker; or nobody, to see how late the client is to ask. */
export type CheckTarget = 'worker /healthz' | 'edge /readyz' | 'the client’s own timer';

export interface CheckResult {
  readonly target: CheckTarget;
  readonly idle: Latencies;
  readonly computing: Latencies;
}

export interface EngineResult {
  readonly engine: string;
  /** Median milliseconds of one prediction. */
  readonly prediction: number;
  readonly predictions: number;
  readonly results: readonly CheckResult[];
}

export interface ResponsivenessResults extends Omit<Provenance, 'engine'> {
  readonly command: string;
  /** Multiplications of one prediction. */
  readonly multiplications: number;
  /** Milliseconds between two checks of a target. */
  readonly interval: number;
  /** Milliseconds within which a check is to be answered. */
  readonly target: number;
  readonly engines: readonly EngineResult[];
}

export function renderResponsiveness(results: ResponsivenessResults): string {
  const { command, machine, revision, multiplications, interval, target, engines } = results;
  const order = Math.round(Math.cbrt(multiplications));
  const all = engines
    .flatMap(({ results: each }) => each)
    .filter(({ target: asked }) => asked !== 'the client’s own timer')
    .map(({ computing }) => computing);
  const isMet = all.every(({ largest }) => largest <= target);
  const are99Met = all.every(({ percentile99 }) => percentile99 <= target);
  const verdict = isMet
    ? 'every check was.'
    : are99Met
      ? '99 of 100 checks were, on every engine; not all.'
      : 'not even 99 of 100 checks were everywhere.';
  return `# Health checks while the device computes

Made by \`${command}\` at revision ${revision}; ${machine}.

A hosted model is asked for one prediction after the other, each of as many multiplications (${multiplications.toExponential(2)}) as a product of
matrices of order ${String(order)}. Meanwhile a check of either kind is due every ${String(interval)} ms, whether or not the ones before it are answered; its
time counts from when it was due. Client, edge and worker share the machine, whose cores the engine takes as it likes: the last row
is how late the client was to send, which the others contain.

To be answered within ${String(target)} ms: ${verdict}
${engines.map(renderEngine).join('')}`;
}

function renderEngine({ engine, prediction, predictions, results }: EngineResult): string {
  const rows = results.flatMap(({ target, idle, computing }) => [
    [target, 'idle', ...numbers(idle)],
    [target, 'computing', ...numbers(computing)],
  ]);
  return `
## ${engine}

${String(predictions)} predictions of ${prediction.toFixed(0)} ms (median).

${markdownTable(['check', 'device', 'checks', 'median, ms', '99 %, ms', 'largest, ms'], rows)}
`;
}

function numbers({ checks, median, percentile99, largest }: Latencies): string[] {
  return [String(checks), median.toFixed(1), percentile99.toFixed(1), largest.toFixed(1)];
}
