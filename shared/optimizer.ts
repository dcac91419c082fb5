/** The optimizer's options. Every option's default, range and meaning stands here. */
import * as z from 'zod';

const finite = z.number().meta({ description: 'A finite number' });

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

export const optimizerSchema = z
  .strictObject({
    learningRate: learningRateSchema.prefault({ kind: 'constant' }),
    metric: metricSchema.prefault({ kind: 'kronecker' }),
    terminalCurvature: terminalCurvatureSchema.prefault({ kind: 'gradient' }),
    coupling: couplingSchema.default('feedback'),
  })
  .meta({ id: 'Optimizer' });

export type Optimizer = z.output<typeof optimizerSchema>;
export type ControlMetric = z.output<typeof metricSchema>;
export type KroneckerMetric = z.output<typeof kroneckerMetricSchema>;
export type TerminalCurvature = z.output<typeof terminalCurvatureSchema>;
export type Coupling = z.output<typeof couplingSchema>;
