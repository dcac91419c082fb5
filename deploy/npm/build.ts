/**
 * Builds the npm package `ddpnopt` from the client's sources: ES modules for every runtime, and declarations.
 *
 * zod is a dependency, not bundled: the declarations speak of its types, and a program that has it already does not get it twice.
 * standalone.js has it inside, for pages without a bundler. cli.js is the command `ddpnopt`.
 */
import { execFile } from 'node:child_process';
import { copyFile, mkdir, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { gzipSync } from 'node:zlib';
import { build } from 'esbuild';

const ROOT = new URL('../../', import.meta.url);
/** The package's folder. */
export const PACKAGE = new URL('clients/js/', ROOT);
const DIST = new URL('dist/', PACKAGE);

/** What `ddpnopt train` trains on. */
const DATA_SETS = new URL('clients/datasets/', ROOT);
/** The files of the data sets that come along, by their folders. */
const BUNDLED = { digits: 'digits.csv.gz', wine: 'wine_data.csv', 'breast-cancer': 'breast_cancer.csv' } as const;

const COMMON = { bundle: true, format: 'esm', platform: 'neutral', target: 'es2023', logLevel: 'warning' } as const;

/** Bytes of a built file. */
export interface BuiltFile {
  readonly name: string;
  readonly bytes: number;
  readonly gzipped: number;
}

/** Replaces the dist folder. @throws Error with the compiler's or the bundler's message */
export async function buildPackage(): Promise<BuiltFile[]> {
  await rm(DIST, { recursive: true, force: true });
  const entry = (file: string): string => fileURLToPath(new URL(file, PACKAGE));
  const outdir = fileURLToPath(DIST);
  await Promise.all([
    build({
      ...COMMON,
      entryPoints: { index: entry('index.ts'), tfjs: entry('tfjs/index.ts') },
      outdir,
      splitting: true,
      packages: 'external',
    }),
    build({
      ...COMMON,
      entryPoints: { standalone: entry('standalone.ts') },
      outdir,
      minify: true,
      mainFields: ['module', 'main'],
    }),
    build({
      ...COMMON,
      platform: 'node',
      entryPoints: { cli: fileURLToPath(new URL('clients/cli/npm-main.ts', ROOT)) },
      outdir,
      packages: 'external',
    }),
    declarations(),
    mkdir(DIST, { recursive: true }).then(() =>
      Promise.all([
        // Where the bundled loader looks for it; its licence asks for its origin.
        ...Object.entries(BUNDLED).flatMap(([folder, file]) => [
          copyFile(new URL(`${folder}/${file}`, DATA_SETS), new URL(file, DIST)),
          copyFile(new URL(`${folder}/ORIGIN.md`, DATA_SETS), new URL(`${folder}-ORIGIN.md`, DIST)),
        ]),
      ]),
    ),
    copyFile(new URL('LICENSE', ROOT), new URL('LICENSE', PACKAGE)),
  ]);
  const names = (await readdir(DIST)).filter((name) => name.endsWith('.js'));
  return Promise.all(
    names.map(async (name) => {
      const file = new URL(name, DIST);
      const { size } = await stat(file);
      return { name, bytes: size, gzipped: gzipSync(await readFile(file)).length };
    }),
  );
}

async function declarations(): Promise<void> {
  const compiler = fileURLToPath(new URL('node_modules/typescript/bin/tsc', ROOT));
  const project = fileURLToPath(new URL('tsconfig.json', PACKAGE));
  await promisify(execFile)(process.execPath, [compiler, '-p', project]).catch((error: unknown) => {
    const output = error instanceof Error && 'stdout' in error ? String(error.stdout) : String(error);
    throw new Error(`the client’s types do not compile:\n${output}`, { cause: error });
  });
  const types = new URL('types/', DIST);
  const files = (await readdir(types, { recursive: true })).filter((name) => name.endsWith('.d.ts'));
  await Promise.all(
    files.map(async (name) => {
      const file = new URL(name, types);
      // The compiler leaves the extension that the sources have.
      const text = (await readFile(file, 'utf8')).replaceAll(/((?:from |import\()['"]\.[^'"]*)\.ts(['"])/g, '$1.js$2');
      await writeFile(file, text);
    }),
  );
}
