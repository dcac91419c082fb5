/** A data set for the hosted model of the tests, whole and in chunks, and the batches that runs take of it. */
import { encode, type NamedTensor, type NarrowDtype } from '../../shared/safetensors.ts';
import { seededRandom } from '../../shared/random.ts';
import { samplesOf, type SamplePlan } from '../../shared/sample-order.ts';
import type { SessionDefinitionInput } from '../../shared/session.ts';
import { MODEL } from '../conformance/bodies.ts';

export const HOSTED = {
  mode: 'hosted',
  model: MODEL,
  loss: { kind: 'softmax-cross-entropy' },
} satisfies SessionDefinitionInput;

const FEATURES = 5;
const CLASSES = 3;
export const SAMPLES = 40;

/** [SAMPLES, FEATURES] and [SAMPLES]: numbers that every element type has. */
export const DATA = (() => {
  const random = seededRandom(17);
  const x = Float32Array.from({ length: SAMPLES * FEATURES }, () => Math.round(64 * (2 * random() - 1)) / 32);
  const y = Float32Array.from({ length: SAMPLES }, () => Math.floor(CLASSES * random()));
  return { x, y };
})();

function tensors(samples: ArrayLike<number>): NamedTensor[] {
  const numbers = Array.from(samples);
  const x = Float32Array.from(numbers.flatMap((sample) => [...DATA.x.subarray(sample * FEATURES, (sample + 1) * FEATURES)])); // prettier-ignore
  const y = Float32Array.from(numbers, (sample) => DATA.y[sample]!);
  return [
    { name: 'x', shape: [numbers.length, FEATURES], values: x },
    { name: 'y', shape: [numbers.length], values: y },
  ];
}

/** Samples `begin` to `end` − 1. */
export function chunk(begin: number, end: number, dtype?: NarrowDtype): Uint8Array<ArrayBuffer> {
  const [x, y] = tensors(Array.from({ length: end - begin }, (_, index) => begin + index));
  return encode([{ ...x!, ...(dtype === undefined ? {} : { dtype }) }, y!]);
}

/** The data set in three chunks. */
export const CHUNKS = (): Uint8Array<ArrayBuffer>[] => [chunk(0, 7), chunk(7, 30, 'F16'), chunk(30, SAMPLES)];

/** The steps that a run takes, as a client would send them. */
export function batches(plan: Omit<SamplePlan, 'samples'>, first: number, count: number): Uint8Array<ArrayBuffer>[] {
  const of = samplesOf({ ...plan, samples: SAMPLES });
  return Array.from({ length: count }, (_, index) => encode(tensors(of(first + index))));
}
