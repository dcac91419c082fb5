/** Where the files of a data set that is not bundled are looked for, and how they get there. */
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

export interface Source {
  /** The environment variable that names the folder of the files. */
  readonly variable: string;
  /** Where they are looked for without it. */
  readonly folder: string;
  /** Who brings them. */
  readonly remedy: string;
}

/** @param name of the folder in .datasets */
export function source(name: string, variable: string, remedy: string): Source {
  return { variable, folder: fileURLToPath(new URL(`../../.datasets/${name}`, import.meta.url)), remedy };
}

/** What the environment names, or the usual place. */
export function folderOf({ variable, folder }: Source): string {
  const named = process.env[variable] ?? '';
  return named === '' ? folder : named;
}

/** What helps whoever lacks a file of it. */
export function adviceOn({ variable, remedy }: Source): string {
  return `${remedy}; another folder is named by ${variable}.`;
}

/** Whether a file of it is where it is looked for. */
export function isThere(of: Source, name: string): boolean {
  return existsSync(join(folderOf(of), name));
}

/** Where a file is, by the first of its names that is there. @throws Error that says where it comes from, if there is none */
function find(of: Source, folder: string, names: readonly string[]): string {
  const file = names.map((name) => join(folder, name)).find((candidate) => existsSync(candidate));
  if (file !== undefined) return file;
  throw new Error(`${folder} has no ${names.join(', nor ')}. ${adviceOn(of)}`);
}

/**
 * The bytes of a file in a folder, as they are.
 *
 * @param names of the file; the first that is there is taken
 * @throws Error that says where the file comes from, if there is none
 */
export async function readOne(of: Source, folder: string, names: readonly string[]): Promise<Buffer> {
  return readFile(find(of, folder, names));
}
