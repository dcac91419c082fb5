/**
 * Copies what the worker is made of, and nothing else, into an empty folder: its sources, and of the packages the files that they
 * import. Node runs the sources as they are, so that a stack trace names them.
 *
 * usage: node deploy/container/worker-files.ts FOLDER
 */
import { copyFile, mkdir, readdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));

/** What is started from outside. */
const ENTRIES = [
  'gpu-worker/index.ts',
  'gpu-worker/check/main.ts',
  'gpu-worker/tensor/tensorflow/check.ts',
  'deploy/container/healthcheck.ts',
];
/** How the sources name a module that becomes a process or a thread of its own, which no import shows. */
const STARTED = /new URL\('(\.[^']*\.ts)', import\.meta\.url\)/g;

/** What packages hold besides the code that is imported: their kind of module, what they read at run time, and their licences. */
const BESIDE_CODE = /\.wasm$/;
const OF_A_PACKAGE = /^(package\.json|licen[cs]e|notice|copying)/i;

const [, , target] = process.argv;
if (target === undefined) throw new Error('usage: node deploy/container/worker-files.ts FOLDER');

/** The files that some modules import, directly or not, themselves among them. */
async function importedBy(modules: readonly string[]): Promise<string[]> {
  const { metafile } = await build({
    absWorkingDir: ROOT,
    entryPoints: [...modules],
    bundle: true,
    write: false,
    metafile: true,
    platform: 'node',
    format: 'esm',
    outdir: 'unwritten',
    logLevel: 'error',
  });
  return Object.keys(metafile.inputs);
}

/** The modules that a file starts. */
async function startedBy(file: string): Promise<string[]> {
  const text = await readFile(path.join(ROOT, file), 'utf8');
  return [...text.matchAll(STARTED)].map(([, module = '']) => path.join(path.dirname(file), module));
}

const imported = new Set<string>();
for (let modules = ENTRIES; modules.length > 0;) {
  const found = (await importedBy(modules)).filter((file) => !imported.has(file));
  for (const file of found) imported.add(file);
  const own = found.filter((file) => !file.includes('node_modules/'));
  modules = (await Promise.all(own.map(startedBy))).flat().filter((file) => !imported.has(file));
}
const packages = new Set([...imported].flatMap((file) => /^.*node_modules\/(?:@[^/]+\/)?[^/]+/.exec(file) ?? []));
const files = new Set(['package.json', 'LICENSE', ...imported]);
for (const folder of packages) await addMatching(folder, OF_A_PACKAGE);
for (const folder of new Set(
  [...imported].filter((file) => file.includes('node_modules/')).map((file) => path.dirname(file)),
)) {
  await addMatching(folder, BESIDE_CODE);
}

async function addMatching(folder: string, name: RegExp): Promise<void> {
  for (const entry of await readdir(path.join(ROOT, folder), { withFileTypes: true })) {
    if (entry.isFile() && name.test(entry.name)) files.add(path.join(folder, entry.name));
  }
}

for (const file of files) {
  await mkdir(path.join(target, path.dirname(file)), { recursive: true });
  await copyFile(path.join(ROOT, file), path.join(target, file));
}
process.stdout.write(`${String(files.size)} files of the worker are in ${target}\n`);
