/** The check of a body's header against the tensors that it is to carry. */
import { ProblemError } from './errors.ts';
import { LIMITS } from './limits.ts';
import { formatShape, readScale, type Dtype, type SafetensorsHeader, type TensorEntry } from './safetensors.ts';
import { triangleSize } from './triangle.ts';

/** A packed triangle of R×R, R = B·columns: R(R+1)/2 numbers. */
export interface BatchTriangle {
  readonly columns: number;
}

/** 'B' stands for the batch, 'S' for the layer's own number of positions. */
export type Axis = 'B' | 'S' | number | BatchTriangle;

/** A tensor that a body carries. */
export interface ExpectedTensor<Size extends Axis = Axis> {
  readonly name: string;
  /** The layer it belongs to, if to one. */
  readonly layer: string | null;
  readonly shape: readonly Size[];
  readonly dtypes: readonly Dtype[];
  readonly presence: 'required' | 'optional';
}

/** What a header says of sizes that are not known before. */
export interface BodySizes {
  /** B. */
  readonly batch: number;
  /** S of the layers with an axis of positions, by name. */
  readonly positions: ReadonlyMap<string, number>;
}

/**
 * Checks that a header has the expected tensors, in their shapes, and no others.
 *
 * @param expected the first one, with B as its first axis, says how many samples there are
 * @param context what the tensors belong to, in words: "this session, whose layers are fc1, fc2"
 * @param takesInt8 whether floating-point tensors may be I8 with a scale
 * @param most samples that are taken
 * @throws ProblemError `unknown_tensor`, `missing_tensor`, `dtype_unsupported` or `shape_mismatch`, naming the tensor; `invalid_header`
 *   for an I8 without a scale
 */
export function checkTensors(
  header: SafetensorsHeader,
  expected: readonly [ExpectedTensor, ...ExpectedTensor[]],
  context: string,
  takesInt8: boolean,
  most: number = LIMITS.batch,
): BodySizes {
  const known = new Set(expected.map(({ name }) => name));
  const named = (presence: ExpectedTensor['presence']): string => {
    const names = expected.filter((tensor) => tensor.presence === presence).map(({ name }) => name);
    return `${names.slice(0, 4).join(', ')}${names.length > 4 ? ', …' : ''}`;
  };
  const optional = named('optional');
  const found = new Map<string, TensorEntry>();
  for (const entry of header.entries) {
    if (!known.has(entry.name)) {
      throw new ProblemError('unknown_tensor', {
        param: entry.name,
        detail: `${JSON.stringify(entry.name)} is no tensor of ${context}.`,
        remedy: `Send ${named('required')}, and nothing else${optional === '' ? '' : `; ${optional} may be added`}.`,
      });
    }
    found.set(entry.name, entry);
  }
  const [counted] = expected;
  const batch = batchOf(counted, found.get(counted.name), most);
  const positions = new Map<string, number>();
  for (const tensor of expected) {
    const entry = found.get(tensor.name);
    if (entry !== undefined) {
      checkDtype(tensor, entry, takesInt8);
      if (entry.dtype === 'I8') readScale(header, entry.name);
      checkShape(tensor, entry, batch, positions, counted.name);
    } else if (tensor.presence === 'required') throw missingTensor(tensor, batch);
  }
  return { batch, positions };
}

function checkDtype({ name, dtypes }: ExpectedTensor, { dtype }: TensorEntry, takesInt8: boolean): void {
  if (dtypes.includes(dtype) || (dtype === 'I8' && takesInt8)) return;
  throw new ProblemError('dtype_unsupported', {
    param: name,
    detail: `${name} has dtype ${dtype}; ${alternatives(takesInt8 ? [...dtypes, 'I8'] : dtypes)} was expected.`,
    remedy:
      dtype === 'I8'
        ? 'Convert the tensor to F32, or create a session with transport.int8, where there is one.'
        : 'Convert the tensor to F32.',
  });
}

function checkShape(
  { name, layer, shape }: ExpectedTensor,
  entry: TensorEntry,
  batch: number,
  positions: Map<string, number>,
  counted: string,
): void {
  // The first tensor of a layer with an axis of positions says how many there are.
  const axis = shape.indexOf('S');
  const count = entry.shape[axis];
  if (layer !== null && axis >= 0 && count !== undefined && count > 0 && !positions.has(layer)) {
    positions.set(layer, count);
  }
  const wanted = shape.map((size) => (size === 'S' ? positions.get(layer ?? '') : axisSize(size, batch)));
  if (entry.shape.length === wanted.length && entry.shape.every((size, index) => size === wanted[index])) return;
  const isPerBatch = shape.some((size) => size === 'B' || typeof size === 'object');
  throw new ProblemError('shape_mismatch', {
    param: name,
    detail: `${name} has shape ${formatShape(entry.shape)}; ${formatAxes(shape)}${isPerBatch ? ` with B = ${String(batch)}` : ''} was expected.`,
    remedy: mismatchRemedy(shape, counted),
  });
}

function mismatchRemedy(shape: readonly Axis[], counted: string): string {
  if (shape.some((size) => typeof size === 'object')) {
    return `Send the upper triangle row by row, N[numpy.triu_indices(len(N))], for the batch of "${counted}".`;
  }
  return shape.includes('B')
    ? `Send every tensor with the batch of "${counted}" first and the sizes the session was created with.`
    : 'Send the tensor in its own shape, with the sizes the session was created with.';
}

/** A size once B is known; S stays as it is. */
function axisSize(axis: Axis, batch: number): number | 'S' {
  if (axis === 'B') return batch;
  return typeof axis === 'object' ? triangleSize(axis.columns * batch) : axis;
}

/** A shape as texts show it: [B, 64], or [B(B+1)/2]. */
function formatAxes(shape: readonly Axis[]): string {
  return formatShape(
    shape.map((axis) => {
      if (typeof axis !== 'object') return axis;
      const rows = axis.columns === 1 ? 'B' : `${String(axis.columns)}B`;
      return `${rows}(${rows}+1)/2`;
    }),
  );
}

export function missingTensor({ name, shape }: ExpectedTensor, batch: number): ProblemError {
  const wanted = shape.map((size) => axisSize(size, batch));
  return new ProblemError('missing_tensor', {
    param: name,
    detail: `${name} is missing.`,
    remedy: `Send ${name} with shape ${formatShape(wanted)}.`,
  });
}

function batchOf({ name, shape }: ExpectedTensor, entry: TensorEntry | undefined, most: number): number {
  if (entry === undefined) {
    throw new ProblemError('missing_tensor', {
      param: name,
      detail: `${name} is missing.`,
      remedy: `Send "${name}" with shape ${formatAxes(shape)}, B samples.`,
    });
  }
  const [batch] = entry.shape;
  const isBatch = batch !== undefined && batch >= 1 && batch <= most;
  if (entry.shape.length !== shape.length || !isBatch) {
    throw new ProblemError('shape_mismatch', {
      param: name,
      detail: `${name} has shape ${formatShape(entry.shape)}; ${formatAxes(shape)} with 1 ≤ B ≤ ${String(most)} was expected.`,
      remedy:
        entry.shape.length === shape.length
          ? `Send at least one sample and at most ${String(most)} at once.`
          : `Send ${name} with ${String(shape.length)} ${shape.length === 1 ? 'axis' : 'axes'}, the samples along the first.`,
    });
  }
  return batch;
}

function alternatives(dtypes: readonly Dtype[]): string {
  const last = dtypes.at(-1) ?? '';
  return dtypes.length < 2 ? last : `${dtypes.slice(0, -1).join(', ')} or ${last}`;
}
