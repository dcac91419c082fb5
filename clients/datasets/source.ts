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
  /** Who brings them there. */
  readonly remedy: string;
}

/** @param name of the folder in .datasets */
export function source(name: string, variable: string, remedy: string): Source {
  return { variable, folder: fileURLToPath(new URL(`../../.datasets/${name}`, import.meta.url)), remedy };
}

function namedFolder({ variable }: Source): string | null {
  const named = process.env[variable] ?? '';
  return named === '' ? null : named;
}

/** What the environment names, or the usual place. */
export function folderOf(of: Source): string {
  return namedFolder(of) ?? of.folder;
}

/** What helps whoever lacks a file of it. */
export function adviceOn(of: Source): string {
  const { variable, folder, remedy } = of;
  if (namedFolder(of) !== null)
    return `${variable} names that folder; without it the files are looked for in ${folder}.`;
  return `${remedy}; another folder is named by ${variable}.`;
}

/** Whether a file of it is where it is looked for. */
export function isThere(of: Source, name: string): boolean {
  return existsSync(join(folderOf(of), name));
}

interface FoundFile {
  readonly path: string;
  /** As they are. */
  readonly bytes: Buffer;
}

/**
 * Reads a file in a folder.
 *
 * @param names of the file; the first that is there is taken
 * @throws Error that says where the file comes from, if there is none
 */
export async function readOne(of: Source, folder: string, names: readonly string[]): Promise<FoundFile> {
  const path = names.map((name) => join(folder, name)).find((candidate) => existsSync(candidate));
  if (path === undefined) throw new Error(`${folder} has no ${names.join(', nor ')}. ${adviceOn(of)}`);
  return { path, bytes: await readFile(path) };
}
