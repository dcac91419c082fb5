/** What an assembled engine says of itself: which one it is, what it was made from, and what must be there. */
import { createHash } from 'node:crypto';
import { readFile, stat, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { BINDING_SOURCES, NODE_HEADERS, RECIPES, VARIANTS, type Variant } from './packages.ts';

const FILE = 'engine.json';
const ROOT = new URL('../../', import.meta.url);

interface Manifest {
  readonly variant: Variant;
  /** Digest of everything that it was made from: another one takes another assembly. */
  readonly recipe: string;
  /** Bytes of every file, by its path in the engine's folder. */
  readonly sizes: Readonly<Record<string, number>>;
}

/** @param files paths in the folder */
export async function writeManifest(folder: string, variant: Variant, files: readonly string[]): Promise<void> {
  const sizes = await Promise.all(
    files.map(async (name) => [name, (await stat(path.join(folder, name))).size] as const),
  );
  const manifest: Manifest = { variant, recipe: await recipeDigest(variant), sizes: Object.fromEntries(sizes) };
  await writeFile(path.join(folder, FILE), `${JSON.stringify(manifest, null, 2)}\n`);
}

/** The engine that an earlier run finished in a folder; null if it is none of today's, or something is missing from it. */
export async function finishedVariant(folder: string): Promise<Variant | null> {
  try {
    // Written above, or by an earlier version: then the digest differs.
    const { variant, recipe, sizes } = JSON.parse(await readFile(path.join(folder, FILE), 'utf8')) as Manifest;
    if (!VARIANTS.includes(variant) || recipe !== (await recipeDigest(variant))) return null;
    for (const [name, size] of Object.entries(sizes)) {
      if ((await stat(path.join(folder, name))).size !== size) return null;
    }
    return variant;
  } catch {
    // Whatever cannot be read is assembled anew.
    return null;
  }
}

async function recipeDigest(variant: Variant): Promise<string> {
  const recipe = RECIPES[variant];
  const digest = createHash('sha256').update(JSON.stringify([recipe, BINDING_SOURCES, NODE_HEADERS]));
  for (const source of recipe.sources) digest.update(await readFile(new URL(source, ROOT)));
  return digest.digest('hex');
}
