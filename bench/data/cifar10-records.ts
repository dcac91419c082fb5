/** CIFAR-10's records, as its author's binary version has them, from pictures that hold an image a row: lossless ones lose nothing. */
import sharp from 'sharp';

const PLANE = 32 * 32;
const CHANNELS = 3;
const RECORD = 1 + CHANNELS * PLANE;

/**
 * @param picture 1,024 pixels wide, in RGB, a row an image: its pixels row by row
 * @param labels of the rows, 0 to 9
 * @returns a record a row: the label, then the red, the green and the blue plane, 3,073 bytes in all
 * @throws Error if the picture is no such one, or the labels are not as many as its rows
 */
export async function cifar10Records(picture: Uint8Array, labels: readonly number[]): Promise<Buffer> {
  const { data, info } = await sharp(picture, { limitInputPixels: false }).raw().toBuffer({ resolveWithObject: true });
  const { width, height, channels } = info;
  if (width !== PLANE || channels !== CHANNELS || height !== labels.length) {
    const sizeOf = (wide: number, high: number, deep: number): string =>
      `${String(wide)}×${String(high)}×${String(deep)}`;
    throw new Error(
      `a picture of ${sizeOf(width, height, channels)} bytes, not ${sizeOf(PLANE, labels.length, CHANNELS)}`,
    );
  }
  const records = Buffer.alloc(labels.length * RECORD);
  for (const [image, label] of labels.entries()) {
    records[image * RECORD] = label;
    for (let channel = 0; channel < CHANNELS; channel++) {
      const plane = image * RECORD + 1 + channel * PLANE;
      for (let pixel = 0; pixel < PLANE; pixel++) {
        records[plane + pixel] = data[(image * PLANE + pixel) * CHANNELS + channel] ?? 0;
      }
    }
  }
  return records;
}
