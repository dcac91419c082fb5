/**
 * The safetensors format: 8 bytes little-endian header length N, N bytes of JSON, then the tensors' bytes without gap or overlap.
 * https://github.com/huggingface/safetensors#format
 *
 * The reader checks a header against the announced length of the whole body, without the body: the edge needs no more than
 * the first bytes of a stream to accept or refuse it.
 */
import { elementCount } from './shape.ts';
import { fromBfloat16, fromFloat16, toBfloat16, toFloat16 } from './half-precision.ts';
import { LIMITS } from './limits.ts';
import { ProblemError, type ProblemCode } from './errors.ts';

export const SAFETENSORS_CONTENT_TYPE = 'application/vnd.safetensors';

/** Bytes before the JSON header. */
export const LENGTH_PREFIX_BYTES = 8;

const ELEMENT_BYTES = {
  F64: 8,
  F32: 4,
  F16: 2,
  BF16: 2,
  I64: 8,
  I32: 4,
  I16: 2,
  I8: 1,
  U8: 1,
  BOOL: 1,
} as const;

export type Dtype = keyof typeof ELEMENT_BYTES;

/** Element types of numbers. */
export const FLOATING_DTYPES: readonly Dtype[] = ['F32', 'F64', 'F16', 'BF16'];
/** Element types of whole numbers, which floating-point ones can hold as well. */
export const INDEX_DTYPES: readonly Dtype[] = [...FLOATING_DTYPES, 'I64', 'I32', 'U8'];

/** One tensor of a body: its bytes lie at [begin, end) of the data section. */
export interface TensorEntry {
  readonly name: string;
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  readonly begin: number;
  readonly end: number;
}

export interface SafetensorsHeader {
  /** In the order of their bytes. */
  readonly entries: readonly TensorEntry[];
  readonly metadata: Readonly<Record<string, string>>;
  /** Offset of the data section in the body. */
  readonly dataStart: number;
}

/** Floating-point numbers of the wire, row-major. */
export type TensorValues = Float32Array | Float64Array;

/** Element types that numbers are rounded to when they are written; I8 with a scale of the tensor's own. */
export type NarrowDtype = 'F16' | 'BF16' | 'I8';

export interface NamedTensor {
  readonly name: string;
  readonly shape: readonly number[];
  readonly values: TensorValues;
  /** Element type on the wire; F32 or F64, as the values are, unless given. */
  readonly dtype?: NarrowDtype;
}

/** Key of an I8 tensor's scale in `__metadata__`: value = scale · integer. */
function scaleKey(name: string): string {
  return `${name}.scale`;
}

function reject(code: ProblemCode, detail: string, remedy: string, param?: string): never {
  throw new ProblemError(code, { detail, remedy, ...(param === undefined ? {} : { param }) });
}

/** A value of a header as a text shows it. */
function show(value: unknown): string {
  try {
    return JSON.stringify(value);
  } catch {
    return 'nested too deep to show';
  }
}

const WRITE_AGAIN = 'Write the body with a safetensors library; see /docs for the tensors of a step.';

/**
 * Length in bytes of the JSON header, from the first 8 bytes of a body.
 *
 * @throws ProblemError `length_mismatch` if the body is too short for its header; `invalid_header` if the header is empty or
 *   longer than the limit
 */
export function readHeaderLength(prefix: Uint8Array, bodyLength: number, maximum: number = LIMITS.headerBytes): number {
  if (bodyLength < LENGTH_PREFIX_BYTES || prefix.length < LENGTH_PREFIX_BYTES) {
    reject(
      'length_mismatch',
      `The body has ${String(bodyLength)} bytes; a safetensors body has at least ${String(LENGTH_PREFIX_BYTES)}.`,
      WRITE_AGAIN,
    );
  }
  const view = new DataView(prefix.buffer, prefix.byteOffset, LENGTH_PREFIX_BYTES);
  const length = view.getBigUint64(0, true);
  if (length < 2n || length > BigInt(maximum)) {
    reject(
      'invalid_header',
      `The first 8 bytes announce a header of ${String(length)} bytes; the range is 2 to ${String(maximum)}.`,
      WRITE_AGAIN,
    );
  }
  if (BigInt(bodyLength) < BigInt(LENGTH_PREFIX_BYTES) + length) {
    reject(
      'length_mismatch',
      `The body has ${String(bodyLength)} bytes, its header alone has ${String(length)}.`,
      'Send the whole body and its true Content-Length.',
    );
  }
  return Number(length);
}

