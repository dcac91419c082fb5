/** The results as Markdown and figures: pure functions of the stored JSON, which a test holds the pages to. */
import type { Timing } from '../engine/measure.ts';
import { renderFigure, type Series } from '../figure.ts';
import { markdownTable } from '../markdown.ts';
import type { Provenance } from '../provenance.ts';
import { fitExponent, fitLine } from './fit.ts';

/** Points of one part of the benchmark, which is run by itself. */
interface Part<Point> extends Omit<Provenance, 'engine'> {
  readonly points: readonly Point[];
}

/** Steps of one batch size or depth. */
export interface TimePoint {
  readonly x: number;
  readonly rounds: number;
  readonly timings: readonly Timing[];
}

/** The most a process takes over what it held before its first step. */
export interface Peak {
  readonly name: string;
  readonly bytes: number;
  /** Of the first step, the second, and the fastest after them; null where they are not asked for. */
  readonly milliseconds: { readonly first: number; readonly second: number; readonly later: number } | null;
}

/** Peaks at one batch size or depth, next to what the formulas say. */
export interface MemoryPoint {
  readonly x: number;
  readonly layers: number;
  /** Of the session's state. */
  readonly stateBytes: number;
  /** Of a step beside it. */
  readonly stepBytes: number;
  readonly peaks: readonly Peak[];
}

/** By how much a process grows with every session. */
export interface SessionGrowth {
  readonly name: string;
  readonly bytes: number;
  /** Standard error. */
  readonly error: number;
}

export interface SessionMemory {
  readonly name: string;
  /** Bytes of the state by the formula. */
  readonly formula: number;
  readonly growths: readonly SessionGrowth[];
}

export interface GraphPoint {
  readonly layers: number;
  /** Of all graphs of one batch size. */
  readonly bytes: number;
}

export interface ScalingResults {
  readonly command: string;
  readonly batch?: Part<TimePoint>;
  readonly depth?: Part<TimePoint>;
  readonly memoryByBatch?: Part<MemoryPoint>;
  readonly memoryByDepth?: Part<MemoryPoint>;
  readonly sessions?: Part<SessionMemory>;
  readonly graphs?: Part<GraphPoint>;
}

export type PartName = Exclude<keyof ScalingResults, 'command'>;

/** Of the net whose depth stays, and of the batch that does. */
const BATCH_NETWORK = '784-256-256-10';
export const DEPTH_WIDTH = 256;
export const DEPTH_BATCH = 128;

/** What is measured of an engine, with what its process does with freed blocks. */
export function measuredName(engine: string, freed: 'kept' | 'returned'): string {
  return `DDPNOpt, ${engine}${freed === 'returned' ? ', freed blocks returned' : ''}`;
}

const OURS = measuredName('tensorflow', 'kept');
const PEER = 'DDPNOpt, PyTorch';
const ADAM = 'Adam, PyTorch';
const WASM = measuredName('wasm', 'kept');
const RETURNED = measuredName('tensorflow', 'returned');
const FACTORISED = 'DDPNOpt, tensorflow, factorised';

/** Files beside the page, by name. */
export function scalingFigures(results: ScalingResults): ReadonlyMap<string, string> {
  const { batch, depth, memoryByBatch, memoryByDepth } = results;
  const figures = new Map<string, string>();
  if (batch !== undefined) figures.set('scaling-time-batch.svg', timeFigure('A step against the batch', 'samples in a batch', batch)); // prettier-ignore
  if (depth !== undefined) figures.set('scaling-time-depth.svg', timeFigure('A step against the depth', 'layers', depth)); // prettier-ignore
  if (memoryByBatch !== undefined) figures.set('scaling-memory-batch.svg', memoryFigure('Memory against the batch', 'samples in a batch', results, memoryByBatch)); // prettier-ignore
  if (memoryByDepth !== undefined) figures.set('scaling-memory-depth.svg', memoryFigure('Memory against the depth', 'layers', results, memoryByDepth)); // prettier-ignore
  return figures;
}

