/**
 * MATLAB's Level 5 MAT-files, as far as SVHN's need it: little-endian, numeric arrays without an imaginary part, compressed or not.
 * After a header of 128 bytes the file is a row of data elements: type, length in bytes, data, padded to 8 bytes. An element of at
 * most 4 bytes has both numbers in its first 4 bytes and its data in the next 4. A compressed element holds another, deflated.
 *
 * Source: "MAT-File Format", The MathWorks.
 */
import { inflateSync } from 'node:zlib';

/** Column-major: the first axis is the fastest. */
export interface MatArray {
  readonly shape: readonly number[];
  readonly values: Uint8Array | Float64Array;
}

const HEADER = 128;
const TYPE = { int8: 1, uint8: 2, int32: 5, uint32: 6, double: 9, matrix: 14, compressed: 15 } as const;

interface Element {
  readonly type: number;
  readonly data: Uint8Array;
}

/** The file's numeric arrays by name. @throws Error if it is no such file, or holds other things */
export function parseMat(file: Uint8Array, name: string): ReadonlyMap<string, MatArray> {
  const mark = String.fromCharCode(...file.subarray(HEADER - 2, HEADER));
  if (file.length <= HEADER || mark !== 'IM') throw new Error(`${name} is no little-endian Level 5 MAT-file`);
  const arrays = elementsOf(file.subarray(HEADER), name).map((element): [string, MatArray] => {
    if (element.type !== TYPE.compressed) return arrayOf(element, name);
    const [inner] = elementsOf(inflateSync(element.data), name);
    if (inner === undefined) throw new Error(`${name} has an empty compressed element`);
    return arrayOf(inner, name);
  });
  return new Map(arrays);
}

function elementsOf(bytes: Uint8Array, name: string): Element[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const elements: Element[] = [];
  let offset = 0;
  while (offset + 8 <= bytes.length) {
    const first = view.getUint32(offset, true);
    const isSmall = first >>> 16 !== 0;
    const type = isSmall ? first & 0xffff : first;
    const length = isSmall ? first >>> 16 : view.getUint32(offset + 4, true);
    const begin = offset + (isSmall ? 4 : 8);
    if (begin + length > bytes.length) throw new Error(`${name} ends in the middle of an array`);
    elements.push({ type, data: bytes.subarray(begin, begin + length) });
    // Compressed elements are not padded.
    const padded = type === TYPE.compressed ? length : Math.ceil(length / 8) * 8;
    offset = isSmall ? offset + 8 : begin + padded;
  }
  return elements;
}

function arrayOf({ type, data }: Element, name: string): [string, MatArray] {
  if (type !== TYPE.matrix) throw new Error(`${name} has an element of type ${String(type)}, which is no array`);
  const [, dimensions, label, real] = elementsOf(data, name);
  if (dimensions?.type !== TYPE.int32 || label?.type !== TYPE.int8 || real === undefined) {
    throw new Error(`${name} has an array that is not numeric`);
  }
  const shapeView = new DataView(dimensions.data.buffer, dimensions.data.byteOffset, dimensions.data.byteLength);
  const shape = Array.from({ length: dimensions.data.length / 4 }, (_, axis) => shapeView.getInt32(4 * axis, true));
  return [String.fromCharCode(...label.data), { shape, values: numbersOf(real, name) }];
}

function numbersOf({ type, data }: Element, name: string): Uint8Array | Float64Array {
  if (type === TYPE.uint8) return data;
  // A copy, because the file's numbers need not be aligned.
  if (type === TYPE.double) return new Float64Array(Uint8Array.from(data).buffer);
  throw new Error(`${name} has an array of type ${String(type)}; unsigned bytes and doubles are read`);
}
