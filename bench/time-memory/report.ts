/** The results as Markdown and figures: pure functions of the stored JSON, which a test holds the page to. */
import { renderFigure } from '../figure.ts';
import { markdownTable } from '../markdown.ts';
import type { Provenance } from '../provenance.ts';
import { fitExponent } from '../scaling/fit.ts';
import { DESCRIPTIONS, OPTIMIZERS, PARTS, X_NAMES, type PartName } from './parts.ts';

/** Points of one part, which is run by itself. */
interface Part<Point> extends Omit<Provenance, 'engine'> {
  readonly points: readonly Point[];
}

export interface TimePoint {
  readonly x: number;
  readonly rounds: number;
  /** Mean over the steps of a round, a refresh among them, of each the median over the rounds. */
  readonly timings: readonly { readonly name: string; readonly milliseconds: number }[];
}

export interface MemoryPoint {
  readonly x: number;
  readonly peaks: readonly { readonly name: string; readonly bytes: number }[];
}

export interface TimeMemoryResults {
  readonly command: string;
  readonly time: Partial<Readonly<Record<PartName, Part<TimePoint>>>>;
  readonly memory: Partial<Readonly<Record<PartName, Part<MemoryPoint>>>>;
}

/** The worker's step on the native engine. */
export const OURS = 'DDPNOpt, the worker';
const PEER = 'DDPNOpt';
const ADAM = 'Adam';
const VANILLA_NAME = 'vanilla DDP';
const NAMES = [OURS, ...OPTIMIZERS.map(([name]) => name)];
/** The figures show those that the question is about. */
const DRAWN = [OURS, PEER, VANILLA_NAME, 'E-MSA', 'EKFAC', 'K-FAC', 'Muon', ADAM];
/** A process's memory comes in pages, and its allocator takes them by the hundred. */
const SMALLEST_BYTES = 1e6;

type Value = (name: string) => number | undefined;

interface Row {
  readonly x: number;
  readonly value: Value;
}

const KINDS = {
  time: { title: 'Time', file: 'time' },
  memory: { title: 'Memory', file: 'memory' },
} as const;
type Kind = keyof typeof KINDS;

export function renderTimeMemory(results: TimeMemoryResults): string {
  const sections = PARTS.flatMap((part) =>
    (['time', 'memory'] as const).map((kind) => renderPart(results, kind, part)),
  );
  return `# What a step takes, next to dynamic programming with dense matrices

Made by \`${results.command}\`.

The paper's claim is that DDPNOpt makes differential dynamic programming affordable: DDP with dense matrices holds Q_uu, Q_ux and V_xx of every
layer, DDPNOpt never forms them. Here both train the same small dense nets, with rectifiers, cross-entropy and random data, and so do
E-MSA and the usual optimizers. "${OURS}" is the worker's hosted step on its native engine; all others are PyTorch's, with one thread.
DDPNOpt, K-FAC and EKFAC refresh their factorisations every 10 steps, E-MSA takes 10 iterations of L-BFGS a layer, and vanilla DDP is the cheaper form,
without second derivatives of the layers; where it has no value, a step would pass the bound that the bench sets, minutes or gigabytes by its estimate. bench:scaling has [the same step on larger
nets](scaling.md).

Times: mean of a step, refreshes included, medians over rounds in which all take turns. On nets as small
as these a step is calls rather than arithmetic: only ratios within a column mean anything, and those below two little. Memory: the most that a process holds over what it held after a tiny net, each optimizer in its own; less than 1 MB is not resolved. The worker's has the compiled graphs of its
steps in it.

${missing(results)}${summary(results)}${sections.join('')}`;
}

/** Parts that were not run. */
function missing(results: TimeMemoryResults): string {
  const left = PARTS.flatMap((part) =>
    (['time', 'memory'] as const).flatMap((kind) =>
      results[kind][part] === undefined ? [`${KINDS[kind].title.toLowerCase()} against ${X_NAMES[part]}`] : [],
    ),
  );
  return left.length === 0 ? '' : `Planned, and not run yet: ${left.join(', ')}.\n\n`;
}

/** How many times as much vanilla DDP takes as DDPNOpt, both in PyTorch, at the largest point that both have. */
function summary(results: TimeMemoryResults): string {
  const rows = PARTS.flatMap((part) =>
    (['time', 'memory'] as const).flatMap((kind) => {
      const shared = rowsOf(results, kind, part).filter(({ value }) => value(VANILLA_NAME) !== undefined);
      const last = shared.at(-1);
      if (last === undefined) return [];
      const own = (name: string): string => show(kind, last.value(name));
      const ratio = (to: string): string => ratioOf(kind, last.value(VANILLA_NAME), last.value(to));
      return [
        [
          `${KINDS[kind].title.toLowerCase()}, ${X_NAMES[part]} ${String(last.x)}`,
          own(VANILLA_NAME),
          ratio(PEER),
          ratio(OURS),
          ratio(ADAM),
        ],
      ];
    }),
  );
  if (rows.length === 0) return '';
  return `How many times as much vanilla DDP takes, at the largest point where it was measured:

${markdownTable(['', 'vanilla DDP, ms or MB', 'to DDPNOpt, PyTorch', `to ${OURS}`, 'to Adam'], rows)}
`;
}

