/**
 * Which samples of a data set a step takes: a pure function, so that the service, a client and a peer in a benchmark take the same
 * batches without sending them to each other.
 *
 * The number of the step within the session decides, not where its run began: one run of 100 steps and two of 50 take the same batches.
 */
import * as z from 'zod';
import { derivedSeed, permutation, seededRandom } from './random.ts';

export const sampleOrderSchema = z
  .discriminatedUnion('kind', [
    z.strictObject({
      kind: z.literal('shuffled').meta({
        description:
          'Epochs of ⌊samples / batch⌋ whole batches, each in a random order of its own; the samples that are left over are others in every epoch',
      }),
      seed: z
        .int()
        .min(0)
        .max(2 ** 32 - 1)
        .default(0)
        .meta({ description: 'Of the orders' }),
    }),
    z.strictObject({
      kind: z.literal('sequential').meta({
        description: 'Sample after sample; a batch that meets the end goes on with the first ones',
      }),
    }),
  ])
  .prefault({ kind: 'shuffled' })
  .meta({ id: 'SampleOrder', description: 'Told apart by `kind`' });

export type SampleOrder = z.output<typeof sampleOrderSchema>;

export interface SamplePlan {
  readonly order: SampleOrder;
  /** Samples that there are, at least one batch. */
  readonly samples: number;
  /** Samples of a step, from 1. */
  readonly batch: number;
}

/**
 * The samples of any step, by their numbers from 0. It keeps the order of the last epoch that it was asked for, which takes 4 bytes a
 * sample.
 *
 * @returns for a step's number its samples, `batch` of them, in the order in which they make up the batch
 * @throws RangeError if there are fewer samples than in one batch
 */
export function samplesOf({ order, samples, batch }: SamplePlan): (step: number) => Uint32Array {
  if (!(batch >= 1 && batch <= samples)) {
    throw new RangeError(`a batch of ${String(batch)} cannot be taken of ${String(samples)} samples`);
  }
  switch (order.kind) {
    case 'sequential':
      return (step) => {
        const first = ((step % samples) * batch) % samples;
        return Uint32Array.from({ length: batch }, (_, index) => (first + index) % samples);
      };
    case 'shuffled': {
      const steps = stepsPerEpoch(samples, batch);
      let known: { readonly epoch: number; readonly samples: Uint32Array } | null = null;
      return (step) => {
        const epoch = Math.floor(step / steps);
        if (known?.epoch !== epoch) {
          known = { epoch, samples: permutation(samples, seededRandom(derivedSeed(order.seed, epoch))) };
        }
        const first = (step % steps) * batch;
        return known.samples.slice(first, first + batch);
      };
    }
  }
}

/** Whole batches of an epoch. */
export function stepsPerEpoch(samples: number, batch: number): number {
  return Math.floor(samples / batch);
}