/**
 * Parses and checks a header against the announced length of the whole body.
 *
 * @param json the header's bytes, without the length prefix
 * @param bodyLength bytes of the whole body: prefix, header and data
 * @throws ProblemError `invalid_header` names the entry at fault; `length_mismatch` if the data section has another length than
 *   the header announces
 */
export function parseHeader(json: Uint8Array, bodyLength: number): SafetensorsHeader {
  const document = parseObject(json);
  const entries: TensorEntry[] = [];
  let metadata: Record<string, string> = {};
  for (const [name, value] of Object.entries(document)) {
    if (name === '__metadata__') metadata = parseMetadata(value);
    else entries.push(parseEntry(name, value));
  }
  entries.sort((a, b) => a.begin - b.begin || a.end - b.end);
  let offset = 0;
  for (const { name, begin, end } of entries) {
    if (begin !== offset) {
      const fault = begin > offset ? 'a gap' : 'an overlap';
      reject(
        'invalid_header',
        `${name}: data_offsets [${String(begin)}, ${String(end)}] leave ${fault}; the tensor before it ends at ${String(offset)}.`,
        'Lay the tensors out one after the other, the first at 0.',
        name,
      );
    }
    offset = end;
  }
  const dataStart = LENGTH_PREFIX_BYTES + json.length;
  if (dataStart + offset !== bodyLength) {
    reject(
      'length_mismatch',
      `The header announces ${String(offset)} bytes of tensors; the body has ${String(bodyLength - dataStart)} after the header.`,
      'Send every tensor whole, nothing behind the last one, and the true Content-Length.',
    );
  }
  return { entries, metadata, dataStart };
}

function parseObject(json: Uint8Array): Record<string, unknown> {
  let text: string;
  let document: unknown;
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(json);
    document = JSON.parse(text);
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : 'unreadable';
    reject('invalid_header', `The header is not a JSON object: ${reason}.`, WRITE_AGAIN);
  }
  if (!isRecord(document)) reject('invalid_header', 'The header is not a JSON object.', WRITE_AGAIN);
  rejectRepeatedNames(text);
  return document;
}

