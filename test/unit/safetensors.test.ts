/** The safetensors codec: what it writes it reads, and whatever is wrong with a body it says. */
import { runInNewContext } from 'node:vm';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ProblemError, type ProblemCode } from '../../shared/errors.ts';
import { LIMITS } from '../../shared/limits.ts';
import {
  encode,
  LENGTH_PREFIX_BYTES,
  parseHeader,
  readHeader,
  readHeaderLength,
  readValues,
  type NamedTensor,
} from '../../shared/safetensors.ts';

const SEED = { seed: 20_240_601 };

/** Values of every kind; NaN in its canonical form alone, whose payload JavaScript does not define. */
const special = fc.constantFrom(0, -0, Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, 1, -1);
const float32 = fc.oneof(special, fc.constantFrom(1e-45, 3.4028234663852886e38), fc.float());
const float64 = fc.oneof(special, fc.constantFrom(Number.MIN_VALUE, Number.MAX_VALUE, Number.EPSILON), fc.double());

const shapes = fc.array(fc.nat({ max: 4 }), { maxLength: 4 });
const count = (shape: readonly number[]): number => shape.reduce((product, size) => product * size, 1);

const contents = shapes.chain((shape): fc.Arbitrary<Pick<NamedTensor, 'shape' | 'values'>> => {
  const length = { minLength: count(shape), maxLength: count(shape) };
  return fc.oneof(
    fc.array(float32, length).map((values) => ({ shape, values: Float32Array.from(values) })),
    fc.array(float64, length).map((values) => ({ shape, values: Float64Array.from(values) })),
  );
});
const names = fc
  .oneof(
    fc.string({ unit: 'grapheme' }),
    fc.string({ unit: 'binary' }),
    fc.constantFrom('0', 'ü.输入', 'constructor', '\u0000'),
  )
  .filter((name) => name !== '__metadata__' && name !== '__proto__');
const tensorLists = fc.uniqueArray(
  fc.tuple(names, contents).map(([name, content]): NamedTensor => ({ name, ...content })),
  { selector: ({ name }) => name, maxLength: 6 },
);
const metadata = fc.dictionary(names, fc.string({ unit: 'grapheme' }), { noNullPrototype: true });

/** Equal bit for bit, but for the payload of NaN: toEqual tells 0 from −0 and takes NaN for NaN. */
function expectTensors(body: Uint8Array, tensors: readonly NamedTensor[]): void {
  const header = readHeader(body);
  const found = new Map(header.entries.map((entry) => [entry.name, entry]));
  expect(found.size).toBe(tensors.length);
  for (const { name, shape, values } of tensors) {
    const entry = found.get(name)!;
    expect(entry.shape).toEqual(shape);
    expect(entry.dtype).toBe(values instanceof Float64Array ? 'F64' : 'F32');
    expect(readValues(body, header, entry)).toEqual(values);
  }
}

