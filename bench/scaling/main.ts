/**
 * npm run bench:scaling: time and memory of a step against batch and depth, next to PyTorch's, and the memory of sessions and graphs
 * next to the formulas. Writes docs/results/scaling.json, scaling.md and its figures after every part; parts that are not run stay
 * as they are.
 *
 * usage: npm run bench:scaling [-- [--quick] [batch] [depth] [memory] [sessions] [graphs]]
 *
 * Without names every part is run. --quick takes few points, and writes nothing but the page to the standard output.
 */
import { availableParallelism } from 'node:os';
import type { EngineName } from '../../gpu-worker/tensor/engine.ts';
import { presentEngines } from '../../gpu-worker/tensor/index.ts';
import type { ModelInput } from '../../shared/model.ts';
import { stateBytes } from '../../shared/session.ts';
import { stepBytes } from '../../shared/step.ts';
import { engineContender, peerContender, PEERS, type Contender } from '../engine/contender.ts';
import { measureInTurns } from '../engine/measure.ts';
import { hostedDefinition, problem } from '../engine/problem.ts';
import { MISSING, peersInstalled } from '../peers/environment.ts';
import { NETWORKS } from '../peers/networks.ts';
import { provenance } from '../provenance.ts';
import { readResults, writeResults } from '../results-folder.ts';
import { deepPerceptron, enginePeak, graphMemory, peerPeak, sessionMemory, type Freed } from './measure.ts';
import { COUNTS_MEMORY } from './process-memory.ts';
import { DEPTH_BATCH, DEPTH_WIDTH, measuredName, renderScaling, scalingFigures, type MemoryPoint, type PartName, type ScalingResults, type SessionMemory, type TimePoint } from './report.ts'; // prettier-ignore
import { SESSION_CASES, type SessionCase } from './sessions.ts';

const COMMANDS = ['batch', 'depth', 'memory', 'sessions', 'graphs'] as const;
type Command = (typeof COMMANDS)[number];

const words = process.argv.slice(2);
const isQuick = words.includes('--quick');
const named = words.filter((word) => word !== '--quick');
const unknown = named.find((word) => !isCommand(word));
if (unknown !== undefined) {
  process.stderr.write(`there is no part ${JSON.stringify(unknown)}; the parts are ${COMMANDS.join(', ')}\n`);
  process.exit(2);
}

const BATCHES = isQuick ? [32, 128, 512] : [32, 64, 128, 256, 512, 1024, 2048];
const DEPTHS = isQuick ? [4, 8, 16] : [4, 8, 16, 32, 64];
/** Rounds of ten steps, after one that warms up: fewer where they take long. */
const rounds = (work: number): number => (isQuick ? 1 : work > 1 ? 2 : work > 0.25 ? 4 : 7);
/** Beyond, a step on wasm takes many seconds. */
const LARGEST_ON_WASM = { batch: 512, depth: 32 };

const engines = presentEngines().filter((name) => name !== 'reference');
/** wasm has an allocator of its own. */
const MEASURED = engines.flatMap((engine): (readonly [EngineName, Freed])[] =>
  engine === 'wasm' ? [[engine, 'kept']] : [[engine, 'kept'], [engine, 'returned']],
); // prettier-ignore
const hasTensorFlow = engines.includes('tensorflow');
const peers = peersInstalled() ? PEERS.filter(([, { kind }]) => kind !== 'kfac') : [];
const { machine, revision } = provenance('');

let results: ScalingResults = stored();
for (const command of COMMANDS) {
  if (named.length > 0 && !named.includes(command)) continue;
  const missing = missingFor(command);
  if (missing === null) await run(command);
  else say(`${command} is left out: ${missing}`);
}
if (isQuick) process.stdout.write(`\n${renderScaling(results)}`);
else say('written to docs/results/scaling.md');

/** What this machine lacks for a part, in words; null if nothing. */
function missingFor(command: Command): string | null {
  const isTimed = command === 'batch' || command === 'depth';
  if (!hasTensorFlow && command !== 'memory' && command !== 'sessions')
    return 'npm run native builds the native engine';
  if (isTimed && peers.length === 0) return MISSING;
  return isTimed || COUNTS_MEMORY ? null : 'the memory of a process is counted on Linux only';
}

function isCommand(word: string): word is Command {
  return COMMANDS.some((command) => command === word);
}

