/** Turns a failed schema check into a problem that names the field, the value and what to do. */
import type * as z from 'zod';
import { acceptedRange } from './accepted-range.ts';
import { ProblemError } from './errors.ts';

/**
 * @param error what zod found; its first issue is reported
 * @param input the document that was checked, for the value at fault
 * @param schema that it was checked with, for both ends of a range
 */
export function invalidParameter(error: z.ZodError, input: unknown, schema: z.ZodType | null): ProblemError {
  const issue = error.issues[0];
  if (issue === undefined) throw new TypeError('a zod error without an issue');
  const path = issue.code === 'unrecognized_keys' ? [...issue.path, ...issue.keys.slice(0, 1)] : issue.path;
  const param = path
    .map((key, index) => (typeof key === 'number' ? `[${String(key)}]` : `${index > 0 ? '.' : ''}${String(key)}`))
    .join('');
  const value = valueAt(input, path);
  // A rule over several fields can find fault with one that was left out, and so has its default.
  const absent = issue.code === 'custom' ? 'left at its default' : 'missing';
  const text = value === undefined ? absent : JSON.stringify(value);
  const shown = text.length > 100 ? `${text.slice(0, 100)}…` : text;
  return new ProblemError('invalid_parameter', {
    ...(param === '' ? {} : { param }),
    detail: `${param === '' ? 'The document' : param} is ${shown}: ${messageOf(issue, input, schema)}.`,
    remedy: 'Correct the field; /openapi.json states every field with its range and default.',
  });
}

/** The issue's own words; where a value is out of its range, or not whole, the whole range. */
function messageOf(issue: z.core.$ZodIssue, input: unknown, schema: z.ZodType | null): string {
  const isOutOfRange =
    issue.code === 'too_big' ||
    issue.code === 'too_small' ||
    (issue.code === 'invalid_type' && issue.expected === 'int' && typeof valueAt(input, issue.path) === 'number');
  const range = schema !== null && isOutOfRange ? acceptedRange(schema, issue.path, input) : null;
  return range === null ? issue.message : `it takes ${range}`;
}

function valueAt(input: unknown, path: readonly PropertyKey[]): unknown {
  let value = input;
  for (const key of path) {
    if (typeof value !== 'object' || value === null) return undefined;
    value = (value as Record<PropertyKey, unknown>)[key];
  }
  return value;
}

/**
 * Parses a document with a schema.
 *
 * @throws ProblemError `invalid_parameter`
 */
export function parseDocument<Schema extends z.ZodType>(schema: Schema, input: unknown): z.output<Schema> {
  const result = schema.safeParse(input);
  if (!result.success) throw invalidParameter(result.error, input, schema);
  return result.data;
}
