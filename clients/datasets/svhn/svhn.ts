/**
 * SVHN, Street View House Numbers (Netzer et al., 2011), cropped digits: 99,289 images of 32×32 pixels in ten classes, from
 * train_32x32.mat and test_32x32.mat of their authors. It is not bundled: it is for non-commercial use only.
 */
import type { LabelledData } from '../digits/digits.ts';
import { folderOf, readOne, source } from '../source.ts';
import { parseMat } from './mat-file.ts';

export const SVHN = source('svhn', 'DDPNOPT_SVHN', 'Its files come from http://ufldl.stanford.edu/housenumbers');
const CLASSES = 10;
const WHITE = 255;

/**
 * Training and test set: [height, width, channels], values scaled to [0, 1]. The files call the digit 0 class 10; here it is 0.
 *
 * @param folder of the two files; unless given, what the environment names or the usual place
 * @throws Error if a file is missing or damaged
 */
export async function loadSvhn(
  folder: string = folderOf(SVHN),
): Promise<{ readonly train: LabelledData; readonly test: LabelledData }> {
  return { train: await load(folder, 'train_32x32.mat'), test: await load(folder, 'test_32x32.mat') };
}

async function load(folder: string, name: string): Promise<LabelledData> {
  const arrays = parseMat((await readOne(SVHN, folder, [name])).bytes, name);
  const [images, classes] = [arrays.get('X'), arrays.get('y')];
  if (images === undefined || classes === undefined) throw new Error(`${name} lacks X or y`);
  const [rows = 0, columns = 0, channels = 0, size = 1] = images.shape;
  if (images.values.length !== rows * columns * channels * size || classes.values.length !== size) {
    throw new Error(`${name}: images [${images.shape.join(', ')}] and labels [${classes.shape.join(', ')}] do not fit`);
  }
  const features = rows * columns * channels;
  const inputs = new Float32Array(size * features);
  for (let sample = 0; sample < size; sample++) {
    for (let row = 0; row < rows; row++) {
      for (let column = 0; column < columns; column++) {
        for (let channel = 0; channel < channels; channel++) {
          // The file is column-major, samples last.
          const value = images.values[row + rows * (column + columns * (channel + channels * sample))] ?? 0;
          inputs[sample * features + (row * columns + column) * channels + channel] = value / WHITE;
        }
      }
    }
  }
  const wrong = classes.values.find((label) => !(label >= 1 && label <= CLASSES));
  if (wrong !== undefined) throw new Error(`${name}: there is no class ${String(wrong)}`);
  const labels = Uint8Array.from(classes.values, (label) => label % CLASSES);
  return { size, features, classes: CLASSES, inputs, labels };
}