function timeFigure(title: string, xLabel: string, { points }: Part<TimePoint>): string {
  const curve = (name: string, value: (timing: Timing) => number): [number, number][] =>
    points.flatMap(({ x, timings }): [number, number][] => {
      const timing = timings.find((each) => each.name === name);
      return timing === undefined ? [] : [[x, value(timing)]];
    });
  const series: Series[] = [
    { name: 'DDPNOpt, TensorFlow', points: curve(OURS, ({ step }) => step) },
    { name: 'its refresh, TensorFlow', points: curve(OURS, refreshCost) },
    { name: 'DDPNOpt, PyTorch', points: curve(PEER, ({ step }) => step) },
    { name: 'its refresh, PyTorch', points: curve(PEER, refreshCost) },
    { name: 'Adam, PyTorch', points: curve(ADAM, ({ mean }) => mean) },
  ];
  return renderFigure({ title, xLabel, yLabel: 'milliseconds', series: series.filter((each) => each.points.length > 0) }); // prettier-ignore
}

function memoryFigure(title: string, xLabel: string, results: ScalingResults, { points }: Part<MemoryPoint>): string {
  const curve = (name: string): [number, number][] =>
    points.flatMap(({ x, peaks }): [number, number][] => {
      const peak = peaks.find((each) => each.name === name);
      return peak === undefined ? [] : [[x, peak.bytes / 1e6]];
    });
  const series: Series[] = [
    { name: 'DDPNOpt, TensorFlow', points: curve(OURS) },
    { name: 'freed blocks returned', points: curve(RETURNED) },
    { name: 'state, step and graphs', points: points.map((point) => [point.x, expectedBytes(results, point) / 1e6]), isDashed: true }, // prettier-ignore
    { name: 'DDPNOpt, WebAssembly', points: curve(WASM) },
    { name: 'state and step', points: points.map((point) => [point.x, tensorBytes(point) / 1e6]), isDashed: true }, // prettier-ignore
    { name: 'DDPNOpt, PyTorch', points: curve(PEER) },
    { name: 'Adam, PyTorch', points: curve(ADAM) },
  ];
  return renderFigure({ title, xLabel, yLabel: 'MB', series: series.filter((each) => each.points.length > 0) });
}

/** What a refresh adds to a step. */
function refreshCost({ step, refreshStep }: Timing): number {
  return refreshStep - step;
}

/** State and step by the formulas. */
function tensorBytes({ stateBytes, stepBytes }: MemoryPoint): number {
  return stateBytes + stepBytes;
}

/** With the graphs as they were measured. */
function expectedBytes({ graphs }: ScalingResults, point: MemoryPoint): number {
  return tensorBytes(point) + (graphs === undefined ? 0 : graphBytes(graphs.points, point.layers));
}

function graphBytes(points: readonly GraphPoint[], layers: number): number {
  const { slope, intercept } = graphLine(points);
  return intercept + slope * layers;
}

function graphLine(points: readonly GraphPoint[]): ReturnType<typeof fitLine> {
  return fitLine(points.map(({ layers, bytes }) => [layers, bytes]));
}

export function renderScaling(results: ScalingResults): string {
  const { batch, depth, memoryByBatch, memoryByDepth, sessions, graphs } = results;
  const sections = [
    batch === undefined ? '' : renderBatch(batch),
    depth === undefined ? '' : renderDepth(depth),
    memoryByBatch === undefined ? '' : renderMemory('batch', 'batch', results, memoryByBatch),
    memoryByDepth === undefined ? '' : renderMemory('depth', 'layers', results, memoryByDepth),
    sessions === undefined ? '' : renderSessions(sessions),
    graphs === undefined ? '' : renderGraphs(graphs, memoryByDepth),
  ];
  return `# What a step and a session take as nets and batches grow

Made by \`${results.command}\`. Steps are whole training steps of a hosted model with the defaults: metric \`kronecker\` refreshed every
10 steps, coupling \`feedback\`, full batch coupling; next to the same step and Adam in PyTorch. Times are medians over rounds in which
the contenders take turns; only ratios within a row mean anything, since the machine is shared.
${sections.join('')}`;
}

