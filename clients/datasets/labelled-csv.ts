/**
 * Tables of measurements as scikit-learn distributes them: a line with the numbers of samples and features and the names of the
 * classes; then one line a sample, its features and the number of its class.
 */
import { readFile } from 'node:fs/promises';
import type { LabelledData } from './digits/digits.ts';

/** Reads such a file; the measurements stay in their units. @throws Error if it is not what its first line says */
export async function loadLabelledCsv(file: URL): Promise<LabelledData> {
  const name = file.pathname.split('/').at(-1) ?? '';
  const [first = '', ...lines] = (await readFile(file, 'utf8')).trim().split(/\r?\n/);
  const [size = Number.NaN, features = Number.NaN] = first.split(',').slice(0, 2).map(Number);
  const classes = first.split(',').length - 2;
  if (lines.length !== size) throw new Error(`${name} has ${String(lines.length)} samples, not ${String(size)}`);
  const inputs = new Float32Array(size * features);
  const labels = new Uint8Array(size);
  for (const [index, line] of lines.entries()) {
    const numbers = line.split(',').map(Number);
    const label = numbers.pop();
    const isClass = label !== undefined && Number.isInteger(label) && label >= 0 && label < classes;
    if (!isClass || numbers.length !== features || !numbers.every(Number.isFinite)) {
      throw new Error(`${name}: line ${String(index + 2)} is not ${String(features)} numbers and a class`);
    }
    inputs.set(numbers, index * features);
    labels[index] = label;
  }
  return { size, features, classes, inputs, labels };
}
