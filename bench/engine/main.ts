/**
 * npm run bench:engine: what a training step costs on every tensor engine that is here and in PyTorch, in one run in which they
 * take turns. Writes docs/results/engine.json and engine.md after every problem.
 *
 * usage: npm run bench:engine [-- --quick | --all]: without the large problems, or with one that takes long
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { presentEngines } from '../../gpu-worker/tensor/index.ts';
import { peersInstalled, MISSING } from '../peers/environment.ts';
import { NETWORKS } from '../peers/networks.ts';
import { provenance } from '../provenance.ts';
import { engineContender, peerContender, PEERS, type Contender } from './contender.ts';
import { operations, problem, REFRESH_EVERY, type Problem } from './problem.ts';
import { renderEngines, type ContenderResult, type EngineResults, type ProblemResult } from './report.ts';

const PRODUCT_ORDER = 1024;
const FOLDER = new URL('../../docs/results/', import.meta.url);
/** Rounds of ten steps, after one that warms up. */
const ROUNDS = { small: 7, large: 3 } as const;

const heaviest = process.argv.includes('--quick') ? 0 : process.argv.includes('--all') ? 2 : 1;
const threads = availableParallelism();
// The float64 reference is there to be right, not fast.
const engines = presentEngines().filter((name) => name !== 'reference');
if (!peersInstalled()) process.stdout.write(`${MISSING}\n`);
const peers = peersInstalled() ? PEERS.map(([name, optimizer]) => peerContender(name, optimizer, threads)) : [];

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? Number.NaN;
}

/** Rounds in which the contenders take turns: a round is a refresh and the steps up to the next. */
async function measure(task: Problem, contenders: readonly Contender[], rounds: number): Promise<ProblemResult> {
  const entries = [];
  for (const contender of contenders) {
    const runner = await contender.prepare(task);
    entries.push({ contender, runner, steps: [] as number[], refreshSteps: [] as number[], peaks: [] as number[] });
  }
  for (let round = 0; round <= rounds; round++) {
    for (const { runner, steps, refreshSteps, peaks } of entries) {
      const [refresh = Number.NaN, ...others] = await runner.round();
      // Between the steps, so that whatever else the machine does meets both.
      const peak = await runner.peak(PRODUCT_ORDER);
      if (round === 0) continue;
      refreshSteps.push(refresh);
      steps.push(...others);
      peaks.push(peak);
    }
    process.stdout.write(`${task.name}: round ${String(round)} of ${String(rounds)}\n`);
  }
  const counted = operations(task);
  for (const { runner } of entries) await runner.stop();
  return {
    name: task.name,
    refreshEvery: REFRESH_EVERY,
    rounds,
    operations: counted,
    contenders: entries.map(({ contender: { name }, steps, refreshSteps, peaks }): ContenderResult => {
      const step = median(steps);
      const refreshStep = median(refreshSteps);
      const mean = (refreshStep + (REFRESH_EVERY - 1) * step) / REFRESH_EVERY;
      const peak = median(peaks);
      // The peer makes its products in another way, which is not counted.
      const isOurs = !name.endsWith('PyTorch');
      const share = counted === null || !isOurs ? null : counted.step / (step / 1000) / peak;
      return { name, step, refreshStep, mean, peak, peakShare: share };
    }),
  };
}

/** What is trained: 0 with --quick, 1 by default too, 2 with --all only. */
const tasks = [
  { task: problem('mlp-256', NETWORKS['mlp-256'], 128), weight: 0 },
  { task: problem('mlp-256', NETWORKS['mlp-256'], 512), weight: 0 },
  { task: problem('cnn-32', NETWORKS['cnn-32'], 128), weight: 1 },
  { task: problem('mlp-1024', NETWORKS['mlp-1024'], 1024), weight: 1 },
  { task: problem('cnn-32', NETWORKS['cnn-32'], 512), weight: 2 },
].filter(({ weight }) => weight <= heaviest);

const { machine, revision } = provenance('');
const problems: ProblemResult[] = [];
for (const { task, weight } of tasks) {
  const isLarge = weight > 0;
  // wasm would take minutes for a round of a large problem.
  const names = engines.filter((name) => !(isLarge && name === 'wasm'));
  const contenders = [...names.map(engineContender), ...peers];
  problems.push(await measure(task, contenders, isLarge ? ROUNDS.large : ROUNDS.small));
  const results: EngineResults = {
    command: 'npm run bench:engine',
    machine,
    revision,
    productOrder: PRODUCT_ORDER,
    problems,
  };
  mkdirSync(FOLDER, { recursive: true });
  writeFileSync(new URL('engine.json', FOLDER), `${JSON.stringify(results, null, 2)}\n`);
  writeFileSync(new URL('engine.md', FOLDER), renderEngines(results));
}
process.stdout.write(`\nwritten to docs/results/engine.md\n`);