function made({ revision, machine }: Part<unknown>): string {
  return `Revision ${revision}; ${machine}.`;
}

function renderBatch(part: Part<TimePoint>): string {
  const factorised = part.points.flatMap(({ x, timings }) => {
    const timing = timings.find(({ name }) => name === FACTORISED);
    const peer = timings.find(({ name }) => name === PEER);
    return timing === undefined || peer === undefined ? [] : [{ x, timing, peer }];
  });
  const remarks = factorised.map(
    ({ x, timing, peer }) =>
      ` Above 1,024 rows the default solves the batch's systems by conjugate gradients; PyTorch's step factorises them. With Cholesky ` +
      `factors, too, at ${grouped(x)} samples our step takes ${timing.step.toFixed(1)} ms and its mean is ${(timing.mean / peer.mean).toFixed(2)} of PyTorch's.`,
  );
  return `
## Time against the batch

${made(part)} Net ${BATCH_NETWORK}.${remarks.join('')}

${timeTable('batch', part)}

![Milliseconds of a step against the batch](scaling-time-batch.svg)
`;
}

function renderDepth(part: Part<TimePoint>): string {
  return `
## Time against the depth

${made(part)} Dense layers of width ${String(DEPTH_WIDTH)} with rectifiers, batches of ${String(DEPTH_BATCH)}.

${timeTable('layers', part)}

![Milliseconds of a step against the depth](scaling-time-depth.svg)

Cost grows as depthᵖ, fitted over all depths (± standard error; 1 is linear):

${markdownTable(
  ['p', 'step', 'refresh', 'mean'],
  [OURS, PEER, ADAM].flatMap((name) => {
    const timings = part.points.flatMap(({ x, timings: all }) =>
      all.filter((each) => each.name === name).map((timing) => ({ x, timing })),
    );
    if (timings.length < 3) return [];
    const exponent = (value: (timing: Timing) => number): string => {
      const { slope, error } = fitExponent(timings.map(({ x, timing }) => [x, value(timing)]));
      return `${slope.toFixed(2)} ± ${error.toFixed(2)}`;
    };
    const refresh = name === ADAM ? '' : exponent(refreshCost);
    return [[name, exponent(({ step }) => step), refresh, exponent(({ mean }) => mean)]];
  }),
)}
`;
}

function timeTable(xName: string, { points }: Part<TimePoint>): string {
  const header = [xName, 'step, ms', 'refresh, ms', 'mean, ms', 'PyTorch: step', 'refresh', 'mean', 'ratio', 'Adam', 'ratio']; // prettier-ignore
  const rows = points.map(({ x, timings }) => {
    const find = (name: string): Timing | undefined => timings.find((timing) => timing.name === name);
    const [ours, peer, adam] = [find(OURS), find(PEER), find(ADAM)];
    const cells = (timing: Timing | undefined): string[] =>
      timing === undefined
        ? ['', '', '']
        : [timing.step, refreshCost(timing), timing.mean].map((value) => value.toFixed(1));
    const ratio = (to: Timing | undefined): string =>
      ours === undefined || to === undefined ? '' : (ours.mean / to.mean).toFixed(2);
    return [grouped(x), ...cells(ours), ...cells(peer), ratio(peer), adam?.mean.toFixed(1) ?? '', ratio(adam)];
  });
  return markdownTable(header, rows);
}

