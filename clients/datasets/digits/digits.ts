/** The DIGITS data set: 1,797 images of handwritten digits, 8×8. See ORIGIN.md for its source and licence. */
import { readFile } from 'node:fs/promises';
import { gunzipSync } from 'node:zlib';

const FILE = new URL('./digits.csv.gz', import.meta.url);
const PIXELS = 64;
const MAXIMUM_PIXEL = 16;

/** Labelled samples: `inputs` is [size, features] row-major, `labels` holds class numbers. */
export interface LabelledData {
  readonly size: number;
  readonly features: number;
  readonly classes: number;
  readonly inputs: Float32Array;
  readonly labels: Uint8Array;
}

/** All images, pixels scaled to [0, 1]. */
export async function loadDigits(): Promise<LabelledData> {
  const lines = gunzipSync(await readFile(FILE))
    .toString('ascii')
    .trim()
    .split('\n');
  const inputs = new Float32Array(lines.length * PIXELS);
  const labels = new Uint8Array(lines.length);
  for (const [index, line] of lines.entries()) {
    const numbers = line.split(',').map(Number);
    const label = numbers[PIXELS];
    if (numbers.length !== PIXELS + 1 || label === undefined || !numbers.every(Number.isFinite)) {
      throw new Error(`digits.csv.gz: line ${String(index + 1)} is not ${String(PIXELS)} pixels and a label`);
    }
    inputs.set(
      numbers.slice(0, PIXELS).map((pixel) => pixel / MAXIMUM_PIXEL),
      index * PIXELS,
    );
    labels[index] = label;
  }
  return { size: lines.length, features: PIXELS, classes: 10, inputs, labels };
}
