/**
 * Sessions: what a client states once when it creates one, in every mode, and how the service describes one. The OpenAPI
 * document, the error texts and the clients read it here.
 */
import * as z from 'zod';
import { kernelStateBytes, learningRateBytes, optimizerStateBytes, parameterCount } from './cost.ts';
import { ProblemError } from './errors.ts';
import { hostedDefinitionSchema } from './hosted-definition.ts';
import { kernelDefinitionSchema } from './kernel-definition.ts';
import { layersDefinitionSchema } from './layers-definition.ts';
import { batchNormChannels, modelStages } from './model.ts';

const MODES = ['layers', 'kernel', 'hosted'] as const;

export const sessionDefinitionSchema = z
  .discriminatedUnion('mode', [layersDefinitionSchema, kernelDefinitionSchema, hostedDefinitionSchema], {
    error: ({ input }) =>
      typeof input === 'object' && input !== null && !Array.isArray(input)
        ? `${MODES.map((mode) => `"${mode}"`).join(' or ')} was expected`
        : 'a JSON object was expected',
  })
  .meta({ id: 'SessionDefinition', description: 'Told apart by `mode`; without one it is `layers`' });

/** A complete definition, defaults filled in. */
export type SessionDefinition = z.output<typeof sessionDefinitionSchema>;
/** What a client may write: defaults left out. */
export type SessionDefinitionInput = z.input<typeof sessionDefinitionSchema>;

/** Bytes of a session's state when it is largest, in float32. */
export function stateBytes(definition: SessionDefinition): number {
  switch (definition.mode) {
    case 'layers':
      return optimizerStateBytes(definition);
    case 'kernel':
      return kernelStateBytes(definition.layers) + learningRateBytes(definition.optimizer.learningRate);
    case 'hosted': {
      const { model, optimizer } = definition;
      const layers = modelStages(model).map(({ layer }) => layer);
      // Weights, and those of the step before where a rule judges it.
      const copies = optimizer.learningRate.kind === 'levenberg-marquardt' ? 2 : 1;
      const weights = copies * parameterCount(layers);
      // Running mean and variance.
      const statistics = 2 * batchNormChannels(model);
      return 4 * (weights + statistics) + optimizerStateBytes({ layers, optimizer });
    }
  }
}

export const sessionIdSchema = z
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

/** @param epoch the latest of its leases that is known, 0 if none is */
export function sessionMoved(id: string, epoch: number): ProblemError {
  return new ProblemError('session_moved', {
    param: 'id',
    epoch,
    detail: `Session ${id} has moved to another worker.`,
    remedy: 'Send the same request again.',
  });
}

/** What a worker tells the edge, which answers it as {@link sessionNotFound}: the session itself stays where it is. */
export function otherTenant(id: SessionId): ProblemError {
  return new ProblemError('other_tenant', {
    param: 'id',
    detail: `Session ${id} is another tenant’s.`,
    remedy: 'Answer that there is no such session.',
  });
}

export function notHosted(id: SessionId): ProblemError {
  return new ProblemError('not_hosted', {
    detail: `Session ${id} is not in mode "hosted": the client holds the model and its weights.`,
    remedy: 'Create a session with mode "hosted" to have the service hold them.',
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
    lossAfter: z.number().nullable().meta({
      description:
        'Mean loss of the batch after the step, where the worker takes a second forward pass (hosted mode, coupling feedback); else null',
    }),
    learningRate: z.number().meta({ description: 'η of the step' }),
    terminalWeight: z.number().meta({ description: 'Mean terminal weight h' }),
    refreshed: z.boolean().meta({ description: 'Whether the metric’s factors were inverted in this step' }),
    failedFactorizations: z
      .int()
      .meta({ description: 'Inversions since the session began that failed and kept the last good inverse' }),
  })
  .meta({ id: 'StepMetrics' });

export type StepMetrics = z.output<typeof stepMetricsSchema>;

const sessionStatus = {
  id: sessionIdSchema,
  nextStep: z.int().meta({ description: 'The sequence number the next step must have' }),
  optimizerFromStep: z.int().meta({
    description: 'The first step that `optimizer` holds for: 0, or where PATCH changed it last',
  }),
  durableStep: z.int().nullable().meta({
    description:
      'Steps before this one survive the end of the worker’s process; null where the worker keeps sessions in memory alone',
  }),
  metrics: stepMetricsSchema.nullable().meta({ description: 'Of the last step; null before the first' }),
  engine: z.string().meta({ description: 'The tensor engine that computes the session', example: 'wasm' }),
  createdAt: z.iso.datetime(),
  expiresAt: z.iso.datetime().meta({ description: 'When the session is removed unless a request comes' }),
};

export const sessionSchema = z
  .discriminatedUnion('mode', [
    // Which a definition may leave out, and a session never does.
    z
      .object({ ...layersDefinitionSchema.shape, ...sessionStatus, mode: z.literal('layers') })
      .meta({ id: 'LayersSession' }),
    z.object({ ...kernelDefinitionSchema.shape, ...sessionStatus }).meta({ id: 'KernelSession' }),
    z
      .object({
        ...hostedDefinitionSchema.shape,
        ...sessionStatus,
        run: z.int().nullable().meta({ description: 'First step of the run that is taking steps; null if none is' }),
      })
      .meta({ id: 'HostedSession' }),
  ])
  .meta({ id: 'Session' });

export type Session = z.output<typeof sessionSchema>;
export type LayersSession = Extract<Session, { mode: 'layers' }>;
export type KernelSession = Extract<Session, { mode: 'kernel' }>;
export type HostedSession = Extract<Session, { mode: 'hosted' }>;
