/** The results as Markdown: a pure function of the stored JSON, which a test holds the page to. */
import { markdownTable } from '../markdown.ts';
import type { Provenance } from '../provenance.ts';

/** Where a worker keeps its sessions, and when it answers. */
export const STORES = {
  memory: 'memory',
  folder: 'folder',
  power: 'folder, loss of power',
  bucket: 'bucket',
  applied: 'bucket, answered before',
} as const;

export type Store = keyof typeof STORES;

/** Steps of one kind on one store. */
export interface StoreResult {
  /** Milliseconds. */
  readonly median: number;
  readonly percentile99: number;
  /** Median over the rounds of the round's median, divided by that of memory in the same round. */
  readonly ratio: number;
}

export interface KindResult {
  readonly name: string;
  readonly bodyBytes: number;
  /** Steps of one round on one store. */
  readonly steps: number;
  readonly stores: Readonly<Record<Store, StoreResult>>;
}

export interface DurabilityResults extends Provenance {
  readonly command: string;
  readonly rounds: number;
  readonly kinds: readonly KindResult[];
}

function size(bytes: number): string {
  return bytes < 1e5 ? `${(bytes / 1e3).toFixed(1)} KB` : `${(bytes / 1e6).toFixed(1)} MB`;
}

export function renderDurability({ command, revision, machine, engine, rounds, kinds }: DurabilityResults): string {
  const stores = Object.keys(STORES) as Store[];
  const rows = kinds.flatMap(({ name, bodyBytes, stores: results }) =>
    stores.map((store) => {
      const { median, percentile99, ratio } = results[store];
      return [
        `${name}, ${size(bodyBytes)}`,
        STORES[store],
        median.toFixed(2),
        percentile99.toFixed(2),
        (median - results.memory.median).toFixed(2),
        ratio.toFixed(2),
      ];
    }),
  );
  const header = ['step', 'sessions are kept in', 'p50, ms', 'p99, ms', 'added to p50', 'ratio'];
  return `# What durability costs

Made by \`${command}\` at revision ${revision}; ${machine}; engine ${engine}.

New steps, sent straight to a worker one after another, and answered when they are stored: by workers that differ in where they keep their
sessions, which take turns in ${String(rounds)} rounds. \`memory\` ends with the process. \`folder\` is the default of \`npm start\`, a SQLite file: a step
survives the process. With \`loss of power\` each commit waits for the disk (\`DDPNOPT_STORAGE_SURVIVES=power\`). \`bucket\` is an S3 server on the same
machine, s3rver, without a network between: a real one adds its latency. \`answered before\` is the same with \`DDPNOPT_ACKNOWLEDGE=applied\`,
which a crash may undo. A snapshot takes the place of the log every 100 steps or 128 MB: it is in the p99.

\`transport\` is a step of next to no arithmetic, so that what storing costs shows; \`training\` is a step of a hosted perceptron,
784-256-256-10, on 128 samples. The ratio is to memory: the median of the rounds.

${markdownTable(header, rows)}
`;
}
