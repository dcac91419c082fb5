/**
 * npm run native: assembles the native TensorFlow engine for this project, in a folder that git ignores.
 *
 * TensorFlow's libraries come from its Python wheel, the N-API binding from the sources of tfjs-node, which a C++ compiler here
 * builds against them: the binding that npm would install brings a TensorFlow eleven versions older, from a host of its own that
 * not every network reaches. Both downloads are pinned by digest. The folder appears under its final name only when a product and
 * a factorisation have been computed with it; until then, and whenever this fails, the worker uses the engine it has.
 */
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, readFile, rename, rm, stat, statfs, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { NATIVE_ENGINE_BINDING, NATIVE_ENGINE_FOLDER, TENSORFLOW_VERSION } from '../../shared/native-engine.ts';
import { announced, AssemblyError, run } from './commands.ts';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));
const FINISHED = path.join(ROOT, NATIVE_ENGINE_FOLDER);
const DOWNLOADS = path.join(ROOT, '.native/downloads');
const BUILDING = path.join(ROOT, '.native/building');
const UNPACK = fileURLToPath(new URL('./unpack_wheel.py', import.meta.url));
const CHECK = fileURLToPath(new URL('../../gpu-worker/tensor/tensorflow/check.ts', import.meta.url));

/** What the wheel takes, unpacked and while it is being unpacked. */
const NEEDED_BYTES = 1.4e9;

const WHEEL = {
  requirement: `tensorflow-cpu==${TENSORFLOW_VERSION}`,
  file: `tensorflow_cpu-${TENSORFLOW_VERSION}-cp311-cp311-manylinux_2_27_x86_64.whl`,
  sha256: '2b847d217b02ee7731ed91431daf3250daa0196c3c94614d23be27232e6e5b6c',
  // The libraries are the same in the wheels of every Python; one is chosen so that the digest is one.
  selection: ['--python-version', '3.11', '--implementation', 'cp', '--platform', 'manylinux_2_27_x86_64'],
};
const LIBRARIES = ['libtensorflow_cc.so.2', 'libtensorflow_framework.so.2'];
const HEADERS = ['tensorflow/c/', 'tensorflow/core/platform/ctstring', 'tsl/platform/ctstring', 'xla/tsl/c/'];

interface NpmPackage {
  readonly specifier: string;
  /** What `npm pack` calls it. */
  readonly file: string;
  readonly integrity: string;
}

const BINDING_SOURCES: NpmPackage = {
  specifier: '@tensorflow/tfjs-node@4.22.0',
  file: 'tensorflow-tfjs-node-4.22.0.tgz',
  integrity: 'sha512-uHrXeUlfgkMxTZqHkESSV7zSdKdV0LlsBeblqkuKU9nnfxB1pC6DtoyYVaLxznzZy7WQSegjcohxxCjAf6Dc7w==',
};
const NODE_HEADERS: NpmPackage = {
  specifier: 'node-api-headers@1.9.0',
  file: 'node-api-headers-1.9.0.tgz',
  integrity: 'sha512-2oNILP4jXwRB4ywnYKjVk1YyJ96n2D4EOVJO6S3oYZ5PtbJrw3Yt9TpAuX3nBLMuzn74rnfGQrv13pS9vC+YiA==',
};

/** Whether an earlier run has finished the folder and nothing is missing from it. */
async function isFinished(): Promise<boolean> {
  try {
    const sizes = JSON.parse(await readFile(path.join(FINISHED, 'sizes.json'), 'utf8')) as Record<string, number>;
    for (const [name, size] of Object.entries(sizes)) {
      if ((await stat(path.join(FINISHED, name))).size !== size) return false;
    }
    return true;
  } catch {
    return false;
  }
}

async function requireSpace(): Promise<void> {
  const { bavail, bsize } = await statfs(ROOT);
  if (bavail * bsize < NEEDED_BYTES) {
    throw new AssemblyError(
      `there are ${(bavail * bsize / 1e9).toFixed(1)} GB free here, and ${(NEEDED_BYTES / 1e9).toFixed(1)} GB are needed`,
      'Free some space and run npm run native again.',
    ); // prettier-ignore
  }
}

async function hasDigest(file: string, algorithm: 'sha256' | 'sha512', expected: string): Promise<boolean> {
  if (!existsSync(file)) return false;
  const digest = createHash(algorithm).update(await readFile(file));
  return (algorithm === 'sha256' ? digest.digest('hex') : `sha512-${digest.digest('base64')}`) === expected;
}

async function downloadWheel(python: string): Promise<string> {
  const wheel = path.join(DOWNLOADS, WHEEL.file);
  if (await hasDigest(wheel, 'sha256', WHEEL.sha256)) return wheel;
  await rm(wheel, { force: true });
  const requirements = path.join(DOWNLOADS, 'requirements.txt');
  await writeFile(requirements, `${WHEEL.requirement} --hash=sha256:${WHEEL.sha256}\n`);
  const selection = ['--no-deps', '--only-binary=:all:', ...WHEEL.selection, '--require-hashes', '-r', requirements];
  await announced(`downloading ${WHEEL.requirement}, 274 MB, with pip`, () =>
    run(python, ['-m', 'pip', 'download', '--retries', '0', '--quiet', ...selection, '--dest', DOWNLOADS], {
      folder: ROOT,
      remedy:
        'pip must reach a package index: its own settings (pip config, PIP_INDEX_URL, PIP_PROXY) name another one or a proxy. ' +
        `Or fetch ${WHEEL.file} elsewhere and put it into .native/downloads. Then run npm run native again.`,
    }),
  );
  return wheel;
}

