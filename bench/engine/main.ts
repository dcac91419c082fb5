/**
 * npm run bench:engine: what a training step costs on every tensor engine that is here and in PyTorch, in one run in which they
 * take turns. Writes docs/results/engine.json and engine.md after every problem.
 *
 * usage: npm run bench:engine [-- --quick | --all]: without the large problems, or with one that takes long
 */
import { availableParallelism } from 'node:os';
import { optimizerSchema } from '../../shared/optimizer.ts';
import { presentEngines } from '../../gpu-worker/tensor/index.ts';
import { peersInstalled, MISSING } from '../peers/environment.ts';
import { NETWORKS } from '../peers/networks.ts';
import { provenance } from '../provenance.ts';
import { writeResults } from '../results-folder.ts';
import { engineContender, peerContender, PEERS, type Contender } from './contender.ts';
import { measureInTurns, PRODUCT_ORDER } from './measure.ts';
import { operations, problem, REFRESH_EVERY, type Problem, type Variant } from './problem.ts';
import { renderEngines, type ContenderResult, type EngineResults, type ProblemResult } from './report.ts';

/** Rounds of ten steps, after one that warms up. */
const ROUNDS = { small: 7, large: 3 } as const;

const heaviest = process.argv.includes('--quick') ? 0 : process.argv.includes('--all') ? 2 : 1;
const threads = availableParallelism();
// The float64 reference is there to be right, not fast.
const engines = presentEngines().filter((name) => name !== 'reference');
if (!peersInstalled()) process.stdout.write(`${MISSING}\n`);
const peers = peersInstalled() ? PEERS.map(([name, optimizer]) => peerContender(name, optimizer, threads)) : [];

async function measure(task: Problem, contenders: readonly Contender[], rounds: number): Promise<ProblemResult> {
  const report = (text: string): void => void process.stdout.write(`${text}\n`);
  const timings = await measureInTurns(task, contenders, rounds, report);
  const counted = operations(task);
  return {
    name: task.name,
    refreshEvery: REFRESH_EVERY,
    rounds,
    operations: counted,
    contenders: timings.map((timing): ContenderResult => {
      // The peer makes its products in another way, and the other ways to take the step make others: they are not counted.
      const isCounted = timing.name === 'DDPNOpt, tensorflow' || timing.name === 'DDPNOpt, wasm';
      const share = counted === null || !isCounted ? null : counted.step / (timing.step / 1000) / timing.peak;
      return { ...timing, peakShare: share };
    }),
  };
}

/** Other ways to take the step, on the native engine: the cheap one, and the peer's where the default takes another. */
function variants({ batch }: Problem): Contender[] {
  if (!engines.includes('tensorflow')) return [];
  const iterates = batch > optimizerSchema.parse({}).solver.choleskyRows;
  const names: readonly Variant[] = iterates ? ['factorised', 'fast'] : ['fast'];
  return names.map((name) => engineContender('tensorflow', name));
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
  const contenders = [...names.map((name) => engineContender(name)), ...variants(task), ...peers];
  problems.push(await measure(task, contenders, isLarge ? ROUNDS.large : ROUNDS.small));
  const results: EngineResults = {
    command: 'npm run bench:engine',
    machine,
    revision,
    productOrder: PRODUCT_ORDER,
    problems,
  };
  await writeResults('engine', results, new Map([['engine.md', renderEngines(results)]]));
}
process.stdout.write(`\nwritten to docs/results/engine.md\n`);
