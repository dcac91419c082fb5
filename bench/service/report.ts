/** The results as Markdown: a pure function of the stored JSON, which a test holds the page to. */
import { markdownTable } from '../markdown.ts';
import type { Provenance } from '../provenance.ts';

/** Of the requests of one kind on one way. */
export interface WayResult {
  /** Milliseconds. */
  readonly median: number;
  readonly percentile99: number;
  readonly requestsPerSecond: number;
}

export interface KindResult {
  readonly name: string;
  readonly bodyBytes: number;
  readonly requests: number;
  /** Requests at a time. */
  readonly atATime: number;
  readonly edge: WayResult;
  readonly worker: WayResult;
}

export interface MemoryResult {
  readonly bodyBytes: number;
  readonly atATime: number;
  readonly rounds: number;
  /** Resident bytes of workerd. */
  readonly before: number;
  readonly largest: number;
  readonly after: number;
}

export interface ServiceResults extends Omit<Provenance, 'engine'> {
  readonly command: string;
  readonly workerd: string;
  readonly rounds: number;
  readonly kinds: readonly KindResult[];
  readonly memory: MemoryResult;
}

const megabytes = (bytes: number): string => (bytes / 1e6).toFixed(1);

function size(bytes: number): string {
  return bytes < 1e5 ? `${(bytes / 1e3).toFixed(1)} KB` : `${megabytes(bytes)} MB`;
}

export function renderService(results: ServiceResults): string {
  const { command, revision, machine, workerd, rounds, kinds, memory } = results;
  const rows = kinds.map(({ name, bodyBytes, atATime, edge, worker }) => [
    `${name}, ${size(bodyBytes)}`,
    String(atATime),
    edge.median.toFixed(2),
    worker.median.toFixed(2),
    (edge.median - worker.median).toFixed(2),
    (edge.median / worker.median).toFixed(2),
    edge.percentile99.toFixed(2),
    worker.percentile99.toFixed(2),
    edge.requestsPerSecond.toFixed(0),
    worker.requestsPerSecond.toFixed(0),
  ]);
  const header = ['request', 'at a time', 'p50 edge, ms', 'p50 worker', 'added', 'ratio', 'p99 edge', 'p99 worker', 'requests/s edge', 'requests/s worker']; // prettier-ignore
  return `# What the edge costs

Made by \`${command}\` at revision ${revision}; ${machine}; workerd ${workerd}.

The same requests through the edge, in workerd itself, and straight to a worker, which take turns in ${String(rounds)} rounds. The edge asks for an
API key and logs every request; its worker has registered with it and is called under leases, with signatures. The other worker is called
as it is. All of them share the machine with the client. \`replayed\` is a step that has been taken: its body is read and compared, and the
stored reply is the answer, so that what is timed is transport, not arithmetic. \`taken\` is a new step of a small session, with all that
belongs to it.

${markdownTable(header, rows)}

## Memory of workerd

${String(memory.atATime)} bodies of ${megabytes(memory.bodyBytes)} MB at a time, ${String(memory.rounds)} times: workerd holds ${megabytes(memory.before)} MB before, ${megabytes(memory.largest)} MB at most, ${megabytes(memory.after)} MB after.
`;
}
