/**
 * The definition of a session: what a client states once, when it creates one. What its layers and its
 * optimizer may be stands in layer.ts and optimizer.ts; the OpenAPI document, the error texts and the clients read it there.
 */
import * as z from 'zod';
import { ProblemError } from './errors.ts';
import { refreshWork } from './cost.ts';
import { layerSchema, type Layer } from './layer.ts';
import { LIMITS } from './limits.ts';
import { optimizerSchema, type Optimizer } from './optimizer.ts';

const replySchema = z.enum(['auto', 'update', 'policy']).meta({
  id: 'ReplyForm',
  description:
    'update: finished parameter changes. policy: factors the client applies. auto: policy for feedback, else update',
});

export const sessionDefinitionSchema = z
  .strictObject({
    mode: z.literal('layers').default('layers').meta({
      description: 'layers: the client sends each layer’s input activations and per-sample output gradients',
    }),
    layers: z.array(layerSchema).min(1).max(LIMITS.layers).meta({ description: 'In the order of the forward pass' }),
    optimizer: optimizerSchema.prefault({}),
    reply: replySchema.default('auto'),
    ttlSeconds: z
      .int()
      .min(LIMITS.ttlSeconds.minimum)
      .max(LIMITS.ttlSeconds.maximum)
      .default(LIMITS.ttlSeconds.default)
      .meta({ description: 'Seconds without a request after which the session is removed' }),
  })
  .superRefine(({ layers, optimizer, reply }, context) => {
    const names = new Map<string, number>();
    for (const [index, { name }] of layers.entries()) {
      const first = names.get(name);
      if (first !== undefined) {
        context.addIssue({
          code: 'custom',
          path: ['layers', index, 'name'],
          message: `layers ${String(first)} and ${String(index)} have the same name; give every layer a name of its own`,
          input: name,
        });
      }
      names.set(name, index);
    }
    const work = refreshWork({ layers, optimizer });
    if (work > LIMITS.refreshWork) {
      context.addIssue({
        code: 'custom',
        path: ['layers'],
        message:
          `refreshing the ${optimizer.metric.kind} metric of these layers takes ${work.toExponential(1)} operations (inputs³ + outputs³, added up); ` +
          `at most ${LIMITS.refreshWork.toExponential(1)} are taken. Use metric "identity", or narrower layers`,
        input: layers,
      });
    }
    if (replyForm({ optimizer, reply }) === 'policy') {
      const fault = withoutPolicy(layers, optimizer);
      if (fault !== null) {
        const path = reply === 'auto' ? ['optimizer', 'coupling'] : ['reply'];
        const message = `a policy can be handed out for dense layers without a sequence axis, metric "identity" or "kronecker" and terminal curvature "gradient"; ${fault}. Use coupling "gauss-newton-step", "value" or "layerwise" with an update`;
        context.addIssue({ code: 'custom', path, message, input: reply === 'auto' ? optimizer.coupling : reply });
      }
    }
    if (optimizer.coupling === 'feedback' && reply === 'update') {
      context.addIssue({
        code: 'custom',
        path: ['reply'],
        message:
          'with coupling "feedback" each layer’s change depends on your second forward pass; ask for "policy", or use coupling "gauss-newton-step"',
        input: reply,
      });
    }
  })
  .meta({ id: 'SessionDefinition' });

/** A complete definition, defaults filled in. */
export type SessionDefinition = z.output<typeof sessionDefinitionSchema>;
/** What a client may write: defaults left out. */
export type SessionDefinitionInput = z.input<typeof sessionDefinitionSchema>;

/** What of a definition keeps its policy from being handed out, in words; null if nothing does. */
function withoutPolicy(layers: readonly Layer[], optimizer: Optimizer): string | null {
  const { metric, terminalCurvature, coupling, momentum, lookahead, maximumNorm, maximumPredictedDecrease } = optimizer;
  const layer = layers.find((candidate) => candidate.kind !== 'dense' || candidate.sequence);
  if (layer !== undefined) return `layer ${layer.name} is another`;
  if (metric.kind !== 'identity' && metric.kind !== 'kronecker') return `the metric is "${metric.kind}"`;
  if (terminalCurvature.kind !== 'gradient') return `the terminal curvature is "${terminalCurvature.kind}"`;
  if (coupling === 'gauss-newton-step') return 'coupling "gauss-newton-step" predicts the changes itself';
  if (momentum > 0) return 'momentum works on finished updates';
  if (lookahead !== null) return 'lookahead works on finished updates';
  if (maximumNorm !== null) return 'maximumNorm works on finished updates';
  if (maximumPredictedDecrease !== null) return 'maximumPredictedDecrease works on finished updates';
  return null;
}

/** What a reply carries. */
export function replyForm(definition: Pick<SessionDefinition, 'reply' | 'optimizer'>): 'update' | 'policy' {
  if (definition.reply !== 'auto') return definition.reply;
  return definition.optimizer.coupling === 'feedback' ? 'policy' : 'update';
}

const sessionIdSchema = z
  .string()
  .regex(/^ses_[0-9a-f]{32}$/)
  .brand('SessionId')
  .meta({ description: 'Identifier of a session', example: 'ses_0123456789abcdef0123456789abcdef' });

export type SessionId = z.output<typeof sessionIdSchema>;

/** @throws ProblemError `session_not_found`, for a text that cannot be an identifier too */
export function parseSessionId(text: string): SessionId {
  const parsed = sessionIdSchema.safeParse(text);
  if (!parsed.success) throw sessionNotFound(text);
  return parsed.data;
}

export function sessionNotFound(id: string): ProblemError {
  return new ProblemError('session_not_found', {
    param: 'id',
    detail: `There is no session ${JSON.stringify(id)}; it was never created, was deleted, or expired.`,
    remedy: 'Create a session with POST /v1/sessions.',
  });
}

/** A new random identifier of 122 bits. */
export function newSessionId(): SessionId {
  return sessionIdSchema.parse(`ses_${crypto.randomUUID().replaceAll('-', '')}`);
}

export const stepMetricsSchema = z
  .object({
    step: z.int().meta({ description: 'Sequence number of the step' }),
    batch: z.int().meta({ description: 'Samples B' }),
    loss: z.number().meta({ description: 'Mean loss of the batch before the step' }),
    learningRate: z.number().meta({ description: 'η of the step' }),
    terminalWeight: z.number().meta({ description: 'Mean terminal weight h' }),
    refreshed: z.boolean().meta({ description: 'Whether the metric’s factors were inverted in this step' }),
    failedFactorizations: z
      .int()
      .meta({ description: 'Inversions since the session began that failed and kept the last good inverse' }),
  })
  .meta({ id: 'StepMetrics' });

export type StepMetrics = z.output<typeof stepMetricsSchema>;

export const sessionSchema = z
  .object({
    id: sessionIdSchema,
    ...sessionDefinitionSchema.shape,
    nextStep: z.int().meta({ description: 'The sequence number the next step must have' }),
    metrics: stepMetricsSchema.nullable().meta({ description: 'Of the last step; null before the first' }),
    engine: z.string().meta({ description: 'The tensor engine that computes the session', example: 'wasm' }),
    createdAt: z.iso.datetime(),
    expiresAt: z.iso.datetime().meta({ description: 'When the session is removed unless a request comes' }),
  })
  .meta({ id: 'Session' });

export type Session = z.output<typeof sessionSchema>;
