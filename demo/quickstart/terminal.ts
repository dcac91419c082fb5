/** What the quickstart draws: a progress bar that redraws itself on a terminal, and plain lines elsewhere. */

const BAR_CELLS = 24;

export class ProgressLine {
  readonly #stream: NodeJS.WriteStream;

  constructor(stream: NodeJS.WriteStream) {
    this.#stream = stream;
  }

  /** Redraws the line; nothing where the output is no terminal. */
  draw(fraction: number, text: string): void {
    if (!this.#stream.isTTY) return;
    const filled = Math.round(fraction * BAR_CELLS);
    const bar = '█'.repeat(filled) + '░'.repeat(BAR_CELLS - filled);
    const line = `${bar} ${String(Math.round(100 * fraction)).padStart(3)} %  ${text}`;
    this.#stream.write(`\r\u001b[K${line.slice(0, Math.max(20, this.#stream.columns - 1))}`);
  }

  clear(): void {
    if (this.#stream.isTTY) this.#stream.write('\r\u001b[K');
  }

  /** Writes a line above the bar. */
  print(line: string): void {
    this.clear();
    this.#stream.write(`${line}\n`);
  }
}

/** A loss as a bar, on a logarithmic scale from 0.001 (empty) to ten equally likely classes (full). */
export function lossBar(loss: number): string {
  const lowest = Math.log(0.001);
  const highest = Math.log(Math.log(10));
  const share = (Math.log(Math.max(loss, 1e-12)) - lowest) / (highest - lowest);
  return '█'.repeat(Math.round(Math.min(1, Math.max(0, share)) * BAR_CELLS));
}

/** Rows as aligned columns, the first to the left, the others to the right. */
export function table(rows: readonly (readonly string[])[]): string {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)));
  return rows
    .map((row) =>
      row
        .map((cell, column) => (column === 0 ? cell.padEnd(widths[column] ?? 0) : cell.padStart(widths[column] ?? 0)))
        .join('   '),
    )
    .join('\n');
}
