/** Splits of a data set and its mini-batches. */
import type { LabelledData } from '../datasets/digits/digits.ts';
import type { Random } from '../../shared/random.ts';
import { permutation } from './random.ts';

export interface MiniBatch {
  readonly size: number;
  /** [size, features], row-major. */
  readonly inputs: Float32Array;
  readonly labels: Uint8Array;
}

/** The samples at the given indices. */
function select(data: LabelledData, indices: Uint32Array): LabelledData {
  const { features, classes } = data;
  const inputs = new Float32Array(indices.length * features);
  const labels = new Uint8Array(indices.length);
  for (const [position, index] of indices.entries()) {
    inputs.set(data.inputs.subarray(index * features, (index + 1) * features), position * features);
    labels[position] = data.labels[index] ?? 0;
  }
  return { size: indices.length, features, classes, inputs, labels };
}

/** A random split into training and test set. */
export function split(
  data: LabelledData,
  testFraction: number,
  random: Random,
): { train: LabelledData; test: LabelledData } {
  const order = permutation(data.size, random);
  const testSize = Math.round(data.size * testFraction);
  return { train: select(data, order.slice(testSize)), test: select(data, order.slice(0, testSize)) };
}

/** The map that gives every feature mean 0 and variance 1 over the training set; a feature that is constant there becomes 0. */
export function standardisation({ size, features, inputs }: LabelledData): (data: LabelledData) => LabelledData {
  const moments = Array.from({ length: features }, (_, feature) => {
    const values = Array.from({ length: size }, (_unused, sample) => inputs[sample * features + feature] ?? 0);
    const mean = values.reduce((sum, value) => sum + value, 0) / size;
    const variance = values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / size;
    return { mean, deviation: Math.sqrt(variance) };
  });
  return (data) => ({
    ...data,
    inputs: data.inputs.map((value, index) => {
      const { mean = 0, deviation = 1 } = moments[index % features] ?? {};
      return deviation > 0 ? (value - mean) / deviation : 0;
    }),
  });
}

/** One epoch's mini-batches in random order; the last one may be smaller. */
export function* miniBatches(data: LabelledData, batchSize: number, random: Random): Generator<MiniBatch> {
  const order = permutation(data.size, random);
  for (let begin = 0; begin < data.size; begin += batchSize) {
    const { size, inputs, labels } = select(data, order.slice(begin, begin + batchSize));
    yield { size, inputs, labels };
  }
}