describe('round trip', () => {
  it('keeps names, shapes, element types, values and metadata', () => {
    fc.assert(
      fc.property(tensorLists, metadata, (tensors, texts) => {
        const body = encode(tensors, texts);
        expectTensors(body, tensors);
        expect(readHeader(body).metadata).toEqual(texts);
      }),
      SEED,
    );
  });

  it('reads a body wherever it lies in its buffer, and from a Buffer too', () => {
    fc.assert(
      fc.property(tensorLists, fc.nat({ max: 9 }), (tensors, offset) => {
        const body = encode(tensors);
        const memory = new Uint8Array(body.length + offset + 3).fill(0xa5);
        memory.set(body, offset);
        expectTensors(memory.subarray(offset, offset + body.length), tensors);
        expectTensors(Buffer.from(memory.buffer, offset, body.length), tensors);
      }),
      SEED,
    );
  });

  it('aligns the data to 8 bytes and every tensor to its element', () => {
    fc.assert(
      fc.property(tensorLists, (tensors) => {
        const header = readHeader(encode(tensors));
        expect(header.dataStart % 8).toBe(0);
        for (const { dtype, begin } of header.entries) expect(begin % (dtype === 'F64' ? 8 : 4)).toBe(0);
      }),
      SEED,
    );
  });

  it('needs the header alone to know the tensors', () => {
    fc.assert(
      fc.property(tensorLists, (tensors) => {
        const body = encode(tensors);
        const length = readHeaderLength(body.subarray(0, LENGTH_PREFIX_BYTES), body.length);
        const json = body.slice(LENGTH_PREFIX_BYTES, LENGTH_PREFIX_BYTES + length);
        expect(parseHeader(json, body.length)).toEqual(readHeader(body));
      }),
      SEED,
    );
  });

  it('writes what a library wrote: a file byte for byte', () => {
    // safetensors.numpy.save({'a': np.array([1, 2], np.float32)})
    const json = '{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}';
    const padded = json.padEnd(56);
    const expected = Buffer.concat([
      Buffer.from([56, 0, 0, 0, 0, 0, 0, 0]),
      Buffer.from(padded),
      Buffer.from([0, 0, 0x80, 0x3f, 0, 0, 0, 0x40]),
    ]);
    expect(Buffer.from(encode([{ name: 'a', shape: [2], values: Float32Array.of(1, 2) }])).equals(expected)).toBe(true);
  });

  it('refuses to write a tensor whose shape does not hold its values', () => {
    const tensor = { name: 'a', shape: [2, 2], values: new Float32Array(3) };
    expect(() => encode([tensor])).toThrow(/a: shape \[2, 2\] does not hold 3 values/);
  });

  it.each([
    ['Int32Array', Int32Array.of(1, 2), undefined],
    ['Int32Array', Int32Array.of(1, 2), 'F16' as const],
    ['Uint8Array', Uint8Array.of(1, 2), undefined],
    ['Array', [1, 2], undefined],
  ])('refuses %s, which only plain JavaScript can pass, and says what to pass', (kind, values, dtype) => {
    const tensor = { name: 'a', shape: [2], values: values as unknown as Float32Array, dtype: dtype! };
    expect(() => encode([tensor])).toThrow(new TypeError(`a is of kind ${kind}; a Float32Array or a Float64Array was expected: Float32Array.from(…) makes one`)); // prettier-ignore
  });

  it('takes the arrays of another realm for what they are', () => {
    const foreign = runInNewContext('Float64Array.of(1, 2)') as Float64Array;
    expect(foreign).not.toBeInstanceOf(Float64Array);
    const body = encode([{ name: 'a', shape: [2], values: foreign }]);
    expect(body).toEqual(encode([{ name: 'a', shape: [2], values: Float64Array.of(1, 2) }]));
  });

  it.each(['__metadata__', '__proto__'])(
    'writes a tensor called %s, or refuses to; never a body without it',
    (name) => {
      const tensors = [{ name, shape: [1], values: Float32Array.of(1) }];
      let body;
      try {
        body = encode(tensors, { a: 'b' });
      } catch (error) {
        expect(error).toBeInstanceOf(RangeError);
        return;
      }
      expectTensors(body, tensors);
    },
  );

  it('refuses to write two tensors of one name', () => {
    const tensor = { name: 'a', shape: [1], values: Float32Array.of(1) };
    expect(() => encode([tensor, tensor])).toThrow(RangeError);
  });
});

function bodyOf(header: unknown, dataBytes: number): Uint8Array {
  const json = Buffer.from(typeof header === 'string' ? header : JSON.stringify(header));
  const body = new Uint8Array(LENGTH_PREFIX_BYTES + json.length + dataBytes);
  new DataView(body.buffer).setBigUint64(0, BigInt(json.length), true);
  body.set(json, LENGTH_PREFIX_BYTES);
  return body;
}

function problemOf(read: () => unknown): ProblemError {
  try {
    read();
  } catch (error) {
    expect(error).toBeInstanceOf(ProblemError);
    return error as ProblemError;
  }
  throw new Error('the body was accepted');
}

const a = { dtype: 'F32', shape: [2], data_offsets: [0, 8] };

