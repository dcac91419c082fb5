/** What options and arguments say: numbers, and documents in files. */
import { readFile } from 'node:fs/promises';
import { textOf, UsageError, type LocalContext } from './command.ts';

/** A number that an option gives. @throws UsageError if it is none, or below the smallest */
export function numberOf(context: LocalContext, name: string, otherwise: number, smallest: number): number {
  const text = textOf(context, name);
  const value = text === undefined ? otherwise : Number(text);
  if (text === '' || !(value >= smallest) || !Number.isFinite(value)) {
    throw new UsageError(`--${name} is "${String(text)}"; a number of at least ${String(smallest)} was expected`);
  }
  return value;
}

/** @throws UsageError as {@link numberOf} */
export function wholeNumberOf(context: LocalContext, name: string, otherwise: number, smallest = 1): number {
  const value = numberOf(context, name, otherwise, smallest);
  if (!Number.isInteger(value)) throw new UsageError(`--${name} is ${String(value)}; a whole number was expected`);
  return value;
}

/** The document of a file that creates a session. @throws UsageError if there is no JSON */
export async function parsedFile(file: string): Promise<unknown> {
  try {
    return JSON.parse(await readFile(file, 'utf8')) as unknown;
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new UsageError(`${file} cannot be read as the document that creates a session: ${reason}`, { cause });
  }
}

const UNITS = ['bytes', 'KB', 'MB', 'GB'] as const;

/** So many bytes, in words. */
export function byteSize(bytes: number): string {
  const unit = Math.min(UNITS.length - 1, Math.floor(Math.log10(Math.max(1, bytes)) / 3));
  return `${unit === 0 ? String(Math.round(bytes)) : (bytes / 1000 ** unit).toFixed(1)} ${UNITS[unit] ?? ''}`;
}
