/** The results as Markdown: a pure function of the stored JSON, which a test holds the page to. */
import { markdownTable } from '../markdown.ts';
import type { Provenance } from '../provenance.ts';

export const METRICS = ['kronecker', 'identity', 'adam'] as const;

/** What travels in fewer bytes, and as what. */
export const VARIANTS = [
  { direction: 'sent', dtype: 'F16' },
  { direction: 'sent', dtype: 'BF16' },
  { direction: 'sent', dtype: 'I8' },
  { direction: 'received', dtype: 'F16' },
  { direction: 'received', dtype: 'BF16' },
  { direction: 'received', dtype: 'I8' },
] as const;
export type Variant = (typeof VARIANTS)[number];

export interface TransportCell {
  readonly metric: (typeof METRICS)[number];
  readonly variant: Variant;
  /** Largest relative Euclidean error of a layer's change over the steps, against the same step in float32. */
  readonly error: number;
  /** Bytes of a step, sent or received. */
  readonly bytes: number;
  /** The same in float32. */
  readonly fullBytes: number;
}

export interface TransportResults extends Provenance {
  readonly command: string;
  readonly widths: readonly number[];
  readonly batchSize: number;
  readonly steps: number;
  readonly cells: readonly TransportCell[];
}

export function renderTransport({
  command,
  machine,
  revision,
  engine,
  widths,
  batchSize,
  steps,
  cells,
}: TransportResults): string {
  const rows = VARIANTS.map((variant) => {
    const found = METRICS.map((metric) =>
      cells.find(
        (each) =>
          each.metric === metric &&
          each.variant.direction === variant.direction &&
          each.variant.dtype === variant.dtype,
      ),
    );
    const [first] = found;
    return [
      `${variant.direction} as ${variant.dtype}`,
      ...found.map((cell) => `${(100 * (cell?.error ?? Number.NaN)).toPrecision(2)} %`),
      `${String(Math.round((100 * (first?.bytes ?? Number.NaN)) / (first?.fullBytes ?? Number.NaN)))} %`,
    ];
  });
  return `# What fewer bytes a number cost

Made by \`${command}\` at revision ${revision}; engine ${engine}; ${machine}.

DIGITS, network ${widths.join('-')}, batches of ${String(batchSize)}, coupling \`value\`, defaults otherwise: the first ${String(steps)} steps of a run in float32, and each of them
again with what is sent (activations and gradients) or received (updates) in fewer bytes. How far a layer’s change is from the float32
one, at most, relative to its Euclidean norm, per metric; and the bytes of a step, relative to float32.

${markdownTable(['', ...METRICS, 'bytes'], rows)}
`;
}
