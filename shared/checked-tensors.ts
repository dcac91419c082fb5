/** The values of a body's tensors, checked: nothing that is not a number in the engine's precision gets to the device. */
import { ProblemError, type ProblemCode } from './errors.ts';
import { packedDiagonal } from './triangle.ts';
import { readValues, type SafetensorsHeader, type TensorEntry, type TensorValues } from './safetensors.ts';

/** What a computation is done in. */
export type Precision = 'float32' | 'float64';

export interface CheckedTensor {
  readonly entry: TensorEntry;
  readonly values: TensorValues;
}

/**
 * Every tensor of a body by name.
 *
 * @param precision of the engine that will compute: what is finite in float64 need not be in float32
 * @throws ProblemError `non_finite_value`
 */
export function readFinite(
  body: Uint8Array,
  header: SafetensorsHeader,
  precision: Precision,
): Map<string, CheckedTensor> {
  return new Map(
    header.entries.map((entry) => {
      const values = readValues(body, header, entry);
      assertFinite(entry, values, precision);
      return [entry.name, { entry, values }];
    }),
  );
}

/** The tensor of this name, which the check of the header has seen. */
export function tensorNamed(tensors: ReadonlyMap<string, CheckedTensor>, name: string): CheckedTensor {
  const found = tensors.get(name);
  if (found === undefined) throw new TypeError(`${name} passed the header check but is missing`);
  return found;
}

function assertFinite(entry: TensorEntry, values: TensorValues, precision: Precision): void {
  const isFinite = precision === 'float32' ? isFiniteInFloat32 : Number.isFinite;
  const index = values.findIndex((value) => !isFinite(value));
  if (index < 0) return;
  const value = values[index] ?? Number.NaN;
  throw new ProblemError('non_finite_value', {
    param: entry.name,
    detail: `${entry.name}${formatIndex(index, entry.shape)} is ${String(value)}${Number.isFinite(value) ? ', which is infinite in float32' : ''}; a finite number was expected.`,
    remedy:
      'Look for a missing value, a division by zero or a diverged forward pass in what you send; the session is as it was before.',
  });
}

function isFiniteInFloat32(value: number): boolean {
  return Number.isFinite(Math.fround(value));
}

interface ValueRule {
  readonly code: ProblemCode;
  /** What every value must be: "a whole number from 0 to 9". */
  readonly rule: string;
  readonly remedy: string;
  /** The tensor at fault, where the values are some of its own. */
  readonly param?: string;
}

/** @throws ProblemError with the rule's code unless every value is valid */
export function assertEach(
  { entry, values }: CheckedTensor,
  isValid: (value: number, index: number) => boolean,
  { code, rule, remedy, param = entry.name }: ValueRule,
): void {
  const index = values.findIndex((value, position) => !isValid(value, position));
  if (index < 0) return;
  const detail = `${entry.name}${formatIndex(index, entry.shape)} is ${String(values[index])}; ${rule} was expected.`;
  throw new ProblemError(code, { param, detail, remedy });
}

/** @throws ProblemError `invalid_index` unless every value is a whole number from 0 to count − 1 */
export function assertIndices(tensor: CheckedTensor, count: number, remedy: string): void {
  const rule = `a whole number from 0 to ${String(count - 1)}`;
  const isIndex = (value: number): boolean => Number.isInteger(value) && value >= 0 && value < count;
  assertEach(tensor, isIndex, { code: 'invalid_index', rule, remedy });
}

/**
 * Refuses a packed matrix that cannot be a Gram matrix, by the entry at fault of its diagonal.
 *
 * @param n its order
 * @param param the tensor it is of
 */
export function assertGram({ entry, values }: CheckedTensor, n: number, param = entry.name): void {
  const name = `Diagonal of ${entry.name}: `;
  assertNoneNegative({ entry: { ...entry, name, shape: [n] }, values: packedDiagonal(values, n) }, param);
}

/** Refuses what cannot be the diagonal of a Gram matrix. */
export function assertNoneNegative(diagonal: CheckedTensor, param = diagonal.entry.name): void {
  assertEach(diagonal, (value) => value >= 0, {
    param,
    code: 'invalid_parameter',
    rule: 'a number of at least 0',
    remedy: 'Send Gram matrices, J P⁻¹ Jᵀ, aᵀa and gᵀg, not negated, and their upper triangles row by row.',
  });
}

export function mean(values: TensorValues): number {
  // Divided first, so that the mean of representable values is representable.
  let sum = 0;
  for (const value of values) sum += value / values.length;
  return sum;
}

/** A flat index as subscripts: [3, 17]. */
function formatIndex(index: number, shape: readonly number[]): string {
  const subscripts: number[] = [];
  let rest = index;
  for (const size of shape.toReversed()) {
    subscripts.unshift(rest % size);
    rest = Math.floor(rest / size);
  }
  return `[${subscripts.join(', ')}]`;
}