/** The SVG files by name. */
export function renderFigures(results: TimeMemoryResults): ReadonlyMap<string, string> {
  const figures = new Map<string, string>();
  for (const part of PARTS) {
    for (const kind of ['time', 'memory'] as const) {
      const rows = rowsOf(results, kind, part);
      if (rows.length === 0) continue;
      const series = DRAWN.map((name) => ({
        name,
        points: rows.flatMap(({ x, value }) => {
          const own = value(name);
          return own === undefined || (kind === 'memory' && own < SMALLEST_BYTES / 1e6) ? [] : [[x, own] as const];
        }),
      })).filter(({ points }) => points.length > 0);
      const title = `${KINDS[kind].title} of a step against ${X_NAMES[part]}`;
      const xTicks = rows.map(({ x }) => x);
      const labels = { title, xLabel: X_NAMES[part], yLabel: kind === 'time' ? 'milliseconds' : 'MB', xTicks };
      figures.set(figureName(kind, part), renderFigure({ ...labels, series }));
    }
  }
  return figures;
}

function figureName(kind: Kind, part: PartName): string {
  return `time-memory-${KINDS[kind].file}-${part}.svg`;
}

/** In milliseconds, or in MB. */
function rowsOf({ time, memory }: TimeMemoryResults, kind: Kind, part: PartName): Row[] {
  if (kind === 'time') {
    return (time[part]?.points ?? []).map(({ x, timings }) => {
      return { x, value: (name) => timings.find((each) => each.name === name)?.milliseconds };
    });
  }
  return (memory[part]?.points ?? []).map(({ x, peaks }) => {
    const value: Value = (name) => {
      const bytes = peaks.find((each) => each.name === name)?.bytes;
      return bytes === undefined ? undefined : bytes / 1e6;
    };
    return { x, value };
  });
}

function renderPart(results: TimeMemoryResults, kind: Kind, part: PartName): string {
  const made = results[kind][part];
  if (made === undefined) return '';
  const rows = rowsOf(results, kind, part);
  const table = NAMES.map((name) => [
    name,
    ...rows.flatMap(({ value }) => [
      show(kind, value(name)),
      ...(kind === 'time' ? [ratioOf(kind, value(name), value(ADAM))] : []),
    ]),
    ...(kind === 'memory' ? [exponent(name, rows)] : []),
  ]);
  const columns = rows.flatMap(({ x }) => (kind === 'time' ? [String(x), 'to Adam'] : [String(x)]));
  return `
## ${KINDS[kind].title} against ${X_NAMES[part]}

Revision ${made.revision}; ${made.machine}. ${DESCRIPTIONS[part]}. ${kind === 'time' ? `Milliseconds of a step; rounds: ${(results.time[part]?.points ?? []).map(({ rounds }) => String(rounds)).join(', ')}.` : 'MB, at most; p is that of xᵖ, fitted over the points that are resolved.'}

${markdownTable(['optimizer', ...columns, ...(kind === 'memory' ? ['p'] : [])], table)}

![${KINDS[kind].title} against ${X_NAMES[part]}](${figureName(kind, part)})
`;
}

/** Of memory. */
function exponent(name: string, rows: readonly Row[]): string {
  const points = rows.flatMap(({ x, value }) => {
    const own = value(name);
    return own === undefined || own < SMALLEST_BYTES / 1e6 ? [] : [[x, own] as const];
  });
  if (points.length < 3) return '';
  const { slope, error } = fitExponent(points);
  return `${slope.toFixed(1)} ± ${error.toFixed(1)}`;
}

function show(kind: Kind, value: number | undefined): string {
  if (value === undefined) return '–';
  if (kind === 'memory' && value < SMALLEST_BYTES / 1e6) return '< 1';
  return value < 10 ? value.toFixed(2) : value.toFixed(0);
}

/** Of what is not resolved the smallest that is, so that a ratio to it is a lower bound. */
function ratioOf(kind: Kind, value: number | undefined, to: number | undefined): string {
  if (value === undefined || to === undefined) return '–';
  const smallest = SMALLEST_BYTES / 1e6;
  const isBound = kind === 'memory' && to < smallest;
  const ratio = value / (isBound ? smallest : to);
  return `${isBound ? '> ' : ''}${ratio < 10 ? ratio.toFixed(1) : ratio.toFixed(0)}`;
}