describe('a malformed header', () => {
  it.each<{ title: string; header: unknown; bytes: number; code?: ProblemCode; param?: string; mentions?: string }>([
    { title: 'not JSON', header: '{"a":', bytes: 8 },
    { title: 'JSON with something behind it', header: '{} {}', bytes: 0 },
    { title: 'an array', header: [a], bytes: 8 },
    { title: 'null', header: 'null', bytes: 0 },
    { title: 'a number', header: '12', bytes: 0 },
    { title: 'with a byte order mark', header: '\ufeff{}', bytes: 0 },
    { title: 'an entry that is a number', header: { a: 1 }, bytes: 8, param: 'a' },
    { title: 'an entry that is null', header: { a: null }, bytes: 8, param: 'a' },
    { title: 'an entry that is an array', header: { a: [0, 8] }, bytes: 8, param: 'a' },
    { title: 'no dtype', header: { a: { ...a, dtype: undefined } }, bytes: 8, param: 'a', mentions: 'dtype' },
    { title: 'an unknown dtype', header: { a: { ...a, dtype: 'f32' } }, bytes: 8, param: 'a', mentions: '"f32"' },
    {
      title: 'a dtype of Object.prototype',
      header: { a: { ...a, dtype: 'toString' } },
      bytes: 8,
      param: 'a',
      mentions: 'toString',
    },
    { title: 'no shape', header: { a: { ...a, shape: undefined } }, bytes: 8, param: 'a', mentions: 'shape' },
    { title: 'a shape that is a number', header: { a: { ...a, shape: 2 } }, bytes: 8, param: 'a', mentions: 'shape 2' },
    { title: 'a negative size', header: { a: { ...a, shape: [-2] } }, bytes: 8, param: 'a', mentions: '[-2]' },
    { title: 'half a size', header: { a: { ...a, shape: [0.5] } }, bytes: 8, param: 'a', mentions: '[0.5]' },
    { title: 'a size as text', header: { a: { ...a, shape: ['2'] } }, bytes: 8, param: 'a', mentions: '["2"]' },
    { title: 'a size beyond exact integers', header: { a: { ...a, shape: [2 ** 53] } }, bytes: 8, param: 'a' },
    {
      title: 'sizes whose product is infinite',
      header: { a: { ...a, shape: Array(30).fill(2 ** 52) as number[] } },
      bytes: 8,
      param: 'a',
    },
    {
      title: 'no offsets',
      header: { a: { ...a, data_offsets: undefined } },
      bytes: 8,
      param: 'a',
      mentions: 'data_offsets',
    },
    { title: 'one offset', header: { a: { ...a, data_offsets: [0] } }, bytes: 8, param: 'a', mentions: '[0]' },
    {
      title: 'three offsets',
      header: { a: { ...a, data_offsets: [0, 8, 8] } },
      bytes: 8,
      param: 'a',
      mentions: '[0,8,8]',
    },
    {
      title: 'reversed offsets',
      header: { a: { ...a, data_offsets: [8, 0] } },
      bytes: 8,
      param: 'a',
      mentions: '[8,0]',
    },
    {
      title: 'negative offsets',
      header: { a: { ...a, data_offsets: [-8, 0] } },
      bytes: 8,
      param: 'a',
      mentions: '[-8,0]',
    },
    {
      title: 'offsets too far apart',
      header: { a: { ...a, data_offsets: [0, 12] } },
      bytes: 12,
      param: 'a',
      mentions: '12',
    },
    {
      title: 'a first tensor that does not start at 0',
      header: { a: { ...a, data_offsets: [4, 12] } },
      bytes: 12,
      param: 'a',
      mentions: 'gap',
    },
    { title: 'a gap', header: { a, b: { ...a, data_offsets: [12, 20] } }, bytes: 20, param: 'b', mentions: 'gap' },
    {
      title: 'an overlap',
      header: { a, b: { ...a, data_offsets: [4, 12] } },
      bytes: 12,
      param: 'b',
      mentions: 'overlap',
    },
    { title: 'one tensor’s bytes twice', header: { a, b: a }, bytes: 8, mentions: 'overlap' },
    {
      title: 'one name twice',
      header: `{"a":${JSON.stringify(a)},"a":${JSON.stringify(a)}}`,
      bytes: 8,
      param: 'a',
      mentions: 'a',
    },
    { title: 'metadata that is a text', header: { __metadata__: 'x' }, bytes: 0, param: '__metadata__' },
    { title: 'metadata that is null', header: { __metadata__: null }, bytes: 0, param: '__metadata__' },
    {
      title: 'metadata with a number',
      header: { __metadata__: { a: 1 } },
      bytes: 0,
      param: '__metadata__',
      mentions: '__metadata__.a',
    },
    { title: 'a body too short', header: { a }, bytes: 7, code: 'length_mismatch', mentions: '7' },
    { title: 'a body too long', header: { a }, bytes: 9, code: 'length_mismatch', mentions: '9' },
    { title: 'bytes without a tensor', header: {}, bytes: 1, code: 'length_mismatch', mentions: '1' },
  ])('$title', ({ header, bytes, code = 'invalid_header', param, mentions = '' }) => {
    const body = bodyOf(header, bytes);
    const problem = problemOf(() => readHeader(body));
    expect(problem.code).toBe(code);
    expect(problem.details.param).toBe(param ?? problem.details.param);
    expect(problem.details.detail).toContain(mentions);
    expect(problem.details.remedy).not.toBe('');
    // The header and the length of the body are enough to see it.
    const alone = problemOf(() => parseHeader(body.slice(8, body.length - bytes), body.length));
    expect(alone.details).toEqual(problem.details);
  });

  it('that is not UTF-8', () => {
    const body = bodyOf('{"a":1}', 0);
    body[11] = 0xc0;
    expect(problemOf(() => readHeader(body)).code).toBe('invalid_header');
  });

  it('is described in a few lines, however long it is', () => {
    const long = 'x'.repeat(500_000);
    for (const header of [
      { [long]: a, b: a },
      { a: { ...a, dtype: long } },
      { a: { ...a, shape: [long] } },
      { __metadata__: { [long]: 1 } },
    ]) {
      expect(problemOf(() => readHeader(bodyOf(header, 8))).details.detail.length).toBeLessThan(2_000);
    }
  });

  it('is refused however deep it is nested', () => {
    const nested = `${'['.repeat(200_000)}${']'.repeat(200_000)}`;
    const headers = ['dtype', 'shape', 'data_offsets'].map(
      (field) => `{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"${field}":${nested}}}`,
    );
    for (const header of headers) expect(problemOf(() => readHeader(bodyOf(header, 8))).code).toBe('invalid_header');
  });

  it('is not needed in full: an empty one of two bytes is a body without tensors', () => {
    expect(readHeader(bodyOf('{}', 0))).toEqual({ entries: [], metadata: {}, dataStart: 10 });
  });
});

