/**
 * The definition of a session in `kernel` mode: the client keeps inputs, gradients and parameters to itself, and sends of each
 * layer the tangent kernel N_t alone.
 */
import * as z from 'zod';
import { kernelRefreshExcess } from './cost.ts';
import { layerNameSchema, refuseRepeatedNames, sizeSchema } from './layer.ts';
import { LIMITS } from './limits.ts';
import {
  factorDampingSchema,
  factorDecaySchema,
  firstInputFactorSchema,
  groupFields,
  learningRateSchema,
  recursionFields,
  refuseRecursion,
} from './optimizer.ts';
import { ttlSecondsSchema } from './session-lifetime.ts';
import { requestTransportSchema } from './transport.ts';

const factorSizesSchema = z
  .strictObject({
    inputs: sizeSchema.meta({ description: 'n, inputs of the weight matrix, the bias counted as one', example: 65 }),
    outputs: sizeSchema.meta({ description: 'c, its outputs', example: 32 }),
    groups: sizeSchema.default(1).meta({
      description:
        'Groups of a convolution, each of which has its own factors; `inputs` and `outputs` are those of one group',
    }),
  })
  .meta({ id: 'KernelFactorSizes', description: 'Sizes of the Kronecker factors A [n, n] and Γ [c, c]' });

export type KernelFactorSizes = z.output<typeof factorSizesSchema>;

const kernelLayerSchema = z
  .strictObject({
    name: layerNameSchema,
    factors: factorSizesSchema.nullable().default(null).meta({
      description: 'With metric "kronecker": the layer has factors of these sizes; null for a metric of your own',
    }),
  })
  .meta({
    id: 'KernelLayer',
    description: 'A stage of the optimal-control problem; of its parameters nothing is known',
  });

const kernelMetricSchema = z
  .discriminatedUnion(
    'kind',
    [
      z.strictObject({ kind: z.literal('client') }).meta({
        id: 'ClientMetric',
        description:
          'The metric P is the client’s own, contained in the N_t; nothing in a step grows with the parameters',
      }),
      z
        .strictObject({
          kind: z.literal('kronecker'),
          damping: factorDampingSchema,
          decay: factorDecaySchema,
          refreshEvery: z.int().min(1).max(100_000).default(1).meta({
            description:
              'Steps with factor statistics between two inversions; the client decides which steps carry them',
          }),
          firstInputFactor: firstInputFactorSchema.default({ kind: 'averaged' }).meta({
            description:
              'The input factor of the first layer, whose inputs are the data; once it is frozen its statistics may be left out',
          }),
        })
        .meta({
          id: 'SharedKroneckerMetric',
          description:
            'P = (A + πγ^½ I) ⊗ (Γ + γ^½/π I): the client sends factor statistics with some steps, the service averages and inverts them',
        }),
    ],
    {
      error: () =>
        '"client" or "kronecker" was expected; whatever other metric you use is contained in the N_t you send, which is "client"',
    },
  )
  .meta({ id: 'KernelMetric' });

const kernelGroupSchema = z
  .strictObject(groupFields, {
    error: ({ code }) =>
      code === 'unrecognized_keys'
        ? 'mode "kernel" has no such field: the service does not see the parameters'
        : undefined,
  })
  .meta({ id: 'KernelParameterGroup' });

/** What becomes of options that work on the parameters or on their changes, which the service does not see. */
const CLIENT_SIDE: Readonly<Record<string, string>> = {
  weightDecay: 'take away the decayed share from the parameters yourself, which is decoupled decay',
  momentum: 'keep the velocity of the changes yourself',
  lookahead: 'keep the slow weights yourself',
  maximumNorm: 'scale the changes yourself',
  maximumPredictedDecrease: 'scale the changes yourself; Σ_t N_t κ_t is the decrease they predict',
};

export const kernelOptimizerSchema = z
  .strictObject(
    {
      learningRate: learningRateSchema.prefault({ kind: 'leverage' }),
      metric: kernelMetricSchema.prefault({ kind: 'client' }),
      ...recursionFields,
      groups: z.array(kernelGroupSchema).max(64).default([]),
    },
    {
      error: (issue) => {
        if (issue.code !== 'unrecognized_keys') return undefined;
        const remedy = CLIENT_SIDE[issue.keys[0] ?? ''];
        return remedy === undefined
          ? 'mode "kernel" has no such option'
          : `mode "kernel" has no such option, since the service does not see the parameters: ${remedy}, or use mode "layers"`;
      },
    },
  )
  .superRefine((optimizer, context) => {
    refuseRecursion(optimizer, context);
    const { batchCoupling, coupling, learningRate, terminalCurvature } = optimizer;
    if (batchCoupling === 'diagonal' && coupling === 'gauss-newton-step') {
      const message =
        'the linear prediction needs the whole N_t, of which batchCoupling "diagonal" has the diagonal; take coupling "value" or batchCoupling "full"';
      context.addIssue({ code: 'custom', path: ['coupling'], message, input: coupling });
    }
    if (learningRate.kind !== 'levenberg-marquardt') return;
    const fault =
      terminalCurvature.kind !== 'gradient'
        ? `terminal curvature "gradient", not "${terminalCurvature.kind}"`
        : batchCoupling === 'diagonal'
          ? 'the whole N_t, of which batchCoupling "diagonal" has the diagonal'
          : null;
    if (fault === null) return;
    const message = `in mode "kernel" the prediction it judges takes ${fault}; take another rule, or "leverage"`;
    context.addIssue({ code: 'custom', path: ['learningRate', 'kind'], message, input: learningRate.kind });
  })
  .meta({ id: 'KernelOptimizer' });

