/** The memory of another process, as Linux counts it. */
import { readFileSync, writeFileSync } from 'node:fs';

/** Whether this machine tells. */
export const COUNTS_MEMORY = process.platform === 'linux';

/** Bytes in memory now. */
export function residentBytes(process: number): number {
  return bytesOf(process, 'VmRSS');
}

/** The most bytes in memory since {@link forgetPeak}. */
export function peakBytes(process: number): number {
  return bytesOf(process, 'VmHWM');
}

/** From now on the peak is that of what comes. */
export function forgetPeak(process: number): void {
  writeFileSync(`/proc/${String(process)}/clear_refs`, '5');
}

function bytesOf(process: number, field: 'VmRSS' | 'VmHWM'): number {
  const status = readFileSync(`/proc/${String(process)}/status`, 'utf8');
  const kilobytes = new RegExp(`^${field}:\\s+([0-9]+) kB$`, 'm').exec(status)?.[1];
  if (kilobytes === undefined) throw new Error(`/proc does not tell ${field} of process ${String(process)}`);
  return 1024 * Number(kilobytes);
}
