/**
 * Checkpoints: the complete state of a session in one safetensors file, readable with any safetensors library.
 *
 * `__metadata__` has `format`, `version`, the `manifest` as JSON, and `digest`, the SHA-256 of what the file says: the manifest's
 * text, then for every tensor in the order of the bytes one line `name TAB dtype TAB sizes joined by commas LF`, then all of the
 * tensors' bytes.
 */
import * as z from 'zod';
import { ProblemError } from './errors.ts';
import { sessionDefinitionSchema, sessionIdSchema, stepMetricsSchema } from './session.ts';

export const CHECKPOINT_FORMAT = 'ddpnopt-checkpoint';
export const CHECKPOINT_VERSION = '1';

const learningRateState = {
  hasPredictedChange: z.boolean(),
  leverage: z.number().nullable(),
  learningRate: z.number().nullable(),
  failedFactorizations: z.int().min(0),
};

/** What of the optimizer's state is no tensor, and which tensors there are. */
export const savedOptimizerSchema = z.strictObject({
  /** Kind of the control metric's state per layer and parameter block; null before the first step. */
  metrics: z.array(z.array(z.enum(['identity', 'diagonal', 'kronecker', 'ekfac']))).nullable(),
  /** Refreshes that are under way, per layer and parameter block; null where there is none. */
  pendingRefreshes: z
    .array(z.array(z.strictObject({ begun: z.int().min(0), failed: z.boolean() }).nullable()))
    .nullable()
    .default(null),
  /** Version of the inverses per layer, 0 for a layer without; null before the first step. */
  inverseVersions: z.array(z.int().min(0)).nullable().default(null),
  hasVelocities: z.boolean(),
  hasDisplacement: z.boolean(),
  ...learningRateState,
});

export type SavedOptimizer = z.output<typeof savedOptimizerSchema>;

const savedStateSchema = z.discriminatedUnion('mode', [
  z.strictObject({ mode: z.literal('layers'), optimizer: savedOptimizerSchema }),
  z.strictObject({
    mode: z.literal('kernel'),
    /** Per layer; null for one without factors and before the first statistics. */
    factors: z.array(z.strictObject({ version: z.int().min(0), hasInverses: z.boolean() }).nullable()),
    statistics: z.int().min(0),
    isRefreshDue: z.boolean(),
    ...learningRateState,
  }),
  z.strictObject({
    mode: z.literal('hosted'),
    optimizer: savedOptimizerSchema,
    hasSlowWeights: z.boolean(),
    hasPreviousWeights: z.boolean(),
  }),
]);

export type SavedState = z.output<typeof savedStateSchema>;

export const checkpointManifestSchema = z.strictObject({
  definition: sessionDefinitionSchema,
  /** Steps taken. */
  step: z.int().min(0),
  /** Of the last step; null before the first. */
  metrics: stepMetricsSchema.nullable(),
  /** The tensor engine that computed the state. */
  engine: z.string(),
  createdAt: z.iso.datetime(),
  state: savedStateSchema,
});

export type CheckpointManifest = z.output<typeof checkpointManifestSchema>;

export const checkpointIdSchema = z
  .string()
  .regex(/^ckp_[0-9a-f]{32}$/)
  .brand('CheckpointId')
  .meta({ description: 'Identifier of a checkpoint', example: 'ckp_0123456789abcdef0123456789abcdef' });

export type CheckpointId = z.output<typeof checkpointIdSchema>;

export const checkpointSchema = z
  .object({
    id: checkpointIdSchema,
    session: sessionIdSchema.nullable().meta({ description: 'The session it was made of; null if it was imported' }),
    origin: z.enum(['request', 'expiry', 'import']).meta({
      description: 'Why it exists: asked for, kept of a session that expired, or uploaded',
    }),
    mode: z.enum(['layers', 'kernel', 'hosted']),
    step: z.int().meta({ description: 'Steps taken; a session that starts from it expects this step next' }),
    bytes: z.int().meta({ description: 'Size of the file' }),
    digest: z.string().meta({ description: 'SHA-256 over its contents, which its metadata states, too' }),
    engine: z.string().meta({ description: 'The tensor engine that computed it', example: 'wasm' }),
    createdAt: z.iso.datetime(),
    expiresAt: z.iso.datetime().nullable().meta({ description: 'When it is deleted; null if it is kept' }),
  })
  .meta({ id: 'Checkpoint' });

export type Checkpoint = z.output<typeof checkpointSchema>;

export const checkpointListSchema = z
  .object({ checkpoints: z.array(checkpointSchema).meta({ description: 'Oldest first' }) })
  .meta({ id: 'CheckpointList' });

/** A new random identifier of 122 bits. */
export function newCheckpointId(): CheckpointId {
  return checkpointIdSchema.parse(`ckp_${crypto.randomUUID().replaceAll('-', '')}`);
}

/** @throws ProblemError `checkpoint_not_found`, for a text that cannot be an identifier too */
export function parseCheckpointId(text: string): CheckpointId {
  const parsed = checkpointIdSchema.safeParse(text);
  if (!parsed.success) throw checkpointNotFound(text);
  return parsed.data;
}

export function checkpointNotFound(id: string): ProblemError {
  return new ProblemError('checkpoint_not_found', {
    param: 'id',
    detail: `There is no checkpoint ${JSON.stringify(id)}; it was never made, was deleted, or its time is over.`,
    remedy: 'List a session’s checkpoints with GET /v1/sessions/{id}/checkpoints.',
  });
}
