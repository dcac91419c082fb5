/** Laws of which samples the steps of a run take, over random data sets, batches and seeds. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { samplesOf, stepsPerEpoch, type SamplePlan } from '../../shared/sample-order.ts';

const plan = (order: fc.Arbitrary<SamplePlan['order']>): fc.Arbitrary<SamplePlan> =>
  fc
    .integer({ min: 1, max: 60 })
    .chain((samples) =>
      fc.record({ order, samples: fc.constant(samples), batch: fc.integer({ min: 1, max: samples }) }),
    );
const shuffled = fc.record({ kind: fc.constant('shuffled' as const), seed: fc.integer({ min: 0, max: 2 ** 32 - 1 }) });
const sequential = fc.constant({ kind: 'sequential' as const });
const anyOrder = fc.oneof(shuffled, sequential);
const firstStep = fc.integer({ min: 0, max: 1e9 });

const taken = (samplePlan: SamplePlan, first: number, count: number): number[][] => {
  const of = samplesOf(samplePlan);
  return Array.from({ length: count }, (_, index) => [...of(first + index)]);
};

describe('the samples of a step', () => {
  it('are a whole batch of different samples of the data set', () => {
    fc.assert(
      fc.property(plan(anyOrder), firstStep, (samplePlan, step) => {
        const samples = [...samplesOf(samplePlan)(step)];
        expect(samples).toHaveLength(samplePlan.batch);
        expect(new Set(samples).size).toBe(samplePlan.batch);
        expect(samples.every((sample) => sample >= 0 && sample < samplePlan.samples)).toBe(true);
      }),
    );
  });

  it('are the same whatever was asked for before, and wherever a run began', () => {
    fc.assert(
      fc.property(plan(anyOrder), fc.array(fc.integer({ min: 0, max: 500 }), { maxLength: 8 }), (samplePlan, steps) => {
        const one = samplesOf(samplePlan);
        for (const step of steps) expect([...one(step)]).toEqual([...samplesOf(samplePlan)(step)]);
      }),
    );
  });

  it('shuffled: no sample twice in an epoch, and none left out but those that make no whole batch', () => {
    fc.assert(
      fc.property(plan(shuffled), fc.integer({ min: 0, max: 1e6 }), (samplePlan, epoch) => {
        const { samples, batch } = samplePlan;
        const steps = stepsPerEpoch(samples, batch);
        const all = taken(samplePlan, epoch * steps, steps).flat();
        expect(new Set(all).size).toBe(steps * batch);
        expect(samples - all.length).toBeLessThan(batch);
      }),
    );
  });

  it('shuffled: another order in every epoch and for every seed', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 2 ** 31 }), fc.integer({ min: 0, max: 1e6 }), (seed, epoch) => {
        // Of 60 samples two orders are the same once in 60! times.
        const epochOf = (ofSeed: number, index: number): number[][] =>
          taken({ order: { kind: 'shuffled', seed: ofSeed }, samples: 60, batch: 60 }, index, 1);
        expect(epochOf(seed, epoch)).not.toEqual(epochOf(seed, epoch + 1));
        expect(epochOf(seed, epoch)).not.toEqual(epochOf(seed + 1, epoch));
      }),
    );
  });

  it('sequential: one after the other through the whole data set, and from the beginning again', () => {
    fc.assert(
      fc.property(plan(sequential), (samplePlan) => {
        const { samples, batch } = samplePlan;
        const all = taken(samplePlan, 0, 2 * samples).flat();
        expect(all).toEqual(Array.from({ length: 2 * samples * batch }, (_, index) => index % samples));
      }),
    );
  });
});

it('is what it was when it was published: other programs compute it, too', () => {
  const of = samplesOf({ order: { kind: 'shuffled', seed: 7 }, samples: 10, batch: 4 });
  expect([0, 1, 2].map((step) => [...of(step)])).toEqual([
    [5, 6, 2, 3],
    [1, 4, 8, 9],
    [5, 4, 0, 7],
  ]);
});

it('refuses a batch that the data set does not have', () => {
  expect(() => samplesOf({ order: { kind: 'sequential' }, samples: 3, batch: 4 })).toThrow(RangeError);
});
