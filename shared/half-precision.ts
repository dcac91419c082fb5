/**
 * float16 (IEEE 754 binary16) and bfloat16 (the upper half of a float32), to and from wider numbers. Rounds to nearest, ties to even, from
 * float64 as from float32: once, not by way of float32. Beyond the largest number it rounds to infinity, from half of the smallest
 * subnormal down to zero, with the sign; NaN stays NaN.
 */
type Numbers = Float32Array | Float64Array;

/** The largest float16. What is not smaller than 65,520, half a unit above it, rounds to infinity. */
const FLOAT16_OVERFLOW = 65_520;

/** The same of bfloat16: half a unit above the largest. */
const BFLOAT16_OVERFLOW = 2 ** 128 * (1 - 2 ** -9);

const SIGN = 0x8000_0000;
const FLOAT32_INFINITY = 0x7f80_0000;

/** Whether numbers have finite float16s. */
export function fitsFloat16(values: Numbers): boolean {
  return values.every((value) => Math.abs(value) < FLOAT16_OVERFLOW);
}

/** Whether numbers have finite bfloat16s. */
export function fitsBfloat16(values: Numbers): boolean {
  return values.every((value) => Math.abs(value) < BFLOAT16_OVERFLOW);
}

/** The bits of the nearest float16s. */
export function toFloat16(values: Numbers): Uint16Array<ArrayBuffer> {
  const bits = float32BitsToOdd(values);
  const result = new Uint16Array(bits.length);
  for (const [index, word] of bits.entries()) result[index] = float16Of(word);
  return result;
}

/** The bits of the nearest bfloat16s. */
export function toBfloat16(values: Numbers): Uint16Array<ArrayBuffer> {
  const bits = float32BitsToOdd(values);
  const result = new Uint16Array(bits.length);
  for (const [index, word] of bits.entries()) {
    const isNaN = (word & ~SIGN) > FLOAT32_INFINITY;
    // Half a unit less one, and one more where the kept part is odd: ties go to even. A carry goes into the exponent, as it should.
    result[index] = isNaN ? (word >>> 16) | 0x40 : (word + 0x7fff + ((word >>> 16) & 1)) >>> 16;
  }
  return result;
}

/** Exact. */
export function fromFloat16(bits: Uint16Array): Float32Array<ArrayBuffer> {
  const table = float16Values();
  const result = new Float32Array(bits.length);
  for (const [index, half] of bits.entries()) result[index] = table[half] ?? Number.NaN;
  return result;
}

/** Exact. */
export function fromBfloat16(bits: Uint16Array): Float32Array<ArrayBuffer> {
  const words = new Uint32Array(bits.length);
  for (const [index, half] of bits.entries()) words[index] = half << 16;
  return new Float32Array(words.buffer);
}

/**
 * The bits of float32s that keep what a second rounding must know: of a float64 between two float32s the one whose last bit is 1
 * ("round to odd"). Rounding that to 11 or 8 bits gives what rounding the float64 would have.
 */
function float32BitsToOdd(values: Numbers): Uint32Array {
  if (values instanceof Float32Array) return new Uint32Array(values.buffer, values.byteOffset, values.length);
  const rounded = Float32Array.from(values);
  const bits = new Uint32Array(rounded.buffer);
  for (const [index, value] of values.entries()) {
    const nearest = rounded[index] ?? Number.NaN;
    if (nearest === value || Number.isNaN(value)) continue;
    const towardsZero = Math.abs(nearest) > Math.abs(value) ? 1 : 0;
    bits[index] = ((bits[index] ?? 0) - towardsZero) | 1;
  }
  return bits;
}

/** The bits of the float16 nearest to the float32 with these bits. */
function float16Of(word: number): number {
  const sign = (word >>> 16) & 0x8000;
  const magnitude = word & ~SIGN;
  if (magnitude > FLOAT32_INFINITY) return sign | 0x7e00; // NaN
  const exponent = (magnitude >>> 23) - 127;
  if (exponent > 15) return sign | 0x7c00; // at least 2^16: infinity
  if (exponent < -25) return sign; // less than half of the smallest subnormal
  // The significand with its leading 1; of a subnormal float16 (exponent below −14) more of it is cut off.
  const isSubnormal = exponent < -14;
  const significand = (magnitude & 0x7f_ffff) | 0x80_0000;
  const cut = isSubnormal ? -1 - exponent : 13;
  const kept = significand >>> cut;
  const rest = significand & ((1 << cut) - 1);
  const half = 1 << (cut - 1);
  const rounded = kept + (rest > half || (rest === half && (kept & 1) === 1) ? 1 : 0);
  // The leading 1 of `kept` counts as one step of the exponent, and a carry as another.
  return sign | (isSubnormal ? rounded : rounded + ((exponent + 14) << 10));
}

let values16: Float32Array | null = null;

/** The value of every float16, made when first needed: 256 KiB. */
function float16Values(): Float32Array {
  values16 ??= Float32Array.from({ length: 65_536 }, (_, bits) => {
    const exponent = (bits >>> 10) & 0x1f;
    const fraction = bits & 0x3ff;
    const magnitude =
      exponent === 0
        ? fraction * 2 ** -24
        : exponent < 31
          ? (1024 + fraction) * 2 ** (exponent - 25)
          : fraction === 0
            ? Number.POSITIVE_INFINITY
            : Number.NaN;
    return bits < 0x8000 ? magnitude : -magnitude;
  });
  return values16;
}
