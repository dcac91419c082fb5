/** float16 and bfloat16 against a slow exact reference: of all values of the format the nearest one, found by looking. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  fitsBfloat16,
  fitsFloat16,
  fromBfloat16,
  fromFloat16,
  toBfloat16,
  toFloat16,
} from '../../shared/half-precision.ts';

interface Format {
  readonly name: string;
  readonly exponentBits: number;
  readonly fractionBits: number;
  readonly from: (bits: Uint16Array) => Float32Array;
  readonly to: (values: Float32Array | Float64Array) => Uint16Array;
}

const FORMATS: readonly Format[] = [
  { name: 'float16', exponentBits: 5, fractionBits: 10, from: fromFloat16, to: toFloat16 },
  { name: 'bfloat16', exponentBits: 8, fractionBits: 7, from: fromBfloat16, to: toBfloat16 },
];
const INFINITY = ({ exponentBits, fractionBits }: Format): number => (2 ** exponentBits - 1) * 2 ** fractionBits;

/** The value of a non-negative number's bits, from the definition: (−1)^s 2^(e − bias) (1 + f), or 2^(1 − bias) f. */
function magnitude(bits: number, { exponentBits, fractionBits }: Format): number {
  const exponent = Math.floor(bits / 2 ** fractionBits);
  const fraction = (bits % 2 ** fractionBits) / 2 ** fractionBits;
  const bias = 2 ** (exponentBits - 1) - 1;
  return exponent === 0 ? fraction * 2 ** (1 - bias) : (1 + fraction) * 2 ** (exponent - bias);
}

/** Bits of the nearest value, ties to the even bits; infinity counts as the next power of two after the largest. */
function nearest(value: number, format: Format): number {
  const sign = Object.is(Math.sign(value), -0) || value < 0 ? 0x8000 : 0;
  const size = Math.abs(value);
  let low = 0;
  let high = INFINITY(format);
  if (size >= magnitude(high, format)) return sign | high;
  while (high - low > 1) {
    const middle = Math.floor((low + high) / 2);
    if (magnitude(middle, format) <= size) low = middle;
    else high = middle;
  }
  const below = size - magnitude(low, format);
  const above = magnitude(high, format) - size;
  const bits = below < above ? low : above < below ? high : low % 2 === 0 ? low : high;
  return sign | bits;
}

describe.each(FORMATS)('$name', (format) => {
  const all = Uint16Array.from({ length: 65_536 }, (_, bits) => bits);

  it('every value is read as what its bits mean, and written with the same bits', () => {
    const values = format.from(all);
    const written = format.to(values);
    for (const bits of all) {
      const unsigned = bits & 0x7fff;
      if (unsigned > INFINITY(format)) {
        expect(values[bits]).toBeNaN();
        expect(written[bits]! & 0x7fff).toBeGreaterThan(INFINITY(format));
        continue;
      }
      const size = unsigned === INFINITY(format) ? Number.POSITIVE_INFINITY : magnitude(unsigned, format);
      if (!Object.is(values[bits], bits < 0x8000 ? size : -size))
        expect(values[bits]).toBe(bits < 0x8000 ? size : -size);
      if (written[bits] !== bits) expect(written[bits]).toBe(bits);
    }
  });

  /** Numbers between, at and beside the values and the midpoints of the format, and any others. */
  const numbers = fc.oneof(
    fc.double({ noNaN: true }),
    fc.float({ noNaN: true }),
    fc
      .tuple(
        fc.nat(INFINITY(format) - 1),
        fc.constantFrom(0, 0.25, 0.5, 0.75, 1),
        fc.constantFrom(-1, 0, 1),
        fc.boolean(),
      )
      .map(([bits, share, ulps, negative]) => {
        const low = magnitude(bits, format);
        const between = low + share * (magnitude(bits + 1, format) - low);
        const beside = between + ulps * Number.EPSILON * between;
        return negative ? -beside : beside;
      }),
  );

  it('float64 goes to the nearest value, ties to even', () => {
    fc.assert(
      fc.property(fc.array(numbers, { minLength: 1, maxLength: 20 }), (values) => {
        expect([...format.to(Float64Array.from(values))]).toEqual(values.map((value) => nearest(value, format)));
      }),
      { seed: 1, numRuns: 2000 },
    );
  });

  it('float32 goes to the nearest value, ties to even', () => {
    fc.assert(
      fc.property(fc.array(numbers, { minLength: 1, maxLength: 20 }), (doubles) => {
        const values = Float32Array.from(doubles);
        expect([...format.to(values)]).toEqual(Array.from(values, (value) => nearest(value, format)));
      }),
      { seed: 2, numRuns: 2000 },
    );
  });

  it('NaN stays NaN, with any payload', () => {
    const payloads = Uint32Array.of(0x7f800001, 0xff800001, 0x7fc00000, 0x7fffffff);
    for (const values of [new Float32Array(payloads.buffer), Float64Array.of(Number.NaN)]) {
      for (const value of format.from(format.to(values))) expect(value).toBeNaN();
    }
  });
});

it('says which numbers have finite ones', () => {
  for (const value of [65_504, 65_519.999, 65_520, -65_520, 3.38e38, 3.3961775e38, 3.3961776e38, -3.4e38, 1e300]) {
    const values = Float64Array.of(value);
    expect(fitsFloat16(values)).toBe(Number.isFinite(fromFloat16(toFloat16(values))[0]));
    expect(fitsBfloat16(values)).toBe(Number.isFinite(fromBfloat16(toBfloat16(values))[0]));
  }
});
