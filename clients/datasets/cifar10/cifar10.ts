/**
 * CIFAR-10: 60,000 images of 32×32 pixels in ten classes (Krizhevsky, 2009), from the "binary version" of its author: data_batch_1.bin to
 * data_batch_5.bin and test_batch.bin, each a row of records of one byte, the label, and 3,072 bytes, the red, the green and the blue
 * plane, row by row. It is not bundled: its images have no licence.
 */
import type { LabelledData } from '../digits/digits.ts';
import { folderOf, readOne, source } from '../source.ts';

const SIDE = 32;
const CHANNELS = 3;
const PLANE = SIDE * SIDE;
/** Bytes of an image with its label. */
const RECORD = 1 + CHANNELS * PLANE;
const CLASSES = 10;
const WHITE = 255;
export const CIFAR10 = source('cifar10', 'DDPNOPT_CIFAR10', '`npm run bench:data -- cifar10` brings its files');
const TRAINING_FILES = [1, 2, 3, 4, 5].map((batch) => `data_batch_${String(batch)}.bin`);

/**
 * Training and test set: [height, width, channels], values scaled to [0, 1].
 *
 * @param folder of the six files; unless given, what the environment names or the usual place
 * @throws Error if a file is missing or damaged
 */
export async function loadCifar10(
  folder: string = folderOf(CIFAR10),
): Promise<{ readonly train: LabelledData; readonly test: LabelledData }> {
  const read = async (name: string): Promise<Buffer> => {
    const { bytes } = await readOne(CIFAR10, folder, [name]);
    if (bytes.length > 0 && bytes.length % RECORD === 0) return bytes;
    throw new Error(`${name} has ${String(bytes.length)} bytes, which are no records of ${String(RECORD)}`);
  };
  const train = await Promise.all(TRAINING_FILES.map(read));
  return {
    train: labelled('data_batch_*.bin', Buffer.concat(train)),
    test: labelled('test_batch.bin', await read('test_batch.bin')),
  };
}

function labelled(name: string, records: Uint8Array): LabelledData {
  const size = records.length / RECORD;
  const features = CHANNELS * PLANE;
  const inputs = new Float32Array(size * features);
  const labels = new Uint8Array(size);
  for (let sample = 0; sample < size; sample++) {
    const record = records.subarray(sample * RECORD, (sample + 1) * RECORD);
    const label = record[0] ?? 0;
    if (label >= CLASSES) throw new Error(`${name}: there is no class ${String(label)}`);
    labels[sample] = label;
    for (let channel = 0; channel < CHANNELS; channel++) {
      for (let pixel = 0; pixel < PLANE; pixel++) {
        const value = record[1 + channel * PLANE + pixel] ?? 0;
        inputs[sample * features + pixel * CHANNELS + channel] = value / WHITE;
      }
    }
  }
  return { size, features, classes: CLASSES, inputs, labels };
}
