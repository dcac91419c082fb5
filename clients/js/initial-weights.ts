/**
 * Weights of the caller's own in a hosted session. The service takes weights as part of a checkpoint: one of a new session is
 * fetched, its weights are exchanged, and it is sealed anew by its digest, as shared/checkpoint.ts states it.
 */
import { LIMITS } from '../../shared/limits.ts';
import { encode, formatShape, readHeader, readValues, type TensorValues } from '../../shared/safetensors.ts';
import type { DownloadedTensor } from './hosted-session.ts';

/** Weights by name, `layers.<layer>.<parameter>`, as `HostedTrainingSession.weights` gives them; those left out keep their values. */
export type InitialWeights = ReadonlyMap<string, DownloadedTensor>;

/**
 * A checkpoint's file with other weights.
 *
 * @throws RangeError for a name or a shape that the model does not have; Error where there is no Web Crypto
 */
export async function withWeights(file: Uint8Array, weights: InitialWeights): Promise<Uint8Array<ArrayBuffer>> {
  const header = readHeader(file, LIMITS.checkpointHeaderBytes);
  const unused = new Set(weights.keys());
  const tensors = header.entries.map((entry) => {
    const { name, shape } = entry;
    const values = readValues(file, header, entry);
    // Copies that some optimizers hold of the weights begin as the weights do.
    const weight = name.replace(/^(slow|previous)\./, '');
    const given = weights.get(weight);
    if (given === undefined) return { name, shape, values };
    unused.delete(weight);
    if (given.shape.join() !== shape.join()) {
      throw new RangeError(`${weight} has shape ${formatShape(given.shape)}; the model’s is ${formatShape(shape)}`);
    }
    return { name, shape, values: as(values, given.values) };
  });
  const [stranger] = unused;
  if (stranger !== undefined) throw new RangeError(`the model has no ${stranger}`);
  const { manifest = '', ...rest } = header.metadata;
  const lines = tensors.map(
    ({ name, shape, values }) => `${name}\t${values instanceof Float64Array ? 'F64' : 'F32'}\t${shape.join()}\n`,
  );
  const unsealed = encode(tensors, { ...rest, manifest });
  const data = unsealed.subarray(readHeader(unsealed, LIMITS.checkpointHeaderBytes).dataStart);
  const digest = await sha256([new TextEncoder().encode(manifest + lines.join('')), data]);
  return encode(tensors, { ...rest, manifest, digest });
}

/** The values in the element type of others. */
function as(type: TensorValues, values: TensorValues): TensorValues {
  if (values.constructor === type.constructor) return values;
  return type instanceof Float64Array ? Float64Array.from(values) : Float32Array.from(values);
}

async function sha256(parts: readonly Uint8Array[]): Promise<string> {
  const { subtle } = crypto as Partial<Pick<typeof crypto, 'subtle'>>;
  if (subtle === undefined) {
    throw new Error('initial weights need Web Crypto, which pages have over HTTPS or from the machine itself');
  }
  const whole = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0));
  let offset = 0;
  for (const part of parts) {
    whole.set(part, offset);
    offset += part.length;
  }
  return Array.from(new Uint8Array(await subtle.digest('SHA-256', whole)), (byte) =>
    byte.toString(16).padStart(2, '0'),
  ).join('');
}
