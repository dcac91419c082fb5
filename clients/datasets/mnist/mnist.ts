/** MNIST and Fashion-MNIST: 70,000 images of 28×28 pixels in ten classes, read from the four IDX files of their authors. */
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import type { LabelledData } from '../digits/digits.ts';
import { parseIdx, type IdxArray } from './idx.ts';

interface Source {
  /** The environment variable that names the folder of the files. */
  readonly variable: string;
  /** Where they are looked for without it. */
  readonly folder: string;
  /** How they get there. */
  readonly remedy: string;
}

const SOURCES = {
  mnist: {
    variable: 'DDPNOPT_MNIST',
    folder: fileURLToPath(new URL('../../../.datasets/mnist', import.meta.url)),
    remedy: '`npm run bench:data` brings them',
  },
  'fashion-mnist': {
    variable: 'DDPNOPT_FASHION_MNIST',
    folder: fileURLToPath(new URL('../../../.datasets/fashion-mnist', import.meta.url)),
    remedy: '`npm run bench:data` brings them',
  },
} as const satisfies Record<string, Source>;

export type MnistName = keyof typeof SOURCES;

const CLASSES = 10;
const WHITE = 255;

/**
 * Training and test set, pixels scaled to [0, 1].
 *
 * @param folder of the files, compressed with gzip or not; unless given, what the environment names or the usual place
 * @throws Error if a file is missing or damaged
 */
export async function loadMnist(
  name: MnistName,
  folder?: string,
): Promise<{ readonly train: LabelledData; readonly test: LabelledData }> {
  const source = SOURCES[name];
  const from = folder ?? process.env[source.variable] ?? source.folder;
  const load = async (part: 'train' | 't10k'): Promise<LabelledData> =>
    labelled(
      part,
      await readIdx(source, from, `${part}-images-idx3-ubyte`),
      await readIdx(source, from, `${part}-labels-idx1-ubyte`),
    );
  return { train: await load('train'), test: await load('t10k') };
}

async function readIdx({ variable, remedy }: Source, folder: string, file: string): Promise<IdxArray> {
  const path = [`${folder}/${file}`, `${folder}/${file}.gz`].find((candidate) => existsSync(candidate));
  if (path === undefined) {
    throw new Error(`${folder} has no ${file}, nor ${file}.gz. ${remedy}; another folder is named by ${variable}.`);
  }
  return parseIdx(await readFile(path), path);
}

function labelled(part: string, images: IdxArray, { shape, values: labels }: IdxArray): LabelledData {
  const [size = 0, rows = 0, columns = 0] = images.shape;
  if (images.shape.length !== 3 || shape.length !== 1 || shape[0] !== size) {
    throw new Error(`${part}: images [${images.shape.join(', ')}] and labels [${shape.join(', ')}] do not fit`);
  }
  const wrong = labels.find((label) => label >= CLASSES);
  if (wrong !== undefined) throw new Error(`${part}: there is no class ${String(wrong)}`);
  const inputs = Float32Array.from(images.values, (pixel) => pixel / WHITE);
  return { size, features: rows * columns, classes: CLASSES, inputs, labels };
}
