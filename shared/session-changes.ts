/**
 * What of a session can change while it runs: a JSON merge patch (RFC 7396) over its optimizer's options, and its lifetime. Only
 * what decides over the form of the state stays as it was when the session was created.
 */
import * as z from 'zod';
import { ProblemError } from './errors.ts';
import { ttlSecondsSchema } from './session-lifetime.ts';
import { sessionDefinitionSchema, type SessionDefinition } from './session.ts';
import { invalidParameter } from './validation.ts';

export const MERGE_PATCH_CONTENT_TYPE = 'application/merge-patch+json';

export const sessionChangesSchema = z
  .strictObject(
    {
      optimizer: z
        .record(z.string(), z.unknown(), {
          error: 'an object of options was expected, as {"learningRate": {"value": 1}}',
        })
        .nullable()
        .optional()
        .meta({
          description:
            'Options of the session’s optimizer that change, merged into what they are: objects member by member, anything else, and objects of another kind, as a whole; null takes an option back to its default',
          example: { learningRate: { value: 1 }, metric: { damping: 0.1 } },
        }),
      ttlSeconds: ttlSecondsSchema.unwrap().nullable().optional().meta({
        description: 'Seconds without a request after which the session is removed; null for the default',
      }),
    },
    {
      error: ({ code }) =>
        code === 'unrecognized_keys'
          ? 'it cannot change while the session runs, only optimizer and ttlSeconds can; create another session for it'
          : undefined,
    },
  )
  .meta({ id: 'SessionChanges', description: 'JSON merge patch (RFC 7396) of a session' });

export type SessionChanges = z.output<typeof sessionChangesSchema>;

/**
 * The definition with the changes in it.
 *
 * @throws ProblemError `invalid_parameter` if there is no such definition; `option_fixed` for an option that the state's form
 *   depends on
 */
export function changedDefinition(definition: SessionDefinition, changes: SessionChanges): SessionDefinition {
  const { optimizer, ttlSeconds } = mergePatch(definition, changes);
  const document = { ...definition, optimizer, ttlSeconds };
  const parsed = sessionDefinitionSchema.safeParse(document);
  if (!parsed.success) throw invalidParameter(parsed.error, document, sessionDefinitionSchema);
  assertSameForm(definition.optimizer.metric, parsed.data.optimizer.metric);
  return parsed.data;
}

/** RFC 7396, section 2; but an object of another `kind` replaces the one that there was, of whose options it has none left over. */
function mergePatch(target: unknown, patch: unknown): Record<string, unknown> {
  const merged: Record<string, unknown> = isObject(target) ? { ...target } : {};
  if (!isObject(patch)) return merged;
  for (const [name, value] of Object.entries(patch)) {
    // A member of that name would be taken for the object's prototype; no option has it.
    if (value === undefined || name === '__proto__') continue;
    if (value === null) Reflect.deleteProperty(merged, name);
    else
      merged[name] = isObject(value) ? mergePatch(hasOtherKind(merged[name], value) ? {} : merged[name], value) : value;
  }
  return merged;
}

function hasOtherKind(before: unknown, after: Record<string, unknown>): boolean {
  return isObject(before) && 'kind' in after && after['kind'] !== before['kind'];
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

type Metric = SessionDefinition['optimizer']['metric'];

function assertSameForm(before: Metric, after: Metric): void {
  if (before.kind !== after.kind) throw fixed('optimizer.metric.kind', before.kind, after.kind);
  if (!('firstInputFactor' in before) || !('firstInputFactor' in after)) return;
  const [old, wanted] = [before.firstInputFactor, after.firstInputFactor].map((factor) => JSON.stringify(factor));
  if (old !== wanted) throw fixed('optimizer.metric.firstInputFactor', old, wanted);
}

function fixed(param: string, before: unknown, after: unknown): ProblemError {
  return new ProblemError('option_fixed', {
    param,
    detail: `${param} was to become ${String(after)}; it is ${String(before)}, and the session’s state has the form that goes with it.`,
    remedy: 'Leave it as it is, or create another session; a hosted model’s weights can be had with GET …/weights.',
  });
}
