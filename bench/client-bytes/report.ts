/** The results as Markdown: a pure function of the stored JSON, which a test holds the page to. */
import { markdownTable } from '../markdown.ts';
import type { Provenance } from '../provenance.ts';

/** Means over the steps of a run. */
interface StepBytes {
  readonly bytesSent: number;
  readonly bytesReceived: number;
}

export interface ClientBytesMeasurement {
  readonly batch: number;
  readonly steps: number;
  readonly torch: string;
  readonly models: readonly {
    readonly model: string;
    readonly parameters: number;
    /** By the mode's name and what it is with. */
    readonly modes: Readonly<Record<string, StepBytes>>;
  }[];
}

export interface ClientBytesResults extends Provenance, ClientBytesMeasurement {
  readonly command: string;
}

export function renderClientBytes(results: ClientBytesResults): string {
  const { command, revision, engine, machine, torch, batch, steps, models } = results;
  const tables = models.map(({ model, parameters, modes }) => {
    const rows = Object.entries(modes).map(([mode, { bytesSent, bytesReceived }]) => [
      mode,
      kilobytes(bytesSent),
      kilobytes(bytesReceived),
      ((bytesSent + bytesReceived) / (4 * parameters)).toPrecision(2),
    ]);
    const header = ['mode', 'sent, kB', 'received, kB', 'both, relative to the parameters'];
    return `## ${model}, ${String(parameters)} parameters\n\n${markdownTable(header, rows)}`;
  });
  return `# Bytes per step, mode by mode

Made by \`${command}\` at revision ${revision}; engine ${engine}; PyTorch ${torch}; ${machine}.

What the Python client sends and receives in a step with ${String(batch)} images of 28 × 28, the mean of the first ${String(steps)} steps of a session, the
refreshes of the metric and the statistics for it included; without HTTP’s own headers. The last column is in units of the parameters
themselves, as float32: what a data-parallel trainer would send of gradients in a step is 1.

${tables.join('\n\n')}
`;
}

function kilobytes(bytes: number): string {
  return (bytes / 1000).toFixed(1);
}
