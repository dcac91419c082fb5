/**
 * IDX, the file format of MNIST: two zero bytes, the type of the elements, the number of axes, the length of each axis (big-endian,
 * four bytes), and the elements, the last axis fastest. Only unsigned bytes are read.
 */
import { elementCount } from '../../../shared/shape.ts';
import { gunzipSync } from 'node:zlib';

const UNSIGNED_BYTE = 0x08;
const GZIP = [0x1f, 0x8b] as const;

export interface IdxArray {
  readonly shape: readonly number[];
  readonly values: Uint8Array;
}

/**
 * @param file the bytes of the file, which may be compressed with gzip
 * @param name of the file, for the message of an error
 * @throws Error if the file is not what its header says
 */
export function parseIdx(file: Uint8Array, name: string): IdxArray {
  const bytes = GZIP.every((byte, index) => file[index] === byte) ? gunzipSync(file) : file;
  const axes = bytes[3] ?? 0;
  const header = 4 + 4 * axes;
  if (bytes.length < header || bytes[0] !== 0 || bytes[1] !== 0 || bytes[2] !== UNSIGNED_BYTE || axes === 0) {
    throw new Error(`${name} is no IDX file of unsigned bytes`);
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const shape = Array.from({ length: axes }, (_, axis) => view.getUint32(4 + 4 * axis));
  const size = elementCount(shape);
  if (bytes.length !== header + size) {
    throw new Error(
      `${name} has ${String(bytes.length - header)} elements, not the ${String(size)} of its shape [${shape.join(', ')}]`,
    );
  }
  return { shape, values: bytes.subarray(header) };
}
