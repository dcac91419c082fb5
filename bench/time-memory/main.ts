/**
 * npm run bench:time-memory: what a step takes in time and memory against width, batch and depth: DDPNOpt as the worker runs it, the
 * optimizers of PyTorch, E-MSA, and differential dynamic programming with dense matrices. Small dense nets, since the last one takes no
 * others; bench:scaling has the larger ones. Writes docs/results/time-memory.json, .md and the figures after every part; parts that
 * are not run stay as they are.
 *
 * usage: npm run bench:time-memory [-- [--quick] [--only time|memory] [width] [batch] [depth]]
 *
 * Without names every part is run. --quick takes few points, and writes nothing but the page to the standard output.
 */
import { parseArgs } from 'node:util';
import { presentEngines } from '../../gpu-worker/tensor/index.ts';
import { engineContender, type Contender } from '../engine/contender.ts';
import { measureInTurns } from '../engine/measure.ts';
import { problem } from '../engine/problem.ts';
import { MISSING, peersInstalled } from '../peers/environment.ts';
import { perceptron } from '../peers/networks.ts';
import { PeerProcess, type PeerOptimizer } from '../peers/peers.ts';
import { provenance } from '../provenance.ts';
import { readResults, writeResults } from '../results-folder.ts';
import { enginePeak } from '../scaling/measure.ts';
import { COUNTS_MEMORY, forgetPeak, peakBytes, residentBytes } from '../scaling/process-memory.ts';
import { OPTIMIZERS, PARTS, settingsOf, VANILLA, type PartName, type Setting } from './parts.ts';
import { OURS, renderFigures, renderTimeMemory, type MemoryPoint, type TimeMemoryResults, type TimePoint } from './report.ts'; // prettier-ignore

const COMMAND = 'npm run bench:time-memory';
/** Of PyTorch: nets so small are slower with more. */
const THREADS = 1;
/** Steps of a memory's measurement: one refresh of the factors, and the next. */
const MEMORY_STEPS = 11;

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: { quick: { type: 'boolean', default: false }, only: { type: 'string' } },
});

function fail(reason: string): never {
  process.stderr.write(`${reason}\n`);
  process.exit(1);
}

const unknown = positionals.find((word) => !isPart(word));
if (unknown !== undefined) fail(`There is no part ${unknown}; the parts are ${PARTS.join(', ')}.`);
if (options.only !== undefined && options.only !== 'time' && options.only !== 'memory')
  fail(`--only takes time or memory, not ${options.only}.`);
if (!peersInstalled()) fail(MISSING);
if (!presentEngines().includes('tensorflow')) fail('The native engine is not there; run `npm run native`.');

function isPart(word: string): word is PartName {
  return PARTS.some((part) => part === word);
}

function say(text: string): void {
  process.stdout.write(`${text}\n`);
}

let results: TimeMemoryResults = stored();
const { machine, revision } = provenance('');
for (const part of PARTS) {
  if (positionals.length > 0 && !positionals.includes(part)) continue;
  const settings = settingsOf(part, options.quick);
  const made = { machine, revision };
  if (options.only !== 'memory')
    await store({ time: { ...results.time, [part]: { ...made, points: await timesOf(settings) } } });
  if (options.only === 'time') continue;
  if (COUNTS_MEMORY)
    await store({ memory: { ...results.memory, [part]: { ...made, points: await memoryOf(settings) } } });
  else say('memory is left out: that of a process is counted on Linux only');
}
if (options.quick) process.stdout.write(`\n${renderTimeMemory(results)}`);
else say('written to docs/results/time-memory.md');

function stored(): TimeMemoryResults {
  const earlier = options.quick ? undefined : (readResults('time-memory') as TimeMemoryResults | undefined);
  return earlier ?? { command: COMMAND, time: {}, memory: {} };
}

async function store(changed: Partial<TimeMemoryResults>): Promise<void> {
  results = { ...results, ...changed };
  if (options.quick) return;
  const page = ['time-memory.md', renderTimeMemory(results)] as const;
  await writeResults('time-memory', results, new Map([page, ...renderFigures(results)]));
}

/** All take turns at every point, each in a process that stays. */
async function timesOf(settings: readonly Setting[]): Promise<TimePoint[]> {
  const processes: PeerProcess[] = [];
  try {
    const peers: { optimizer: PeerOptimizer; contender: Contender }[] = [];
    for (const [name, optimizer] of OPTIMIZERS) {
      const process = await PeerProcess.start(THREADS);
      processes.push(process);
      peers.push({ optimizer, contender: contenderOf(process, name, optimizer) });
    }
    const points: TimePoint[] = [];
    for (const { x, network, batch, rounds, hasVanilla } of settings) {
      const racing = peers.filter(({ optimizer }) => hasVanilla || optimizer !== VANILLA);
      const contenders = [engineContender('tensorflow'), ...racing.map(({ contender }) => contender)];
      const timings = await measureInTurns(problem(`x = ${String(x)}`, network, batch), contenders, rounds, say);
      // The engine's contender has a name of its own.
      points.push({
        x,
        rounds,
        timings: timings.map(({ name, mean }, index) => ({ name: index === 0 ? OURS : name, milliseconds: mean })),
      });
    }
    return points;
  } finally {
    for (const process of processes) await process.stop();
  }
}

/** As bench/engine's, with a process that takes one task after the other. */
function contenderOf(process: PeerProcess, name: string, optimizer: PeerOptimizer): Contender {
  return {
    name,
    async prepare({ model, batch, batches }) {
      const inputs = Float32Array.from(batches.flatMap((each) => [...each.inputs]));
      const labels = batches.flatMap((each) => [...each.labels]);
      await process.prepare({ network: model, batch, optimizer, data: { inputs, labels } });
      return {
        round: async () => (await process.steps(batches.length)).milliseconds,
        peak: async (order) => (await process.matmul(order)).flopsPerSecond,
        stop: () => Promise.resolve(),
      };
    },
  };
}

/** The most that a process holds during a net's first steps, over what it held before the first net but a tiny one. */
async function memoryOf(settings: readonly Setting[]): Promise<MemoryPoint[]> {
  const peaks = settings.map((): { name: string; bytes: number }[] => []);
  for (const [index, { x, network, batch }] of settings.entries()) {
    say(`memory at x = ${String(x)}: ${OURS}`);
    peaks[index]?.push({ name: OURS, bytes: (await enginePeak('tensorflow', network, batch, 'kept')).bytes });
  }
  for (const [name, optimizer] of OPTIMIZERS) {
    say(`memory: ${name}`);
    const process = await PeerProcess.start(THREADS);
    try {
      await process.prepare({ network: perceptron([4, 4, 10]), batch: 4, optimizer });
      await process.steps(MEMORY_STEPS);
      const before = residentBytes(process.id);
      // From small to large, so that what one net leaves to the next is not the most of it.
      for (const [index, { network, batch, hasVanilla }] of settings.entries()) {
        if (optimizer === VANILLA && !hasVanilla) continue;
        await process.prepare({ network, batch, optimizer });
        forgetPeak(process.id);
        await process.steps(MEMORY_STEPS);
        peaks[index]?.push({ name, bytes: peakBytes(process.id) - before });
      }
    } finally {
      await process.stop();
    }
  }
  return settings.map(({ x }, index) => ({ x, peaks: peaks[index] ?? [] }));
}
