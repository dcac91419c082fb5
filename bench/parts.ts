/** A data set in its parts, and the order in which a run takes the samples. */
import type { LabelledData } from '../clients/datasets/digits/digits.ts';
import { permutation, seededRandom } from '../clients/train/random.ts';

/** Three parts that share no sample. Learning rates are chosen on the validation part; the test part is for the results. */
export interface Parts {
  readonly train: LabelledData;
  readonly validation: LabelledData;
  readonly test: LabelledData;
}

/** Holds a share of the samples back for validation, or testing: the same ones whatever the seed of a run. */
export function parted(data: LabelledData, share: number): Pick<Parts, 'train' | 'validation'> {
  const order = permutation(data.size, seededRandom(0));
  const held = Math.round(share * data.size);
  return { train: select(data, order.subarray(held)), validation: select(data, order.subarray(0, held)) };
}

export function select({ features, classes, inputs, labels }: LabelledData, samples: Uint32Array): LabelledData {
  const chosen = new Float32Array(samples.length * features);
  const chosenLabels = new Uint8Array(samples.length);
  for (const [position, sample] of samples.entries()) {
    chosen.set(inputs.subarray(sample * features, (sample + 1) * features), position * features);
    chosenLabels[position] = labels[sample] ?? 0;
  }
  return { size: samples.length, features, classes, inputs: chosen, labels: chosenLabels };
}

/** Whole batches of an epoch; the few samples beyond them wait for the next one. */
export function stepsPerEpoch({ size }: LabelledData, batch: number): number {
  return Math.floor(size / batch);
}

/** The samples of every step of a run, batch after batch: every contender sees the same ones in the same order. */
export function sampleOrder(data: LabelledData, batch: number, epochs: number, seed: number): Uint32Array {
  const random = seededRandom(1000 + seed);
  const perEpoch = stepsPerEpoch(data, batch) * batch;
  const order = new Uint32Array(epochs * perEpoch);
  for (let epoch = 0; epoch < epochs; epoch++) {
    order.set(permutation(data.size, random).subarray(0, perEpoch), epoch * perEpoch);
  }
  return order;
}
