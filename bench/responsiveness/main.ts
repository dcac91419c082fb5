/**
 * npm run bench:responsiveness: how long health checks take while the compute thread is busy with the work of a 3000³ product.
 * Writes docs/results/responsiveness.json and, from it, docs/results/responsiveness.md.
 */
import { DdpnoptClient, type HostedTrainingSession } from '../../clients/js/index.ts';
import { startEdge } from '../../deploy/local/edge.ts';
import { startWorker } from '../../deploy/local/worker.ts';
import { provenance } from '../provenance.ts';
import { writeResults } from '../results-folder.ts';
import {
  renderResponsiveness,
  type CheckResult,
  type CheckTarget,
  type EngineResult,
  type Latencies,
  type ResponsivenessResults,
} from './report.ts';

const TARGET = 50;
const INTERVAL = 20;
const WARM_UP_MILLISECONDS = 2000;
const IDLE_MILLISECONDS = 4000;
const COMPUTING_MILLISECONDS = 16_000;

/** One wide layer between two narrow ones: few numbers travel, and B·m² are multiplied. */
const [BATCH, INPUTS, WIDTH, OUTPUTS] = [2048, 16, 3600, 10];
const MULTIPLICATIONS = BATCH * (INPUTS * WIDTH + WIDTH * WIDTH + WIDTH * OUTPUTS);

function percentile(sorted: readonly number[], share: number): number {
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? Number.NaN;
}

/** Asks for something at fixed times, from now until it is stopped, whether or not what was asked before is answered. */
function checks(ask: () => Promise<void>): { stop: () => Promise<Latencies> } {
  const start = performance.now();
  const latencies: Promise<number>[] = [];
  const nextDue = (): number => start + latencies.length * INTERVAL;
  const check = async (due: number): Promise<number> => {
    await ask();
    return performance.now() - due;
  };
  const checkWhatIsDue = (): void => {
    // More than one if this process was held up.
    while (nextDue() <= performance.now()) latencies.push(check(nextDue()));
    timer = setTimeout(checkWhatIsDue, nextDue() - performance.now());
  };
  let timer = setTimeout(checkWhatIsDue);
  return {
    stop: async () => {
      clearTimeout(timer);
      const sorted = (await Promise.all(latencies)).toSorted((a, b) => a - b);
      return {
        checks: sorted.length,
        median: percentile(sorted, 0.5),
        percentile99: percentile(sorted, 0.99),
        largest: percentile(sorted, 1),
      };
    },
  };
}

async function get(url: URL): Promise<void> {
  const response = await fetch(url);
  await response.arrayBuffer();
  if (!response.ok) throw new Error(`${url.href} answered ${String(response.status)}`);
}

type Latency = readonly [target: CheckTarget, latencies: Latencies];

/** How long each kind of check takes while something else happens. */
async function during(
  targets: ReadonlyMap<CheckTarget, () => Promise<void>>,
  work: () => Promise<unknown>,
): Promise<Latency[]> {
  const running = [...targets].map(([target, ask]) => ({ target, ...checks(ask) }));
  await work();
  return Promise.all(running.map(async ({ target, stop }) => [target, await stop()] as const));
}

function latenciesOf(all: ReadonlyMap<CheckTarget, Latencies>, target: CheckTarget): Latencies {
  const latencies = all.get(target);
  if (latencies === undefined) throw new RangeError(`nobody asked ${target}`);
  return latencies;
}

function pause(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}

async function predictFor(session: HostedTrainingSession, milliseconds: number): Promise<number[]> {
  const x = Float32Array.from({ length: BATCH * INPUTS }, (_, index) => Math.sin(index));
  const durations = [];
  const start = performance.now();
  while (performance.now() - start < milliseconds) {
    const begin = performance.now();
    await session.predict({ x });
    durations.push(performance.now() - begin);
  }
  return durations;
}

async function measure(wanted?: string): Promise<EngineResult> {
  const worker = await startWorker({ port: 0, engine: wanted });
  try {
    const edge = await startEdge({ port: 0, workerUrl: worker.ready.url });
    try {
      const layers = [['in', WIDTH], ['wide', WIDTH], ['out', OUTPUTS]] as const; // prettier-ignore
      const session = await new DdpnoptClient({ url: edge.ready.url }).createHostedSession({
        model: { input: [INPUTS], layers: layers.map(([name, outputs]) => ({ kind: 'dense', name, outputs })) },
        loss: { kind: 'softmax-cross-entropy' },
        optimizer: { metric: { kind: 'identity' } },
      });
      // The first one makes the graph.
      await predictFor(session, 0.001);
      const targets = new Map<CheckTarget, () => Promise<void>>([
        ['worker /healthz', () => get(new URL('/healthz', worker.ready.url))],
        ['edge /readyz', () => get(new URL('/readyz', edge.ready.url))],
        ['the client’s own timer', () => Promise.resolve()],
      ]);
      // Connections are opened, and what is called often is compiled.
      await during(targets, () => pause(WARM_UP_MILLISECONDS));
      const idle = new Map(await during(targets, () => pause(IDLE_MILLISECONDS)));
      let durations: number[] = [];
      const computing = await during(targets, async () => {
        durations = await predictFor(session, COMPUTING_MILLISECONDS);
      });
      const results = computing.map(([target, latencies]): CheckResult => ({
        target,
        idle: latenciesOf(idle, target),
        computing: latencies,
      }));
      const prediction = percentile(
        durations.toSorted((a, b) => a - b),
        0.5,
      );
      return { engine: worker.ready.engine ?? 'unknown', prediction, predictions: durations.length, results };
    } finally {
      await edge.stop();
    }
  } finally {
    await worker.stop();
  }
}

const best = await measure();
const engines = best.engine === 'wasm' ? [best] : [best, await measure('wasm')];
const { machine, revision } = provenance('');
const results: ResponsivenessResults = {
  command: 'npm run bench:responsiveness',
  machine,
  revision,
  multiplications: MULTIPLICATIONS,
  interval: INTERVAL,
  target: TARGET,
  engines,
};
await writeResults('responsiveness', results, new Map([['responsiveness.md', renderResponsiveness(results)]]));
process.stdout.write(
  `${renderResponsiveness(results)}\nWritten to docs/results/responsiveness.json and responsiveness.md.\n`,
);
