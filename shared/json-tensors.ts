/**
 * Tensors as JSON, for curl and small bodies: {"losses": [0.5, 0.2], "layers.fc1.input": [[…], […]], "metric_versions": [1]}. Numbers
 * become F64; what a service would otherwise answer as safetensors has the same form, with `__metadata__` parsed.
 */
import { ProblemError } from './errors.ts';
import { elementCount } from './shape.ts';
import { readHeader, readValues, type NamedTensor, type TensorValues } from './safetensors.ts';

export const JSON_CONTENT_TYPE = 'application/json';

const REMEDY =
  'Send an object of tensors by name, each a number or nested lists of numbers, as {"losses": [0.5, 0.2]}.';

function refuse(detail: string, param?: string): never {
  throw new ProblemError('invalid_parameter', { detail, remedy: REMEDY, ...(param === undefined ? {} : { param }) });
}

/** @throws ProblemError `invalid_parameter`, naming the tensor and the place, for anything but rectangular lists of numbers */
export function tensorsOfJson(document: unknown): NamedTensor[] {
  if (typeof document !== 'object' || document === null || Array.isArray(document)) {
    return refuse(`The body is ${describe(document)}; an object was expected.`);
  }
  return Object.entries(document).map(([name, value]) => tensorOf(name, value));
}

function tensorOf(name: string, value: unknown): NamedTensor {
  const shape: number[] = [];
  for (let inner = value; Array.isArray(inner); inner = (inner as unknown[])[0]) shape.push(inner.length);
  const values = new Float64Array(elementCount(shape));
  let position = 0;
  const fill = (item: unknown, place: readonly number[]): void => {
    const expected = shape[place.length];
    if (expected === undefined) {
      if (typeof item !== 'number') {
        refuse(`${name}${formatPlace(place)} is ${describe(item)}; a number was expected.`, name);
      }
      values[position++] = item;
      return;
    }
    if (!Array.isArray(item) || item.length !== expected) {
      const what = `a list of ${String(expected)}, as long as the ones before it,`;
      refuse(`${name}${formatPlace(place)} is ${describe(item)}; ${what} was expected.`, name);
    }
    for (const [index, child] of (item as unknown[]).entries()) fill(child, [...place, index]);
  };
  fill(value, []);
  return { name, shape, values };
}

function formatPlace(place: readonly number[]): string {
  return place.map((index) => `[${String(index)}]`).join('');
}

function describe(value: unknown): string {
  if (Array.isArray(value)) return `a list of ${String(value.length)}`;
  if (typeof value === 'object' && value !== null) return 'an object';
  const text = JSON.stringify(value);
  return text.length > 60 ? `${text.slice(0, 60)}…` : text;
}

/** A safetensors body as a JSON document. */
export function jsonOfTensors(body: Uint8Array): Record<string, unknown> {
  const header = readHeader(body);
  const tensors = header.entries.map(({ name, shape, ...entry }): [string, unknown] => {
    return [name, nested(readValues(body, header, { name, shape, ...entry }), shape)];
  });
  const metadata = Object.entries(header.metadata).map(([key, text]): [string, unknown] => [key, parsed(text)]);
  return {
    ...Object.fromEntries(tensors),
    ...(metadata.length === 0 ? {} : { __metadata__: Object.fromEntries(metadata) }),
  };
}

/** Values of metadata are documents, or numbers, as texts. */
function parsed(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return text;
  }
}

function nested(values: TensorValues, shape: readonly number[]): unknown {
  // Nine digits are what a float32 needs to be read back exactly.
  const numbers =
    values instanceof Float64Array ? [...values] : Array.from(values, (value) => Number(value.toPrecision(9)));
  if (shape.length === 0) return numbers[0];
  return shape.reduceRight<unknown[]>((items, size, axis) => (axis === 0 ? items : chunks(items, size)), numbers);
}

function chunks(items: readonly unknown[], size: number): unknown[][] {
  const count = size === 0 ? 0 : items.length / size;
  return Array.from({ length: count }, (_, index) => items.slice(index * size, (index + 1) * size));
}