export type KernelOptimizer = z.output<typeof kernelOptimizerSchema>;
export type SharedKroneckerMetric = Extract<KernelOptimizer['metric'], { kind: 'kronecker' }>;

const kernelReplySchema = z.enum(['auto', 'coefficients', 'factors']).meta({
  id: 'KernelReplyForm',
  description:
    'coefficients: κ_t of every layer. factors: the Cholesky factor of S_t and its target, to solve for any s_t. auto: factors for ' +
    'feedback, else coefficients',
});

export const kernelDefinitionSchema = z
  .strictObject(
    {
      mode: z.literal('kernel').meta({
        description: 'The client computes the tangent kernels N_t; neither inputs nor parameters leave it',
      }),
      layers: z
        .array(kernelLayerSchema)
        .min(1)
        .max(LIMITS.layers)
        .meta({ description: 'In the order of the forward pass' }),
      optimizer: kernelOptimizerSchema.prefault({}),
      reply: kernelReplySchema.default('auto'),
      transport: requestTransportSchema,
      ttlSeconds: ttlSecondsSchema,
    },
    { error: ({ code }) => (code === 'unrecognized_keys' ? 'mode "kernel" has no such field' : undefined) },
  )
  .superRefine(({ layers, optimizer, reply }, context) => {
    const { coupling, metric } = optimizer;
    refuseRepeatedNames(layers, context);
    const factored = layers.findIndex(({ factors }) => factors !== null);
    if (metric.kind === 'client' && factored >= 0) {
      const message = 'with metric "client" the service keeps no factors; leave it out, or take metric "kronecker"';
      context.addIssue({
        code: 'custom',
        path: ['layers', factored, 'factors'],
        message,
        input: layers[factored]?.factors,
      });
    }
    if (metric.kind === 'kronecker' && factored < 0) {
      const message =
        'none of the layers has factors; state the factors’ sizes of at least one, or take metric "client"';
      context.addIssue({ code: 'custom', path: ['optimizer', 'metric', 'kind'], message, input: metric.kind });
    }
    if (metric.kind === 'kronecker' && metric.firstInputFactor.kind === 'frozen' && layers[0]?.factors === null) {
      const message = 'the first layer has no factors; state their sizes, or leave firstInputFactor out';
      const path = ['optimizer', 'metric', 'firstInputFactor'];
      context.addIssue({ code: 'custom', path, message, input: metric.firstInputFactor });
    }
    const excess = kernelRefreshExcess(layers);
    if (excess !== null) context.addIssue({ code: 'custom', path: ['layers'], message: excess, input: layers });
    if (coupling === 'feedback' && reply === 'coefficients') {
      const message =
        'with coupling "feedback" κ_t depends on your second forward pass; ask for "factors", or use coupling "value"';
      context.addIssue({ code: 'custom', path: ['reply'], message, input: reply });
    }
    if (coupling === 'gauss-newton-step' && reply === 'factors') {
      const message =
        'coupling "gauss-newton-step" predicts s_t itself; ask for "coefficients", or use coupling "feedback"';
      context.addIssue({ code: 'custom', path: ['reply'], message, input: reply });
    }
  })
  .meta({ id: 'KernelDefinition', description: 'The client keeps data and parameters; it sends tangent kernels' });

export type KernelDefinition = z.output<typeof kernelDefinitionSchema>;
export type KernelDefinitionInput = z.input<typeof kernelDefinitionSchema>;
export type KernelLayer = KernelDefinition['layers'][number];

/** What a reply carries. */
export function kernelReplyForm({
  reply,
  optimizer,
}: Pick<KernelDefinition, 'reply' | 'optimizer'>): 'coefficients' | 'factors' {
  if (reply !== 'auto') return reply;
  return optimizer.coupling === 'feedback' ? 'factors' : 'coefficients';
}