function say(text: string): void {
  process.stdout.write(`${text}\n`);
}

function stored(): ScalingResults {
  const command = 'npm run bench:scaling';
  const earlier = isQuick ? undefined : (readResults('scaling') as ScalingResults | undefined);
  return earlier ?? { command };
}

async function run(command: Command): Promise<void> {
  switch (command) {
    case 'batch':
      await store('batch', await inTurn(BATCHES, batchTime));
      return;
    case 'depth':
      await store('depth', await inTurn(DEPTHS, depthTime));
      return;
    case 'memory':
      await store('memoryByBatch', await inTurn(BATCHES, (batch) => memory(batch, NETWORKS['mlp-256'], 3, batch, batch <= LARGEST_ON_WASM.batch))); // prettier-ignore
      await store('memoryByDepth', await inTurn(DEPTHS, (depth) => memory(depth, deepPerceptron(depth, DEPTH_WIDTH), depth, DEPTH_BATCH, depth <= LARGEST_ON_WASM.depth))); // prettier-ignore
      return;
    case 'sessions':
      await store('sessions', await inTurn(isQuick ? SESSION_CASES.slice(0, 1) : SESSION_CASES, session));
      return;
    case 'graphs':
      await store('graphs', await inTurn(DEPTHS, (depth) => {
        say(`graphs of ${String(depth)} layers`);
        return graphMemory(depth);
      })); // prettier-ignore
  }
}

async function inTurn<Item, Point>(items: readonly Item[], measure: (item: Item) => Promise<Point>): Promise<Point[]> {
  const points: Point[] = [];
  for (const item of items) points.push(await measure(item));
  return points;
}

async function batchTime(batch: number): Promise<TimePoint> {
  const factorised = hasTensorFlow && batch > 1024 ? [engineContender('tensorflow', 'factorised')] : [];
  return time(batch, NETWORKS['mlp-256'], batch, rounds(batch / 1024), factorised);
}

async function depthTime(depth: number): Promise<TimePoint> {
  return time(depth, deepPerceptron(depth, DEPTH_WIDTH), DEPTH_BATCH, rounds(depth / 48), []);
}

async function time(
  x: number,
  model: ModelInput,
  batch: number,
  count: number,
  more: readonly Contender[],
): Promise<TimePoint> {
  const ours = hasTensorFlow ? [engineContender('tensorflow')] : [];
  const others = peers.map(([name, optimizer]) => peerContender(name, optimizer, availableParallelism()));
  const layers = model.layers.filter(({ kind }) => kind === 'dense').length;
  const task = problem(`${String(layers)} layers`, model, batch);
  return { x, rounds: count, timings: await measureInTurns(task, [...ours, ...more, ...others], count, say) };
}

async function memory(
  x: number,
  model: ModelInput,
  layers: number,
  batch: number,
  takesWasm: boolean,
): Promise<MemoryPoint> {
  const definition = hostedDefinition(model);
  const peaks = [];
  for (const [engine, freed] of MEASURED) {
    if (engine === 'wasm' && !takesWasm) continue;
    say(`memory of ${String(layers)} layers, B = ${String(batch)}: ${measuredName(engine, freed)}`);
    peaks.push(await enginePeak(engine, model, batch, freed));
  }
  for (const [name, optimizer] of peers) {
    say(`memory of ${String(layers)} layers, B = ${String(batch)}: ${name} in PyTorch`);
    peaks.push(await peerPeak(name, optimizer, model, batch));
  }
  return { x, layers, stateBytes: stateBytes(definition), stepBytes: stepBytes(definition, batch), peaks };
}

async function session(each: SessionCase): Promise<SessionMemory> {
  const growths = [];
  for (const [engine, freed] of MEASURED) {
    say(`memory of a session, ${each.name}: ${measuredName(engine, freed)}`);
    growths.push(await sessionMemory(engine, freed, each));
  }
  return { name: each.name, formula: stateBytes(each.definition), growths };
}

/** Writes what there is: a run that is interrupted loses the part that it is at. */
async function store<Name extends PartName>(
  name: Name,
  points: NonNullable<ScalingResults[Name]>['points'],
): Promise<void> {
  results = { ...results, [name]: { machine, revision, points } };
  if (isQuick) return;
  const page = ['scaling.md', renderScaling(results)] as const;
  await writeResults('scaling', results, new Map([page, ...scalingFigures(results)]));
}