/** JSON.parse keeps the last of several members with one name; the format allows one. */
function rejectRepeatedNames(text: string): void {
  const names = new Set<string>();
  let depth = 0;
  for (const [token, name] of text.matchAll(/("(?:[^"\\]|\\.)*")\s*:|"(?:[^"\\]|\\.)*"|[{}[\]]/g)) {
    if (token === '{' || token === '[') depth++;
    else if (token === '}' || token === ']') depth--;
    else if (name !== undefined && depth === 1) {
      const key = JSON.parse(name) as string;
      if (names.has(key)) reject('invalid_header', `${key} is in the header twice.`, WRITE_AGAIN, key);
      names.add(key);
    }
  }
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function parseMetadata(value: unknown): Record<string, string> {
  const metadata: Record<string, string> = {};
  if (!isRecord(value))
    reject('invalid_header', '__metadata__ is not an object of strings.', WRITE_AGAIN, '__metadata__');
  for (const [key, text] of Object.entries(value)) {
    if (typeof text !== 'string') {
      reject('invalid_header', `__metadata__.${key} is not a string.`, WRITE_AGAIN, '__metadata__');
    }
    metadata[key] = text;
  }
  return metadata;
}

function isSize(value: unknown): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0;
}

function isDtype(value: unknown): value is Dtype {
  return typeof value === 'string' && Object.hasOwn(ELEMENT_BYTES, value);
}

function parseEntry(name: string, value: unknown): TensorEntry {
  if (!isRecord(value)) reject('invalid_header', `${name}: the entry is not an object.`, WRITE_AGAIN, name);
  const { dtype, shape, data_offsets: offsets } = value as { dtype?: unknown; shape?: unknown; data_offsets?: unknown };
  if (!isDtype(dtype)) {
    const known = Object.keys(ELEMENT_BYTES).join(', ');
    reject('invalid_header', `${name}: dtype ${show(dtype)} is not one of ${known}.`, WRITE_AGAIN, name);
  }
  if (!Array.isArray(shape) || !shape.every(isSize)) {
    reject('invalid_header', `${name}: shape ${show(shape)} is not a list of sizes.`, WRITE_AGAIN, name);
  }
  const [begin, end, ...more] = Array.isArray(offsets) ? (offsets as unknown[]) : [];
  if (!isSize(begin) || !isSize(end) || begin > end || more.length > 0) {
    reject(
      'invalid_header',
      `${name}: data_offsets ${show(offsets)} are not [begin, end] with 0 ≤ begin ≤ end.`,
      WRITE_AGAIN,
      name,
    );
  }
  const bytes = elementCount(shape) * ELEMENT_BYTES[dtype];
  if (bytes !== end - begin) {
    reject(
      'invalid_header',
      `${name}: ${dtype} ${formatShape(shape)} takes ${String(bytes)} bytes; data_offsets give it ${String(end - begin)}.`,
      'Make data_offsets match dtype and shape.',
      name,
    );
  }
  return { name, dtype, shape, begin, end };
}

/** A shape as texts show it: [128, 64]. */
export function formatShape(shape: readonly (number | string)[]): string {
  return `[${shape.join(', ')}]`;
}

/**
 * Parses and checks a whole body. See {@link readHeaderLength} and {@link parseHeader} for the errors.
 *
 * @param maximum bytes of the JSON header
 */
export function readHeader(body: Uint8Array, maximum: number = LIMITS.headerBytes): SafetensorsHeader {
  const length = readHeaderLength(body, body.length, maximum);
  return parseHeader(body.subarray(LENGTH_PREFIX_BYTES, LENGTH_PREFIX_BYTES + length), body.length);
}

/**
 * The values of a tensor: F32 and F64 as they are, F16, BF16 and scaled I8 as F32, whole numbers (I64, I32, U8) as F64. Beyond 2^53 an
 * I64 is rounded.
 *
 * @param body the whole body that `header` was read from
 * @returns a view of the body where alignment allows it, else a copy
 * @throws ProblemError `dtype_unsupported`, `invalid_header` for an I8 without a scale
 */
export function readValues(body: Uint8Array, header: SafetensorsHeader, entry: TensorEntry): TensorValues {
  const start = body.byteOffset + header.dataStart + entry.begin;
  const length = entry.end - entry.begin;
  const aligned = (alignment: number): { buffer: ArrayBufferLike; start: number } =>
    start % alignment === 0
      ? { buffer: body.buffer, start }
      : // Not body.slice: a Buffer's own is a view, not a copy.
        {
          buffer: Uint8Array.prototype.slice.call(body, header.dataStart + entry.begin, header.dataStart + entry.end)
            .buffer,
          start: 0,
        };
  switch (entry.dtype) {
    case 'F32': {
      const source = aligned(4);
      return new Float32Array(source.buffer, source.start, length / 4);
    }
    case 'F64': {
      const source = aligned(8);
      return new Float64Array(source.buffer, source.start, length / 8);
    }
    case 'F16': {
      const source = aligned(2);
      return fromFloat16(new Uint16Array(source.buffer, source.start, length / 2));
    }
    case 'BF16': {
      const source = aligned(2);
      return fromBfloat16(new Uint16Array(source.buffer, source.start, length / 2));
    }
    case 'I8': {
      const scale = readScale(header, entry.name);
      return Float32Array.from(new Int8Array(body.buffer, start, length), (value) => scale * value);
    }
    case 'I64': {
      const source = aligned(8);
      return Float64Array.from(new BigInt64Array(source.buffer, source.start, length / 8), Number);
    }
    case 'I32': {
      const source = aligned(4);
      return Float64Array.from(new Int32Array(source.buffer, source.start, length / 4));
    }
    case 'U8':
      return Float64Array.from(new Uint8Array(body.buffer, start, length));
    default:
      return reject(
        'dtype_unsupported',
        `${entry.name} has dtype ${entry.dtype}; F32, F64, F16, BF16, I8, I64, I32 or U8 was expected.`,
        'Convert the tensor to F32.',
        entry.name,
      );
  }
}

/** As {@link encode} writes tensors that ask for no type of their own: wide elements first, so that each is aligned to its element. */
export function inFileOrder(tensors: readonly NamedTensor[]): NamedTensor[] {
  return tensors.toSorted((a, b) => b.values.BYTES_PER_ELEMENT - a.values.BYTES_PER_ELEMENT);
}

/**
 * The element type of values on the wire. What plain JavaScript passes of another kind would be taken for the bytes of floats.
 *
 * @param name for messages
 * @throws TypeError unless they are a Float32Array or a Float64Array, of whatever realm
 */
export function dtypeOf(name: string, values: TensorValues): 'F32' | 'F64' {
  const kind = Object.prototype.toString.call(values).slice('[object '.length, -1);
  if (kind === 'Float32Array') return 'F32';
  if (kind === 'Float64Array') return 'F64';
  throw new TypeError(
    `${name} is of kind ${kind}; a Float32Array or a Float64Array was expected: Float32Array.from(…) makes one`,
  );
}

/** The scale of an I8 tensor. @throws ProblemError `invalid_header` */
export function readScale({ metadata }: SafetensorsHeader, name: string): number {
  const text = metadata[scaleKey(name)];
  const scale = text === undefined || text.trim() === '' ? Number.NaN : Number(text);
  if (scale > 0 && Number.isFinite(scale)) return scale;
  return reject(
    'invalid_header',
    `${name} has dtype I8, and its scale in __metadata__, ${JSON.stringify(scaleKey(name))}, is ${text === undefined ? 'missing' : show(text)}; a positive number was expected.`,
    'Send the scale as text: value = scale · integer, for example the largest absolute value divided by 127.',
    name,
  );
}

/** One tensor's bytes in the order and type of the wire. */
interface WireTensor {
  readonly name: string;
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  readonly data: Float32Array | Float64Array | Uint16Array | Int8Array;
  /** Of an I8. */
  readonly scale: number | null;
}

function onTheWire({ name, shape, values, dtype }: NamedTensor): WireTensor {
  const own = dtypeOf(name, values);
  if (dtype === undefined) return { name, shape, dtype: own, data: values, scale: null };
  switch (dtype) {
    case 'F16':
      return { name, shape, dtype, data: toFloat16(values), scale: null };
    case 'BF16':
      return { name, shape, dtype, data: toBfloat16(values), scale: null };
    case 'I8':
      return { name, shape, dtype, ...quantise(name, values) };
  }
}

/** Whole numbers from −127 to 127 times a scale, ties to even. @throws RangeError for values that are not finite */
function quantise(name: string, values: TensorValues): { readonly data: Int8Array; readonly scale: number } {
  let largest = 0;
  for (const value of values) {
    if (!Number.isFinite(value)) throw new RangeError(`${name}: ${String(value)} has no int8`);
    largest = Math.max(largest, Math.abs(value));
  }
  // A scale that is a float32 is read as the same number everywhere; what is smaller than all of them is 0.
  const scale = Math.max(Math.fround(largest / 127), 2 ** -149);
  const data = Int8Array.from(values, (value) => Math.max(-127, Math.min(127, roundToEven(value / scale))));
  return { data, scale };
}

function roundToEven(value: number): number {
  const floor = Math.floor(value);
  const rest = value - floor;
  return rest < 0.5 || (rest === 0.5 && floor % 2 === 0) ? floor : floor + 1;
}

/**
 * Writes a body. Float32Array becomes F32, Float64Array F64, unless a tensor asks for a narrower type; the data section starts at a
 * multiple of 8 bytes.
 *
 * @throws TypeError for values of another kind; RangeError for a shape that does not hold them, a name used twice, or values that have
 *   no I8
 */
export function encode(
  tensors: readonly NamedTensor[],
  metadata: Readonly<Record<string, string>> = {},
): Uint8Array<ArrayBuffer> {
  // Wide elements first, so that every tensor is aligned to its element.
  const ordered = tensors.map(onTheWire).toSorted((a, b) => b.data.BYTES_PER_ELEMENT - a.data.BYTES_PER_ELEMENT);
  const scales = ordered.flatMap(({ name, scale }) => (scale === null ? [] : [[scaleKey(name), String(scale)]]));
  const texts = { ...metadata, ...(Object.fromEntries(scales) as Record<string, string>) };
  for (const { name, shape, data } of ordered) {
    if (elementCount(shape) !== data.length) {
      throw new RangeError(`${name}: shape ${formatShape(shape)} does not hold ${String(data.length)} values`);
    }
  }
  const plan = layOut(ordered, texts);
  const body = emptyBody(plan);
  let position = plan.header.dataStart;
  for (const { data } of ordered) {
    body.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), position);
    position += data.byteLength;
  }
  return body;
}

