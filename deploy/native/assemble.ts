/** Assembles an engine from its packages: fetched, unpacked, compiled, tried, and only then put in its place. */
import { mkdir, rename, rm, statfs } from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { NATIVE_ENGINE_BINDING, NATIVE_ENGINE_FOLDER } from '../../shared/native-engine.ts';
import { announced, AssemblyError, run } from './commands.ts';
import { downloadPackage, downloadWheel } from './download.ts';
import { writeManifest } from './manifest.ts';
import { BINDING_SOURCES, NODE_HEADERS, RECIPES, type Recipe, type Variant } from './packages.ts';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));
export const FINISHED = path.join(ROOT, NATIVE_ENGINE_FOLDER);
const DOWNLOADS = path.join(ROOT, '.native/downloads');
const BUILDING = path.join(ROOT, '.native/building');
const UNPACK = fileURLToPath(new URL('./unpack_wheel.py', import.meta.url));
const CHECK = fileURLToPath(new URL('../../gpu-worker/tensor/tensorflow/check.ts', import.meta.url));

const AGAIN = 'Run npm run native again; if it fails again, remove the folder .native first.';

/**
 * The engine appears under its final name, in the place of any other, when a product and a factorisation have been computed with it.
 *
 * @returns what it said of itself then
 * @throws AssemblyError if that does not come about; what was there before is there still
 */
export async function assemble(variant: Variant): Promise<string> {
  const recipe = RECIPES[variant];
  const python = process.env['PYTHON'] ?? 'python3';
  await run(python, ['-m', 'pip', '--version'], {
    folder: ROOT,
    remedy: 'Python 3 with pip is needed to download and unpack TensorFlow (Debian, Ubuntu: apt install python3-pip).',
  });
  const compiler = process.env['CXX'] ?? 'g++';
  await run(compiler, ['--version'], {
    folder: ROOT,
    remedy: 'A C++ compiler is needed for the binding (Debian, Ubuntu: apt install g++); CXX can name it.',
  });
  await requireSpace(recipe);
  try {
    await rm(BUILDING, { recursive: true, force: true });
    const sources = path.join(BUILDING, 'sources');
    const engine = path.join(BUILDING, 'engine');
    for (const folder of [DOWNLOADS, sources, engine]) await mkdir(folder, { recursive: true });

    const wheels: string[] = [];
    for (const wheel of recipe.wheels) wheels.push(await downloadWheel(wheel, python, DOWNLOADS));
    const archives = { binding: await downloadPackage(BINDING_SOURCES, DOWNLOADS), node: await downloadPackage(NODE_HEADERS, DOWNLOADS) }; // prettier-ignore

    await announced('unpacking and comparing with the recorded digests', async () => {
      for (const [index, { libraries, headers }] of recipe.wheels.entries()) {
        const wheel = wheels[index] ?? '';
        await run(python, [UNPACK, wheel, engine, ...libraries], { folder: ROOT, remedy: AGAIN });
        if (headers.length > 0)
          await run(python, [UNPACK, wheel, sources, ...headers], { folder: ROOT, remedy: AGAIN });
      }
      for (const [name, archive] of Object.entries(archives)) {
        const folder = path.join(sources, name);
        await mkdir(folder);
        await run('tar', ['-xzf', archive, '-C', folder, '--strip-components=1'], { folder: ROOT, remedy: AGAIN });
      }
    });
    await announced('compiling the binding', () => compileBinding(compiler, recipe, sources, engine));
    const summary = await announced('computing a product and a factorisation with it', () =>
      run(process.execPath, [CHECK, path.join(engine, NATIVE_ENGINE_BINDING)], {
        folder: ROOT,
        remedy:
          'This TensorFlow does not work on this machine (it needs glibc 2.27 or newer and a processor with AVX).',
      }),
    );
    const libraries = recipe.wheels.flatMap((wheel) => wheel.libraries);
    await writeManifest(engine, variant, [...libraries, NATIVE_ENGINE_BINDING]);
    await rm(FINISHED, { recursive: true, force: true });
    await rename(engine, FINISHED);
    await rm(DOWNLOADS, { recursive: true });
    return summary.trim();
  } finally {
    await rm(BUILDING, { recursive: true, force: true });
  }
}

async function compileBinding(
  compiler: string,
  { wheels, definitions, sources: additions }: Recipe,
  sources: string,
  engine: string,
): Promise<void> {
  const linked = wheels.flatMap((wheel) => wheel.linked);
  const searched = [...new Set(linked.map((library) => path.dirname(library)))];
  const roots = wheels.flatMap(({ headers }) => headers.map((header) => header.split('/').slice(0, 2).join('/')));
  const included = [...new Set(roots)].map((root) => path.join(sources, root));
  const stock = path.join(sources, 'binding/binding');
  await run(
    compiler,
    [
      ...['-std=gnu++17', '-O2', '-fPIC', '-shared', '-DNAPI_VERSION=8', ...definitions.map((name) => `-D${name}`)],
      ...[...included, path.join(sources, 'node/include'), stock].map((folder) => `-I${folder}`),
      path.join(stock, 'tfjs_backend.cc'),
      ...additions.map((name) => path.join(ROOT, name)),
      // Linked even where nothing of theirs is called: they are to be loaded with it.
      '-Wl,--no-as-needed',
      ...searched.map((folder) => `-L${path.join(engine, folder)}`),
      ...linked.map((library) => `-l:${path.basename(library)}`),
      `-Wl,-rpath,${searched.map((folder) => `$ORIGIN/${folder}`).join(':')}`,
      ...['-o', path.join(engine, NATIVE_ENGINE_BINDING)],
    ],
    { folder: ROOT, remedy: 'The compiler must know C++17: g++ 9 or newer, or another one named by CXX.' },
  );
}

async function requireSpace({ neededBytes }: Recipe): Promise<void> {
  const { bavail, bsize } = await statfs(ROOT);
  if (bavail * bsize >= neededBytes) return;
  const gigabytes = (bytes: number): string => (bytes / 1e9).toFixed(1);
  throw new AssemblyError(
    `there are ${gigabytes(bavail * bsize)} GB free here, and ${gigabytes(neededBytes)} GB are needed`,
    'Free some space and run npm run native again.',
  );
}
