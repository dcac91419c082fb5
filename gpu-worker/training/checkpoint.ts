/** A checkpoint's file: written with a digest over its contents, and read only if that holds. */
import { createHash } from 'node:crypto';
import {
  CHECKPOINT_FORMAT,
  CHECKPOINT_VERSION,
  checkpointManifestSchema,
  type CheckpointManifest,
} from '../../shared/checkpoint.ts';
import { ProblemError } from '../../shared/errors.ts';
import { LIMITS } from '../../shared/limits.ts';
import {
  dtypeOf,
  encode,
  inFileOrder,
  readHeader,
  type NamedTensor,
  type TensorEntry,
} from '../../shared/safetensors.ts';
import type { Engine } from '../tensor/engine.ts';
import { readFinite, type CheckedTensor } from '../../shared/checked-tensors.ts';

export interface CheckpointFile {
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** SHA-256 over the contents, in hexadecimal. */
  readonly digest: string;
}

export interface OpenedCheckpoint {
  readonly manifest: CheckpointManifest;
  readonly tensors: ReadonlyMap<string, CheckedTensor>;
  readonly digest: string;
}

export function writeCheckpoint(manifest: CheckpointManifest, tensors: readonly NamedTensor[]): CheckpointFile {
  const text = JSON.stringify(manifest);
  const ordered = inFileOrder(tensors);
  const lines = ordered.map(({ name, shape, values }) => ({ name, shape, dtype: dtypeOf(name, values) }));
  const digest = contentDigest(
    text,
    lines,
    ordered.map(({ values }) => new Uint8Array(values.buffer, values.byteOffset, values.byteLength)),
  );
  const metadata = { format: CHECKPOINT_FORMAT, version: CHECKPOINT_VERSION, manifest: text, digest };
  return { bytes: encode(ordered, metadata), digest };
}

/**
 * @param precision of the engine that will compute
 * @throws ProblemError `invalid_header`, `length_mismatch`, `invalid_checkpoint`, `dtype_unsupported`, `non_finite_value`
 */
export function readCheckpoint(bytes: Uint8Array, precision: Engine['precision']): OpenedCheckpoint {
  const header = readHeader(bytes, LIMITS.checkpointHeaderBytes);
  const { format, version, manifest: text, digest } = header.metadata;
  if (format !== CHECKPOINT_FORMAT || text === undefined || digest === undefined) {
    throw invalid('__metadata__.format', `The file is no checkpoint: its format is ${JSON.stringify(format ?? null)}.`);
  }
  if (version !== CHECKPOINT_VERSION) {
    const shown = JSON.stringify(version ?? null);
    throw invalid(
      '__metadata__.version',
      `The checkpoint has version ${shown}; this worker reads ${CHECKPOINT_VERSION}.`,
    );
  }
  const actual = contentDigest(text, header.entries, [bytes.subarray(header.dataStart)]);
  if (actual !== digest) {
    throw invalid(
      '__metadata__.digest',
      `The contents have the digest ${actual}, the file states ${digest}: it is damaged.`,
    );
  }
  const parsed = checkpointManifestSchema.safeParse(parseJson(text));
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    const at = issue === undefined ? '' : `${issue.path.join('.')}: ${issue.message}`;
    throw invalid('__metadata__.manifest', `The manifest is not of this version’s form: ${at}.`);
  }
  return { manifest: parsed.data, tensors: readFinite(bytes, header, precision), digest };
}

/** As shared/checkpoint.ts states it. */
function contentDigest(
  manifest: string,
  tensors: readonly Pick<TensorEntry, 'name' | 'dtype' | 'shape'>[],
  data: readonly Uint8Array[],
): string {
  const hash = createHash('sha256').update(manifest);
  for (const { name, dtype, shape } of tensors) hash.update(`${name}\t${dtype}\t${shape.join()}\n`);
  for (const bytes of data) hash.update(bytes);
  return hash.digest('hex');
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function invalid(param: string, detail: string): ProblemError {
  return new ProblemError('invalid_checkpoint', { param, detail, remedy: 'Import the file as it was downloaded.' });
}