describe('the length of the header', () => {
  const prefix = (length: bigint): Uint8Array => {
    const bytes = new Uint8Array(LENGTH_PREFIX_BYTES);
    new DataView(bytes.buffer).setBigUint64(0, length, true);
    return bytes;
  };

  it.each<{ title: string; length: bigint; body: number; code: ProblemCode }>([
    { title: '0', length: 0n, body: 100, code: 'invalid_header' },
    { title: '1', length: 1n, body: 100, code: 'invalid_header' },
    { title: 'over the limit', length: BigInt(LIMITS.headerBytes) + 1n, body: 1e9, code: 'invalid_header' },
    { title: '2⁵³ + 1', length: 2n ** 53n + 1n, body: 1e9, code: 'invalid_header' },
    { title: '2⁶⁴ − 1', length: 2n ** 64n - 1n, body: 1e9, code: 'invalid_header' },
    { title: 'longer than the body', length: 93n, body: 100, code: 'length_mismatch' },
    { title: 'in a body without room for it', length: 2n, body: 7, code: 'length_mismatch' },
  ])('$title', ({ length, body, code }) => {
    const problem = problemOf(() => readHeaderLength(prefix(length), body));
    expect(problem.code).toBe(code);
    expect(problem.details.detail).toContain(body === 7 ? '7' : String(length));
  });

  it.each([
    { length: 2n, body: 10 },
    { length: 92n, body: 100 },
    { length: BigInt(LIMITS.headerBytes), body: 1e8 },
  ])('$length in a body of $body bytes is right', ({ length, body }) => {
    expect(readHeaderLength(prefix(length), body)).toBe(Number(length));
  });

  it('in fewer than 8 bytes', () => {
    expect(problemOf(() => readHeaderLength(new Uint8Array(3), 3)).code).toBe('length_mismatch');
  });
});