/** Where everything of a body lies. */
export interface BodyPlan {
  readonly header: SafetensorsHeader;
  /** The JSON header without its padding. */
  readonly text: Uint8Array;
  /** Bytes of the whole body. */
  readonly length: number;
}

/** Lays tensors out one after the other, in the order given, from a multiple of 8 bytes on. @throws RangeError for a name used twice */
export function layOut(
  tensors: readonly Pick<TensorEntry, 'name' | 'dtype' | 'shape'>[],
  metadata: Readonly<Record<string, string>> = {},
): BodyPlan {
  const document: Record<string, unknown> = {};
  if (Object.keys(metadata).length > 0) document['__metadata__'] = metadata;
  let offset = 0;
  const entries = tensors.map(({ name, dtype, shape }): TensorEntry => {
    if (name === '__metadata__' || name === '__proto__' || Object.hasOwn(document, name)) {
      throw new RangeError(`${name}: the name is taken`);
    }
    const begin = offset;
    offset += elementCount(shape) * ELEMENT_BYTES[dtype];
    document[name] = { dtype, shape, data_offsets: [begin, offset] };
    return { name, dtype, shape, begin, end: offset };
  });
  const text = new TextEncoder().encode(JSON.stringify(document));
  const dataStart = LENGTH_PREFIX_BYTES + Math.ceil(text.length / 8) * 8;
  return { header: { entries, metadata, dataStart }, text, length: dataStart + offset };
}

/** A body with its header, and zeros for the tensors. */
export function emptyBody({ header: { dataStart }, text, length }: BodyPlan): Uint8Array<ArrayBuffer> {
  const body = new Uint8Array(length);
  new DataView(body.buffer).setBigUint64(0, BigInt(dataStart - LENGTH_PREFIX_BYTES), true);
  body.set(text, LENGTH_PREFIX_BYTES);
  body.fill(0x20, LENGTH_PREFIX_BYTES + text.length, dataStart);
  return body;
}

/** The type of a tensor that takes in values of several: their own if it is the same, or what they are read as. */
export function commonDtype(dtypes: readonly Dtype[]): Dtype {
  const [first = 'F32'] = dtypes;
  if (first !== 'I8' && dtypes.every((dtype) => dtype === first)) return first;
  const isNarrow = dtypes.every((dtype) => dtype === 'F32' || dtype === 'F16' || dtype === 'BF16' || dtype === 'I8');
  return isNarrow ? 'F32' : 'F64';
}

/** Bytes of one element. */
export function elementBytes(dtype: Dtype): number {
  return ELEMENT_BYTES[dtype];
}