function renderMemory(
  axis: 'batch' | 'depth',
  xName: string,
  results: ScalingResults,
  part: Part<MemoryPoint>,
): string {
  const net =
    axis === 'batch'
      ? `Net ${BATCH_NETWORK}.`
      : `Dense layers of width ${String(DEPTH_WIDTH)}, batches of ${String(DEPTH_BATCH)}.`;
  const header = [xName, 'state', 'step', 'graphs', 'TensorFlow', 'ratio', 'returned', 'ratio', 'wasm', 'ratio', 'PyTorch', 'Adam']; // prettier-ignore
  const rows = part.points.map((point) => {
    const find = (name: string): number | null => point.peaks.find((peak) => peak.name === name)?.bytes ?? null;
    const [ours, returned, wasm] = [find(OURS), find(RETURNED), find(WASM)];
    const ratio = (bytes: number | null, expected: number): string =>
      bytes === null ? '' : (bytes / expected).toFixed(2);
    return [
      grouped(point.x),
      megabytes(point.stateBytes),
      megabytes(point.stepBytes),
      results.graphs === undefined ? '' : megabytes(graphBytes(results.graphs.points, point.layers)),
      megabytes(ours),
      ratio(ours, expectedBytes(results, point)),
      megabytes(returned),
      ratio(returned, expectedBytes(results, point)),
      megabytes(wasm),
      ratio(wasm, tensorBytes(point)),
      megabytes(find(PEER)),
      megabytes(find(ADAM)),
    ];
  });
  const explanation =
    axis === 'batch'
      ? ` The most that a process holds during a net's first steps, a refresh among them, over what it held before them, in MB. The first columns are
what the formulas of [engines.md](../engines.md) say, and the graphs as measured below; ratios are to their sum, on wasm without graphs. A process
keeps much of what has been freed for later; "returned" is the same on TensorFlow where glibc's allocator gives freed blocks back at once
(\`MALLOC_MMAP_THRESHOLD_=131072\`), which shows what is alive, and takes longer.`
      : '';
  return `
## Peak memory against the ${axis}

${made(part)} ${net}${explanation}

${markdownTable(header, rows)}

![Peak memory against the ${axis}](scaling-memory-${axis}.svg)
`;
}

function renderSessions(part: Part<SessionMemory>): string {
  const rows = part.points.map(({ name, formula, growths }) => {
    const cells = (how: string): string[] => {
      const growth = growths.find((each) => each.name === how);
      if (growth === undefined) return ['', ''];
      return [
        `${(growth.bytes / 1e6).toFixed(2)} ± ${(growth.error / 1e6).toFixed(2)}`,
        (growth.bytes / formula).toFixed(2),
      ];
    };
    return [name, (formula / 1e6).toFixed(2), ...[RETURNED, OURS, WASM].flatMap(cells)];
  });
  return `
## Memory of a session

${made(part)} By how much a process grows from session to session of the same definition, in MB, ± standard error; ratios are to the
formula of [engines.md](../engines.md). With freed blocks returned it grows by what a session holds. Otherwise states lie among the gaps that
steps leave: what a session costs a process is more than it holds. The formula is that of the largest state; a first factor of
which few eigenvectors are kept takes less once it is frozen.

${markdownTable(['session', 'formula', 'TensorFlow, returned', 'ratio', 'TensorFlow', 'ratio', 'wasm', 'ratio'], rows)}
`;
}

function renderGraphs(part: Part<GraphPoint>, memory: Part<MemoryPoint> | undefined): string {
  const { slope, error } = graphLine(part.points);
  const milliseconds = (layers: number): string[] => {
    const point = memory?.points.find(({ x }) => x === layers);
    const times = point?.peaks.find(({ name }) => name === OURS)?.milliseconds ?? null;
    return times === null ? ['', '', ''] : [times.first, times.second, times.later].map((value) => value.toFixed(0));
  };
  const rows = part.points.map(({ layers, bytes }) => [grouped(layers), megabytes(bytes), ...milliseconds(layers)]);
  return `
## Graphs

${made(part)} What the graphs of one net and one batch size hold: those of the first step, of a step without refresh, and of one with. It is ${(slope / 1e6).toFixed(2)} ± ${(error / 1e6).toFixed(2)} MB per dense layer. The times are those of single steps of the net of width ${String(DEPTH_WIDTH)}: the first two make graphs, later ones do not.

${markdownTable(['layers', 'MB', 'first step, ms', 'second', 'later'], rows)}
`;
}

function megabytes(bytes: number | null): string {
  return bytes === null ? '' : (bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0);
}

function grouped(value: number): string {
  return value.toLocaleString('en');
}