async function downloadPackage({ specifier, file, integrity }: NpmPackage): Promise<string> {
  const archive = path.join(DOWNLOADS, file);
  if (await hasDigest(archive, 'sha512', integrity)) return archive;
  const remedy = `npm must reach a registry. Or fetch ${file} elsewhere and put it into .native/downloads. Then run npm run native again.`;
  await announced(`downloading ${specifier} with npm`, () =>
    run('npm', ['pack', specifier, '--loglevel', 'error', '--fetch-retries', '0', '--pack-destination', DOWNLOADS], {
      folder: ROOT,
      remedy,
    }),
  );
  if (await hasDigest(archive, 'sha512', integrity)) return archive;
  throw new AssemblyError(`npm delivered another ${specifier} than the one pinned by its digest`, remedy);
}

async function assemble(): Promise<void> {
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
  await requireSpace();
  await rm(BUILDING, { recursive: true, force: true });
  const sources = path.join(BUILDING, 'sources');
  const engine = path.join(BUILDING, 'engine');
  for (const folder of [DOWNLOADS, sources, engine]) await mkdir(folder, { recursive: true });

  const wheel = await downloadWheel(python);
  const bindingSources = await downloadPackage(BINDING_SOURCES);
  const nodeHeaders = await downloadPackage(NODE_HEADERS);

  const again = 'Run npm run native again; if it fails again, remove the folder .native first.';
  await announced('unpacking and comparing with the recorded digests', async () => {
    const wanted = [
      ...LIBRARIES.map((name) => `tensorflow/${name}`),
      ...HEADERS.map((name) => `tensorflow/include/${name}`),
    ];
    await run(python, [UNPACK, wheel, sources, ...wanted], { folder: ROOT, remedy: again });
    for (const [name, archive] of [['binding', bindingSources], ['node', nodeHeaders]] as const) {
      const folder = path.join(sources, name);
      await mkdir(folder);
      await run('tar', ['-xzf', archive, '-C', folder, '--strip-components=1'], { folder: ROOT, remedy: again });
    } // prettier-ignore
    for (const name of LIBRARIES) await rename(path.join(sources, 'tensorflow', name), path.join(engine, name));
  });

  await announced('compiling the binding', () =>
    run(
      compiler,
      [
        ...['-std=gnu++17', '-O2', '-fPIC', '-shared', '-DNAPI_VERSION=8'],
        ...['-I', path.join(sources, 'node/include'), '-I', path.join(sources, 'tensorflow/include')],
        ...['tfjs_backend.cc', 'tfjs_binding.cc'].map((name) => path.join(sources, 'binding/binding', name)),
        ...['-L', engine, ...LIBRARIES.map((name) => `-l:${name}`), '-Wl,-rpath,$ORIGIN'],
        ...['-o', path.join(engine, NATIVE_ENGINE_BINDING)],
      ],
      { folder: ROOT, remedy: 'The compiler must know C++17: g++ 9 or newer, or another one named by CXX.' },
    ),
  );

  const summary = await announced('computing a product and a factorisation with it', () =>
    run(process.execPath, [CHECK, path.join(engine, NATIVE_ENGINE_BINDING)], {
      folder: ROOT,
      remedy: 'This TensorFlow does not work on this machine (it needs glibc 2.27 or newer and a processor with AVX).',
    }),
  );
  const names = [...LIBRARIES, NATIVE_ENGINE_BINDING];
  const sizes = await Promise.all(names.map(async (name) => [name, (await stat(path.join(engine, name))).size]));
  await writeFile(path.join(engine, 'sizes.json'), `${JSON.stringify(Object.fromEntries(sizes), null, 2)}\n`);
  await rm(FINISHED, { recursive: true, force: true });
  await rename(engine, FINISHED);
  await rm(DOWNLOADS, { recursive: true });
  process.stdout.write(
    `${summary.trim()}\nThe worker uses it from its next start on; DDPNOPT_ENGINE=wasm does without.\n`,
  );
}

try {
  if (process.platform !== 'linux' || process.arch !== 'x64') {
    throw new AssemblyError(
      `this assembles TensorFlow for Linux on x64, and this is ${process.platform} on ${process.arch}`,
      'Where npm can install @tensorflow/tfjs-node or @tensorflow/tfjs-node-gpu, the worker uses that.',
    );
  }
  if (await isFinished()) {
    process.stdout.write(
      `The native engine, TensorFlow ${TENSORFLOW_VERSION}, is in ${NATIVE_ENGINE_FOLDER} already.\n`,
    );
  } else {
    process.stdout.write(
      `Assembling the native engine, TensorFlow ${TENSORFLOW_VERSION}, in ${NATIVE_ENGINE_FOLDER}:\n`,
    );
    await assemble();
  }
} catch (error) {
  const remedy =
    error instanceof AssemblyError ? error.remedy : 'Remove the folder .native and run npm run native again.';
  const reason = error instanceof Error ? error.message : String(error);
  process.stderr.write(
    `\nThere is no native engine: ${reason}\n${remedy}\nUntil then the worker uses the wasm engine.\n`,
  );
  process.exitCode = 1;
} finally {
  await rm(BUILDING, { recursive: true, force: true });
}
