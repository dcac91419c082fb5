/** MNIST and Fashion-MNIST: 70,000 images of 28×28 pixels in ten classes, read from the four IDX files of their authors. */
import type { LabelledData } from '../digits/digits.ts';
import { folderOf, readOne, source, type Source } from '../source.ts';
import { parseIdx, type IdxArray } from './idx.ts';

const SOURCES = {
  mnist: source('mnist', 'DDPNOPT_MNIST', '`npm run bench:data -- mnist` brings its files'),
  'fashion-mnist': source(
    'fashion-mnist',
    'DDPNOPT_FASHION_MNIST',
    '`npm run bench:data -- fashion-mnist` brings its files',
  ),
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
  const from = folder ?? folderOf(SOURCES[name]);
  const load = async (part: 'train' | 't10k'): Promise<LabelledData> =>
    labelled(
      part,
      await readIdx(SOURCES[name], from, `${part}-images-idx3-ubyte`),
      await readIdx(SOURCES[name], from, `${part}-labels-idx1-ubyte`),
    );
  return { train: await load('train'), test: await load('t10k') };
}

async function readIdx(of: Source, folder: string, file: string): Promise<IdxArray> {
  const { path, bytes } = await readOne(of, folder, [file, `${file}.gz`]);
  return parseIdx(bytes, path);
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