describe('bytes of any kind', () => {
  const readAll = (body: Uint8Array): void => {
    const header = readHeader(body);
    for (const entry of header.entries) readValues(body, header, entry);
  };
  const onlyProblems = (body: Uint8Array): void => {
    try {
      readAll(body);
    } catch (error) {
      expect(error).toBeInstanceOf(ProblemError);
    }
  };

  it('throw a problem or nothing: noise', () => {
    fc.assert(fc.property(fc.uint8Array({ maxLength: 200 }), onlyProblems), SEED);
  });

  it('throw a problem or nothing: any JSON as header', () => {
    fc.assert(
      fc.property(fc.json(), fc.nat({ max: 64 }), (json, bytes) => {
        onlyProblems(bodyOf(json, bytes));
      }),
      SEED,
    );
  });

  it('throw a problem or nothing: headers that are nearly right', () => {
    const size = fc.oneof(fc.nat({ max: 8 }), fc.jsonValue({ maxDepth: 1 }));
    const entry = fc.record(
      {
        dtype: fc.oneof(fc.constantFrom('F64', 'F32', 'F16', 'I8', 'BOOL', 'F33'), fc.jsonValue({ maxDepth: 1 })),
        shape: fc.oneof(fc.array(size, { maxLength: 3 }), fc.jsonValue({ maxDepth: 1 })),
        data_offsets: fc.oneof(fc.array(size, { minLength: 2, maxLength: 2 }), fc.jsonValue({ maxDepth: 1 })),
      },
      { requiredKeys: [] },
    );
    const header = fc.dictionary(fc.constantFrom('a', 'b', '__metadata__', '__proto__', ''), entry);
    fc.assert(
      fc.property(header, fc.nat({ max: 32 }), (document, bytes) => {
        onlyProblems(bodyOf(document, bytes));
      }),
      { ...SEED, numRuns: 500 },
    );
  });

  it('throw a problem or nothing: a right body with one byte changed, cut or added', () => {
    const body = encode([
      { name: 'losses', shape: [3], values: Float32Array.of(1, 2, 3) },
      { name: 'x', shape: [1, 2], values: Float64Array.of(4, 5) },
    ]);
    fc.assert(
      fc.property(fc.nat({ max: body.length - 1 }), fc.nat({ max: 255 }), (position, byte) => {
        const changed = body.slice();
        changed[position] = byte;
        onlyProblems(changed);
        expect(() => {
          readAll(body.subarray(0, position));
        }).toThrow(ProblemError);
        expect(() => {
          readAll(new Uint8Array([...body, byte]));
        }).toThrow(ProblemError);
      }),
      { ...SEED, numRuns: 500 },
    );
  });
});

it('reads whole numbers as float64, from any alignment', () => {
  const header = {
    u: { dtype: 'U8', shape: [3], data_offsets: [0, 3] },
    i: { dtype: 'I32', shape: [1], data_offsets: [3, 7] },
    l: { dtype: 'I64', shape: [1], data_offsets: [7, 15] },
  };
  const body = bodyOf(header, 15);
  const { dataStart, entries } = readHeader(body);
  const view = new DataView(body.buffer, body.byteOffset + dataStart);
  [1, 2, 255].forEach((value, index) => {
    view.setUint8(index, value);
  });
  view.setInt32(3, -7, true);
  view.setBigInt64(7, -(2n ** 40n), true);
  const values = entries.map((entry) => [...readValues(body, readHeader(body), entry)]);
  expect(values).toEqual([[1, 2, 255], [-7], [-(2 ** 40)]]);
});

