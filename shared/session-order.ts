/** What a client sends to create a session: a definition, or a checkpoint to go on from. */
import * as z from 'zod';
import { checkpointIdSchema } from './checkpoint.ts';
import { ttlSecondsSchema } from './session-lifetime.ts';
import { sessionDefinitionSchema } from './session.ts';
import { parseDocument } from './validation.ts';

const resumptionSchema = z
  .strictObject(
    {
      fromCheckpoint: checkpointIdSchema,
      ttlSeconds: ttlSecondsSchema.unwrap().optional().meta({
        description: 'Seconds without a request after which the session is removed; unless given, the checkpoint’s',
      }),
    },
    {
      error: ({ code }) =>
        code === 'unrecognized_keys'
          ? 'a session from a checkpoint has its definition from there; only ttlSeconds can be given besides'
          : undefined,
    },
  )
  .meta({ id: 'Resumption', description: 'A session that goes on where a checkpoint was made' });

export const sessionOrderSchema = z
  .union([resumptionSchema, sessionDefinitionSchema])
  .meta({ id: 'SessionOrder', description: 'With `fromCheckpoint` from a checkpoint, else from a definition' });

/** Complete, defaults filled in. */
export type SessionOrder = z.output<typeof sessionOrderSchema>;

/** @throws ProblemError `invalid_parameter`, in the words of the form that the document is of */
export function parseSessionOrder(document: unknown): SessionOrder {
  const isResumption = typeof document === 'object' && document !== null && 'fromCheckpoint' in document;
  return isResumption ? parseDocument(resumptionSchema, document) : parseDocument(sessionDefinitionSchema, document);
}
