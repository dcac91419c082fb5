/**
 * The definition of a session: what a client states once, when it creates one. Every option's default, range and meaning stands
 * here and reaches the OpenAPI document, the error texts and the clients from here.
 */
import * as z from 'zod';
import { ProblemError } from './errors.ts';
import { refreshWork } from './cost.ts';
import { LIMITS } from './limits.ts';

const finite = z.number().meta({ description: 'A finite number' });

const layerNameSchema = z
  .string()
  .regex(/^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$/, 'a layer name has 1 to 128 letters, digits, "_", "." or "-"')
  .meta({ description: 'Unique within the session; tensors are named after it', example: 'fc1' });

const sizeSchema = z.int().min(1).max(LIMITS.features);

const denseLayerSchema = z
  .strictObject({
    name: layerNameSchema,
    kind: z.literal('dense'),
    inputs: sizeSchema.meta({ description: 'Input features n', example: 64 }),
    outputs: sizeSchema.meta({ description: 'Output features c', example: 32 }),
    bias: z.boolean().default(true).meta({ description: 'Whether the layer adds a bias' }),
  })
  .meta({ id: 'DenseLayer', description: 'pre-activation = activation · weight + bias; weight [n, c], bias [c]' });

const layerSchema = z
  .discriminatedUnion('kind', [denseLayerSchema])
  .meta({ id: 'Layer', description: 'A layer with parameters: one stage of the optimal-control problem' });

const learningRateSchema = z
  .discriminatedUnion('kind', [
    z
      .strictObject({
        kind: z.literal('constant'),
        value: finite.gt(0).max(1e6).default(10).meta({
          description: 'η > 0: the control metric is R = P/η. With kronecker and feedback, 0.03 to 100 works',
        }),
      })
      .meta({ id: 'ConstantLearningRate' }),
  ])
  .meta({ id: 'LearningRate' });

const kroneckerMetricSchema = z
  .strictObject({
    kind: z.literal('kronecker'),
    damping: finite.gt(0).max(1e6).default(0.01).meta({ description: 'γ, added to the factors with the π split' }),
    decay: finite.min(0).lt(1).default(0.95).meta({ description: 'Decay of the factors’ moving averages' }),
    refreshEvery: z
      .int()
      .min(1)
      .max(100_000)
      .default(10)
      .meta({ description: 'Steps between two inversions of the factors' }),
  })
  .meta({
    id: 'KroneckerMetric',
    description: 'P = (A + πγ^½ I) ⊗ (Γ + γ^½/π I): Kronecker-factored curvature (K-FAC)',
  });

const identityMetricSchema = z
  .strictObject({ kind: z.literal('identity') })
  .meta({ id: 'IdentityMetric', description: 'P = I: the metric of gradient descent' });

const metricSchema = z
  .discriminatedUnion('kind', [identityMetricSchema, kroneckerMetricSchema])
  .meta({ id: 'ControlMetric', description: 'The control metric R = P/η: what a change of the parameters costs' });

const lossScaleSchema = z
  .strictObject({
    floor: finite
      .gt(0)
      .max(1e6)
      .default(0.5)
      .meta({ description: 'h₀, the smallest terminal weight; 1 is the most robust' }),
    ceiling: finite.gt(0).max(1e6).default(100).meta({ description: 'The largest terminal weight' }),
  })
  .superRefine(({ floor, ceiling }, context) => {
    if (floor <= ceiling) return;
    const message = `the floor, ${String(floor)}, must not exceed the ceiling, ${String(ceiling)}`;
    context.addIssue({ code: 'custom', message, input: { floor, ceiling } });
  })
  .meta({
    id: 'LossScale',
    description: 'Terminal weight h_i = clamp(1/(2φ_i), floor, ceiling) of a sample with loss φ_i',
  });

const terminalCurvatureSchema = z
  .discriminatedUnion('kind', [
    z
      .strictObject({
        kind: z.literal('gradient'),
        lossScale: lossScaleSchema
          .nullable()
          .prefault({})
          .meta({ description: 'Weighs each sample by its loss; null gives every sample h_i = 1, as in the paper' }),
      })
      .meta({ id: 'GradientCurvature', description: 'φ_xx ≈ h_i φ_x φ_xᵀ: the outer product of the loss gradient' }),
  ])
  .meta({ id: 'TerminalCurvature' });

const couplingSchema = z.enum(['layerwise', 'value', 'feedback']).meta({
  id: 'Coupling',
  description:
    'layerwise: every layer by itself. value: the value function couples the layers, one forward pass. feedback: DDP proper; ' +
    'the client applies the policy in a second forward pass',
});

const optimizerSchema = z
  .strictObject({
    learningRate: learningRateSchema.prefault({ kind: 'constant' }),
    metric: metricSchema.prefault({ kind: 'kronecker' }),
    terminalCurvature: terminalCurvatureSchema.prefault({ kind: 'gradient' }),
    coupling: couplingSchema.default('feedback'),
  })
  .meta({ id: 'Optimizer' });

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
          `refreshing the kronecker metric of these layers takes ${work.toExponential(1)} operations (the sum of inputs³ + outputs³); ` +
          `at most ${LIMITS.refreshWork.toExponential(1)} are taken. Use metric "identity", or narrower layers`,
        input: layers,
      });
    }
    if (optimizer.coupling === 'feedback' && reply === 'update') {
      context.addIssue({
        code: 'custom',
        path: ['reply'],
        message:
          'with coupling "feedback" each layer’s change depends on your second forward pass; ask for "policy", or use coupling "value"',
        input: reply,
      });
    }
  })
  .meta({ id: 'SessionDefinition' });

/** A complete definition, defaults filled in. */
export type SessionDefinition = z.output<typeof sessionDefinitionSchema>;
/** What a client may write: defaults left out. */
export type SessionDefinitionInput = z.input<typeof sessionDefinitionSchema>;
export type Layer = z.output<typeof layerSchema>;
export type DenseLayer = z.output<typeof denseLayerSchema>;
export type Optimizer = z.output<typeof optimizerSchema>;
export type ControlMetric = z.output<typeof metricSchema>;
export type KroneckerMetric = z.output<typeof kroneckerMetricSchema>;
export type TerminalCurvature = z.output<typeof terminalCurvatureSchema>;
export type Coupling = z.output<typeof couplingSchema>;

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