it('does not read truth values', () => {
  const body = bodyOf({ a: { dtype: 'BOOL', shape: [2], data_offsets: [0, 2] } }, 2);
  const header = readHeader(body);
  const problem = problemOf(() => readValues(body, header, header.entries[0]!));
  expect(problem).toMatchObject({ code: 'dtype_unsupported', details: { param: 'a' } });
  expect(problem.details.detail).toContain('BOOL');
});

describe('narrow element types', () => {
  const values = Float32Array.of(1, -0.1, 300.25, 0, 1e-7);
  const read = (body: Uint8Array, name: string): number[] => {
    const header = readHeader(body);
    return [
      ...readValues(
        body,
        header,
        header.entries.find((entry) => entry.name === name)!,
      ),
    ];
  };

  it('hold the nearest numbers that they have', () => {
    const body = encode([
      { name: 'odd', shape: [3], values: Float32Array.of(1, 2, 3), dtype: 'I8' },
      { name: 'half', shape: [5], values, dtype: 'F16' },
      { name: 'brain', shape: [5], values: Float64Array.from(values), dtype: 'BF16' },
      { name: 'full', shape: [5], values },
    ]);
    expect(readHeader(body).entries.map(({ name, dtype, begin }) => [name, dtype, begin])).toEqual([
      ['full', 'F32', 0],
      ['half', 'F16', 20],
      ['brain', 'BF16', 30],
      ['odd', 'I8', 40],
    ]);
    expect(read(body, 'full')).toEqual([...values]);
    // numpy.array([1, -0.1, 300.25, 0, 1e-7], numpy.float16)
    expect(read(body, 'half')).toEqual([1, -0.0999755859375, 300.25, 0, 1.1920928955078125e-7]);
    // torch.tensor([1, -0.1, 300.25, 0, 1e-7], dtype=torch.bfloat16)
    expect(read(body, 'brain')).toEqual([1, -0.10009765625, 300, 0, 1.0011717677116394e-7]);
    for (const [i, value] of read(body, 'odd').entries()) expect(value).toBeCloseTo(i + 1, 1);
  });

  it('I8 is within half a step of a 127th of the largest', () => {
    fc.assert(
      fc.property(
        fc.array(fc.float({ noNaN: true, noDefaultInfinity: true, min: Math.fround(-1e30), max: Math.fround(1e30) }), { minLength: 1, maxLength: 30 }), // prettier-ignore
        (numbers) => {
          const body = encode([
            { name: 'a', shape: [numbers.length], values: Float32Array.from(numbers), dtype: 'I8' },
          ]);
          const largest = Math.max(...numbers.map(Math.abs));
          for (const [i, value] of read(body, 'a').entries()) {
            expect(Math.abs(value - numbers[i]!)).toBeLessThanOrEqual((0.5 * 1.0001 * largest) / 127 + 2 ** -148);
          }
        },
      ),
      SEED,
    );
  });

  it('I8 has no place for NaN and infinity', () => {
    for (const value of [Number.NaN, Number.POSITIVE_INFINITY]) {
      expect(() => encode([{ name: 'a', shape: [1], values: Float32Array.of(value), dtype: 'I8' }])).toThrow(
        /a: \w+ has no int8/,
      );
    }
  });

  it.each([
    { title: 'without a scale', scale: undefined, mentions: 'missing' },
    { title: 'with an empty scale', scale: '', mentions: '""' },
    { title: 'with a scale in words', scale: 'one', mentions: '"one"' },
    { title: 'with a scale of 0', scale: '0', mentions: '"0"' },
    { title: 'with a negative scale', scale: '-1', mentions: '"-1"' },
    { title: 'with an infinite scale', scale: '1e999', mentions: '"1e999"' },
  ])('I8 $title is refused', ({ scale, mentions }) => {
    const metadata = scale === undefined ? {} : { __metadata__: { 'a.scale': scale } };
    const body = bodyOf({ a: { dtype: 'I8', shape: [2], data_offsets: [0, 2] }, ...metadata }, 2);
    const header = readHeader(body);
    const problem = problemOf(() => readValues(body, header, header.entries[0]!));
    expect(problem).toMatchObject({ code: 'invalid_header', details: { param: 'a' } });
    expect(problem.details.detail).toContain(mentions);
  });
});
