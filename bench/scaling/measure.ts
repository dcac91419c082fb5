/** What is measured: peaks of steps, memory of sessions, memory of graphs. */
import { availableParallelism } from 'node:os';
import { hostedDefinition } from '../engine/problem.ts';
import { perceptron } from '../peers/networks.ts';
import { PeerProcess, type PeerOptimizer } from '../peers/peers.ts';
import type { EngineName } from '../../gpu-worker/tensor/engine.ts';
import type { ModelInput } from '../../shared/model.ts';
import { fitLine } from './fit.ts';
import { MeasuredProcess } from './measured-process.ts';
import { forgetPeak, peakBytes, residentBytes } from './process-memory.ts';
import { measuredName, type GraphPoint, type Peak, type SessionGrowth } from './report.ts';
import type { SessionCase } from './sessions.ts';

/** Steps after which every graph of a session is made: the first, one without refresh, one with. */
const STEPS_TO_REFRESH = 11;
/** wasm has no graphs, and its refreshes take long. */
const STEPS_ON_WASM = 2;

/** What the allocator does with freed blocks: keep them for later ones, its default, or give the larger ones back at once. */
export type Freed = 'kept' | 'returned';

/** Of glibc. */
const RETURNS_BLOCKS = { MALLOC_MMAP_THRESHOLD_: '131072' };

/** The peak of the first steps of a net in a process that has not seen it, over what it held before them. */
export async function enginePeak(engine: EngineName, model: ModelInput, batch: number, freed: Freed): Promise<Peak> {
  const process = await MeasuredProcess.start(freed === 'returned' ? RETURNS_BLOCKS : {});
  try {
    await process.ask({ kind: 'load', engine });
    await process.ask({ kind: 'prepare', model, batch });
    const before = residentBytes(process.id);
    forgetPeak(process.id);
    const count = engine === 'wasm' ? STEPS_ON_WASM : STEPS_TO_REFRESH;
    const [first = Number.NaN, second = Number.NaN, ...later] = await process.ask({ kind: 'steps', count });
    const bytes = peakBytes(process.id) - before;
    const name = measuredName(engine, freed);
    return { name, bytes, milliseconds: { first, second, later: Math.min(second, ...later) } };
  } finally {
    await process.stop();
  }
}

/** The same of a peer. */
export async function peerPeak(
  name: string,
  optimizer: PeerOptimizer,
  network: ModelInput,
  batch: number,
): Promise<Peak> {
  const process = await PeerProcess.start(availableParallelism());
  try {
    // As our own process: what it takes once is not counted.
    await process.prepare({ network: perceptron([4, 10]), batch: 4, optimizer });
    await process.steps(STEPS_TO_REFRESH);
    const inputs = new Float32Array(batch * network.input.reduce((product, size) => product * size, 1)).fill(0.5);
    const labels = new Float32Array(batch);
    await process.prepare({ network, batch, optimizer, data: { inputs, labels } });
    const before = residentBytes(process.id);
    forgetPeak(process.id);
    await process.steps(STEPS_TO_REFRESH);
    return { name: `${name}, PyTorch`, bytes: peakBytes(process.id) - before, milliseconds: null };
  } finally {
    await process.stop();
  }
}

/** Sessions opened before any is counted, so that graphs and freed memory are there. */
const FIRST_SESSIONS = 2;
const COUNTED_SESSIONS = 8;
/** Every state is as large as it becomes. */
const SESSION_STEPS = 3;

/** The growth of a process from session to session of the same definition. */
export async function sessionMemory(engine: EngineName, freed: Freed, session: SessionCase): Promise<SessionGrowth> {
  const { definition, sizes } = session;
  const process = await MeasuredProcess.start(freed === 'returned' ? RETURNS_BLOCKS : {});
  try {
    await process.ask({ kind: 'load', engine });
    const points: (readonly [number, number])[] = [];
    for (let count = 1; count <= FIRST_SESSIONS + COUNTED_SESSIONS; count++) {
      await process.ask({ kind: 'session', definition, sizes, steps: SESSION_STEPS });
      if (count > FIRST_SESSIONS) points.push([count, residentBytes(process.id)]);
    }
    const { slope, error } = fitLine(points);
    return { name: measuredName(engine, freed), bytes: slope, error };
  } finally {
    await process.stop();
  }
}

/** Narrow, so that nothing else of a step takes memory. */
const NARROW = 8;
const FIRST_BATCHES = 1;
const COUNTED_BATCHES = 4;

/** The growth of a process from batch size to batch size: each has its own graphs. */
export async function graphMemory(layers: number): Promise<GraphPoint> {
  const process = await MeasuredProcess.start();
  try {
    await process.ask({ kind: 'load', engine: 'tensorflow' });
    const definition = hostedDefinition(deepPerceptron(layers, NARROW));
    const points: (readonly [number, number])[] = [];
    for (let count = 1; count <= FIRST_BATCHES + COUNTED_BATCHES; count++) {
      const sizes = { batch: 4 + count, positions: 1 };
      await process.ask({ kind: 'session', definition, sizes, steps: STEPS_TO_REFRESH });
      if (count > FIRST_BATCHES) points.push([count, residentBytes(process.id)]);
    }
    return { layers, bytes: fitLine(points).slope };
  } finally {
    await process.stop();
  }
}

/** Dense layers of one width, and the last with ten outputs. */
export function deepPerceptron(layers: number, width: number): ModelInput {
  return perceptron([...new Array<number>(layers).fill(width), 10]);
}
