/** What a field of a schema accepts, in words that name both ends of its range. */
import * as z from 'zod';

/**
 * @param path of the field, as in a zod issue
 * @param input the document, which says what kind of a union a path goes through
 * @returns for example "a number from 0 to less than 1"; null if the field is not there or has no range
 */
export function acceptedRange(schema: z.core.$ZodType, path: readonly PropertyKey[], input: unknown): string | null {
  const field = fieldAt(schema, path, input);
  if (field === null) return null;
  const { type, ...limits } = z.toJSONSchema(field, { io: 'input', unrepresentable: 'any' });
  switch (type) {
    case 'number':
      return inWords('a number', limits);
    case 'integer':
      return inWords('a whole number', limits);
    case 'array':
      return count('a list', 'items', limits.minItems, limits.maxItems);
    case 'string':
      return count('a text', 'characters', limits.minLength, limits.maxLength);
    default:
      return null;
  }
}

function fieldAt(schema: z.core.$ZodType, path: readonly PropertyKey[], input: unknown): z.core.$ZodType | null {
  const inner = unwrapped(schema, input);
  const [key, ...rest] = path;
  if (inner === null || key === undefined) return inner;
  const child = childOf(inner, key);
  return child === null ? null : fieldAt(child, rest, propertyOf(input, key));
}

/** The schema behind defaults and null, and of a union the member that the input's discriminator names. */
function unwrapped(schema: z.core.$ZodType, input: unknown): z.core.$ZodType | null {
  if (
    schema instanceof z.ZodDefault ||
    schema instanceof z.ZodPrefault ||
    schema instanceof z.ZodNullable ||
    schema instanceof z.ZodOptional
  ) {
    return unwrapped(schema.unwrap(), input);
  }
  if (!(schema instanceof z.ZodDiscriminatedUnion)) return schema;
  const { discriminator } = schema.def;
  const kind = propertyOf(input, discriminator);
  // A member may be a union by the same discriminator.
  const members = schema.options.map((option) => unwrapped(option, input)).filter((member) => member !== null);
  const named = members.find((member) => {
    const literal = childOf(member, discriminator);
    return literal !== null && z.safeParse(literal, kind).success;
  });
  return named ?? null;
}

function childOf(schema: z.core.$ZodType, key: PropertyKey): z.core.$ZodType | null {
  const children: Readonly<Record<string, z.core.$ZodType>> = schema instanceof z.ZodObject ? schema.shape : {};
  if (schema instanceof z.ZodArray) return schema.element;
  if (schema instanceof z.ZodTuple) return schema.def.items[Number(key)] ?? null;
  return children[String(key)] ?? null;
}

function propertyOf(value: unknown, key: PropertyKey): unknown {
  return typeof value === 'object' && value !== null ? (value as Record<PropertyKey, unknown>)[key] : undefined;
}

type Limits = Pick<z.core.JSONSchema.BaseSchema, 'minimum' | 'exclusiveMinimum' | 'maximum' | 'exclusiveMaximum'>;

function inWords(what: string, limits: Limits): string | null {
  const { exclusiveMinimum, exclusiveMaximum } = limits;
  const least = bounded(limits.minimum);
  const most = bounded(limits.maximum);
  const upper =
    exclusiveMaximum !== undefined ? `less than ${String(exclusiveMaximum)}` : most === null ? null : String(most);
  if (exclusiveMinimum !== undefined) {
    const lower = `${what} greater than ${String(exclusiveMinimum)}`;
    if (upper === null) return lower;
    return exclusiveMaximum === undefined ? `${lower} and at most ${upper}` : `${lower} and ${upper}`;
  }
  if (least !== null) return upper === null ? `${what} of at least ${String(least)}` : `${what} from ${String(least)} to ${upper}`; // prettier-ignore
  if (upper === null) return null;
  return exclusiveMaximum === undefined ? `${what} of at most ${upper}` : `${what} ${upper}`;
}

/** A limit, unless it is only where whole numbers end to be exact. */
function bounded(limit: number | undefined): number | null {
  return limit === undefined || Math.abs(limit) === Number.MAX_SAFE_INTEGER ? null : limit;
}

function count(what: string, items: string, least: number | undefined, most: number | undefined): string | null {
  if (most === undefined) return least === undefined ? null : `${what} of at least ${String(least)} ${items}`;
  if (least === most) return `${what} of ${String(most)} ${items}`;
  return least === undefined
    ? `${what} of at most ${String(most)} ${items}`
    : `${what} of ${String(least)} to ${String(most)} ${items}`;
}
