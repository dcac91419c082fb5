/** The optimizer's options. Every option's default, range and meaning stands here. */
import * as z from 'zod';
import { LIMITS } from './limits.ts';

const finite = z.number().meta({ description: 'A finite number' });

const rateSchema = finite.gt(0).max(1e6);
const warmUpSchema = z.int().min(0).max(1e9);
const warmUpMeaning = { description: 'Steps over which η grows linearly to what the rule says' };
const warmUpSteps = warmUpSchema.default(0).meta(warmUpMeaning);
const scheduleSteps = z.int().min(1).max(1e9).meta({ description: 'Steps of the whole schedule' });
const peakSchema = rateSchema.meta({ description: 'η > 0, the largest of the schedule' });
const finalSchema = finite.min(0).max(1e6).default(0).meta({ description: 'η at the end, and from there on' });

const levenbergMarquardtSchema = z
  .strictObject({
    kind: z.literal('levenberg-marquardt'),
    initial: rateSchema.default(10).meta({ description: 'η of the first step' }),
    every: z
      .int()
      .min(1)
      .max(100_000)
      .default(5)
      .meta({ description: 'Steps between two judgements; in layers mode, how often to send previous_losses' }),
    low: finite.min(0).max(1).default(0.25).meta({ description: 'ρ below this divides η by the factor' }),
    high: finite.min(0).max(1).default(0.75).meta({ description: 'ρ above this multiplies η by the factor' }),
    factor: finite.gt(1).max(1000).default(1.5).meta({ description: 'How far one judgement moves η' }),
    minimum: rateSchema.default(0.001).meta({ description: 'Smallest η' }),
    maximum: rateSchema.default(1000).meta({ description: 'Largest η' }),
  })
  .superRefine(({ initial, low, high, minimum, maximum }, context) => {
    if (low >= high) {
      const message = `it must be less than high, ${String(high)}`;
      context.addIssue({ code: 'custom', path: ['low'], message, input: low });
    }
    if (initial < minimum || initial > maximum) {
      const message = `it must lie between minimum, ${String(minimum)}, and maximum, ${String(maximum)}`;
      context.addIssue({ code: 'custom', path: ['initial'], message, input: initial });
    }
  })
  .meta({
    id: 'LevenbergMarquardtLearningRate',
    description:
      'η by how a step does on the next batch: ρ = change of that batch’s mean loss / change that the quadratic model predicted for ' +
      'the step’s own. In layers mode a step that carries previous_losses, the losses of its batch under the parameters before ' +
      'the last step, judges that step; without them η stays',
  });

export const learningRateSchema = z
  .discriminatedUnion('kind', [
    z
      .strictObject({
        kind: z.literal('constant'),
        value: rateSchema.default(10).meta({
          description: 'η > 0: the control metric is R = P/η. With kronecker and feedback, 0.03 to 100 works',
        }),
        warmUpSteps,
      })
      .meta({ id: 'ConstantLearningRate' }),
    z
      .strictObject({
        kind: z.literal('step'),
        value: peakSchema,
        factor: finite.gt(0).lt(1).default(0.1).meta({ description: 'What η is multiplied by' }),
        every: scheduleSteps.meta({ description: 'Steps between two multiplications' }),
        warmUpSteps,
      })
      .meta({ id: 'StepLearningRate', description: 'η · factor^⌊n/every⌋' }),
    z
      .strictObject({
        kind: z.literal('cosine'),
        value: peakSchema,
        final: finalSchema,
        steps: scheduleSteps,
        warmUpSteps,
      })
      .meta({ id: 'CosineLearningRate', description: 'Half a cosine from η to `final` over `steps` steps' }),
    z
      .strictObject({
        kind: z.literal('one-cycle'),
        initial: rateSchema.meta({ description: 'η at the first step' }),
        value: peakSchema,
        final: finalSchema,
        steps: scheduleSteps,
        riseShare: finite.gt(0).lt(1).default(0.3).meta({ description: 'Share of the steps in which η rises' }),
        warmUpSteps,
      })
      .meta({
        id: 'OneCycleLearningRate',
        description: 'Half a cosine up from `initial`, half a cosine down to `final`',
      }),
    z
      .strictObject({
        kind: z.literal('leverage'),
        value: rateSchema
          .default(10)
          .meta({ description: 'c, dimensionless: η = c / running average of the leverage. 1 to 10 suits most nets' }),
        decay: finite.min(0).lt(1).default(0.9).meta({ description: 'Decay of the running average' }),
        // While weights are as small as many begin, the leverage is small, and a step of the whole η far too long.
        warmUpSteps: warmUpSchema.default(10).meta(warmUpMeaning),
      })
      .meta({
        id: 'LeverageLearningRate',
        description: 'η = c / E[mean_i(h_i Σ_t (N_t)_ii / B)], N_t at unit learning rate: one c for every metric',
      }),
    levenbergMarquardtSchema,
  ])
  .meta({ id: 'LearningRate' });

/** What makes a parameter group, in every mode. */
export const groupFields = {
  pattern: z.string().min(1).max(128).meta({
    description: 'Layer name; * stands for any characters. The first group that matches counts',
    example: 'head*',
  }),
  learningRateFactor: finite.gt(0).max(1e6).default(1).meta({ description: 'Multiplies η of these layers' }),
};

const parameterGroupSchema = z
  .strictObject({
    ...groupFields,
    weightDecayFactor: finite
      .min(0)
      .max(1e6)
      .default(1)
      .meta({ description: 'Multiplies the weight decay’s rate λ of these layers; 0 for none' }),
  })
  .meta({ id: 'ParameterGroup' });

const biasesSchema = z.boolean().default(false).meta({
  description: 'Whether bias, scale and shift decay too; weights and a generic layer’s parameters always do',
});

const weightDecaySchema = z
  .discriminatedUnion('kind', [
    z
      .strictObject({
        kind: z.literal('running-cost'),
        rate: finite.min(0).max(1e6).meta({ description: 'λ ≥ 0', example: 0.0001 }),
        biases: biasesSchema,
      })
      .meta({
        id: 'RunningCostWeightDecay',
        description:
          'Running cost ℓ_t = (λ/2)‖u_t‖² of every stage: ℓ_u = λu enters the recursion, ℓ_uu is taken to be part of the control ' +
          'metric R',
      }),
    z
      .strictObject({
        kind: z.literal('decoupled'),
        rate: finite
          .min(0)
          .lt(1)
          .meta({ description: 'λ, the share of a parameter that a step takes away', example: 0.0001 }),
        biases: biasesSchema,
      })
      .meta({
        id: 'DecoupledWeightDecay',
        description:
          'u ← u + δu − λ(η/η_peak)u, beside the recursion and independent of R (Loshchilov & Hutter, 2019); η/η_peak is the ' +
          'schedule’s share of its largest value, 1 without a schedule',
      }),
  ])
  .meta({
    id: 'WeightDecay',
    description:
      'In layers mode each step must then carry the parameters that decay, layers.<name>.parameter.<parameter>',
  });

const lookaheadSchema = z
  .strictObject({
    steps: z.int().min(1).max(100_000).default(5).meta({ description: 'k, fast steps between two synchronisations' }),
    interpolation: finite.gt(0).max(1).default(0.5).meta({ description: 'α; 1 keeps the fast steps as they are' }),
  })
  .meta({
    id: 'Lookahead',
    description: 'After k fast steps φ ← φ + α(θ − φ) and θ ← φ, θ the parameters and φ what they were k steps ago',
  });

const statisticsEverySchema = z
  .int()
  .min(1)
  .max(100_000)
  .default(1)
  .meta({ description: 'Steps between two batches that enter the factors’ averages' });

export const firstInputFactorSchema = z
  .discriminatedUnion('kind', [
    z
      .strictObject({ kind: z.literal('averaged') })
      .meta({ id: 'AveragedInputFactor', description: 'As every other factor' }),
    z
      .strictObject({
        kind: z.literal('frozen'),
        batches: z.int().min(1).max(100_000).default(20).meta({ description: 'Batches that are averaged before' }),
        rank: z
          .int()
          .min(1)
          .max(LIMITS.features)
          .nullable()
          .default(null)
          .meta({ description: 'Eigenvectors that are kept, the largest; null for all' }),
        damping: finite
          .gt(0)
          .max(1e6)
          .default(1)
          .meta({ description: 'Added to the eigenvalues, in mean diagonals of the factor' }),
      })
      .meta({
        id: 'FrozenInputFactor',
        description:
          'Made once from the first batches and kept, like whitening the network’s inputs, which do not change',
      }),
  ])
  .meta({ id: 'FirstInputFactor' });

export const factorDampingSchema = finite
  .gt(0)
  .max(1e6)
  .default(0.01)
  .meta({ description: 'γ, added to the factors with the π split' });

export const factorDecaySchema = finite
  .min(0)
  .lt(1)
  .default(0.95)
  .meta({ description: 'Decay of the moving averages of the factors and moments' });

const refreshEverySchema = z.int().min(1).max(100_000).default(10).meta({
  description: 'Steps between two factorisations of the factors: inversions, or eigendecompositions with ekfac',
});

const refreshLagSchema = z
  .int()
  .min(0)
  .max(100_000)
  .default(0)
  .meta({
    description:
      'Steps between the beginning of a refresh and the step that first uses it, at most refreshEvery. From 1 on the factors are ' +
      'inverted, as they were when it began, after that step has been answered',
  });

const kroneckerMetricSchema = z
  .strictObject({
    kind: z.literal('kronecker'),
    damping: factorDampingSchema,
    decay: factorDecaySchema,
    statisticsEvery: statisticsEverySchema,
    refreshEvery: refreshEverySchema,
    refreshLag: refreshLagSchema,
    firstInputFactor: firstInputFactorSchema
      .default({ kind: 'averaged' })
      .meta({ description: 'The input factor of the first layer, whose inputs are the data' }),
  })
  .superRefine(({ refreshLag, refreshEvery }, context) => {
    if (refreshLag <= refreshEvery) return;
    const message = `it must not exceed refreshEvery, ${String(refreshEvery)}: a refresh ends before the next one begins`;
    context.addIssue({ code: 'custom', path: ['refreshLag'], message, input: refreshLag });
  })
  .meta({
    id: 'KroneckerMetric',
    description: 'P = (A + πγ^½ I) ⊗ (Γ + γ^½/π I): Kronecker-factored curvature (K-FAC)',
  });

const identityMetricSchema = z
  .strictObject({ kind: z.literal('identity') })
  .meta({ id: 'IdentityMetric', description: 'P = I: the metric of gradient descent' });

const epsilonSchema = finite.gt(0).max(1).default(1e-8).meta({ description: 'ε, added to the root of the average' });

const secondMomentSchema = z
  .enum(['mean-gradient', 'per-sample'])
  .default('mean-gradient')
  .meta({
    description:
      'What v averages. mean-gradient: the square of the batch’s mean gradient. per-sample: the mean of the squares of its samples’ ' +
      'gradients, the paper’s E[Q_u ⊙ Q_u], which is larger and never small where samples cancel; it takes a larger η',
  });

const rmspropMetricSchema = z
  .strictObject({
    kind: z.literal('rmsprop'),
    decay: finite.min(0).lt(1).default(0.99).meta({ description: 'Decay of the moving average' }),
    epsilon: epsilonSchema,
    secondMoment: secondMomentSchema,
  })
  .meta({ id: 'RmspropMetric', description: 'P = diag(√v + ε), v the moving average of the squared gradient' });

const adamMetricSchema = z
  .strictObject({
    kind: z.literal('adam'),
    decay: finite.min(0).lt(1).default(0.999).meta({ description: 'β₂, decay of the moving average' }),
    epsilon: epsilonSchema,
    secondMoment: secondMomentSchema,
  })
  .meta({ id: 'AdamMetric', description: 'As rmsprop, with bias correction' });

const ekfacMetricSchema = z
  .strictObject({
    kind: z.literal('ekfac'),
    damping: finite.gt(0).max(1e6).default(0.01).meta({ description: 'γ, added to the second moments' }),
    decay: factorDecaySchema,
    statisticsEvery: statisticsEverySchema,
    refreshEvery: refreshEverySchema,
  })
  .meta({ id: 'EkfacMetric', description: 'Second moments in the eigenbasis of the Kronecker factors' });

const metricSchema = z
  .discriminatedUnion('kind', [
    identityMetricSchema,
    rmspropMetricSchema,
    adamMetricSchema,
    kroneckerMetricSchema,
    ekfacMetricSchema,
  ])
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
    z
      .strictObject({
        kind: z.literal('gauss-newton'),
        columns: z
          .int()
          .min(1)
          .max(LIMITS.curvatureColumns)
          .meta({ description: 'r, columns of S per sample; as many as outputs for the exact Hessian', example: 10 }),
      })
      .meta({ id: 'GaussNewtonCurvature', description: 'φ_xx = S Sᵀ; send the gradients of the r columns too' }),
    z.strictObject({ kind: z.literal('sampled-fisher') }).meta({
      id: 'SampledFisherCurvature',
      description: 'φ_xx ≈ S Sᵀ, S the loss gradient for a label drawn from the prediction; send its gradients too',
    }),
  ])
  .meta({ id: 'TerminalCurvature' });

const couplingSchema = z.enum(['layerwise', 'value', 'gauss-newton-step', 'feedback']).meta({
  id: 'Coupling',
  description:
    'layerwise: every layer by itself. value: the value function couples the layers, one forward pass. gauss-newton-step: each layer also reacts to the linear prediction of what the layers before it change. feedback: DDP proper; ' +
    'the client applies the policy in a second forward pass',
});

const batchCouplingSchema = z.enum(['full', 'diagonal', 'paper-faithful', 'paper-averaged']).meta({
  id: 'BatchCoupling',
  description:
    'full: exact for parameters shared by the batch. diagonal: without cross-sample terms, O(B). For comparison: paper-faithful, the ' +
    'paper’s per-sample recursion to the letter, in which every sample has the control to itself, and paper-averaged, the same ' +
    'with the mean over the batch in V_x and V_xx; both make the metric from what the recursion passes back, and need a learningRate ' +
    'other than the leverage rule',
});

const solverSchema = z
  .strictObject({
    choleskyRows: z.int().min(0).max(65_536).default(512).meta({
      description: 'Rows of the largest system that is factorised; larger ones are solved by conjugate gradients',
    }),
    iterations: z.int().min(1).max(1000).default(10).meta({ description: 'Iterations of conjugate gradients' }),
  })
  .meta({
    id: 'BatchSolver',
    description: 'How S κ = target is solved where the service solves it; a policy always carries the Cholesky factor',
  });

/** What the learning rate and the value function's recursion depend on, in every mode. */
export const recursionFields = {
  terminalCurvature: terminalCurvatureSchema.prefault({ kind: 'gradient' }),
  coupling: couplingSchema.default('feedback'),
  batchCoupling: batchCouplingSchema.default('full'),
  valueRegularization: finite
    .min(0)
    .max(1e6)
    .default(0)
    .meta({ description: 'ε ≥ 0: adds ε G Gᵀ to V_xx, G the back-propagated curvature; larger is more cautious' }),
  solver: solverSchema.prefault({}),
};

interface RecursionOptions {
  readonly terminalCurvature: TerminalCurvature;
  readonly batchCoupling: BatchCoupling;
  readonly valueRegularization: number;
}

/** Combinations that no recursion has. */
export function refuseRecursion(
  { terminalCurvature, batchCoupling, valueRegularization }: RecursionOptions,
  context: z.RefinementCtx,
): void {
  if (batchCoupling !== 'full' && terminalCurvature.kind !== 'gradient') {
    const message = `it takes terminal curvature "gradient", not "${terminalCurvature.kind}"; or batchCoupling "full"`;
    context.addIssue({ code: 'custom', path: ['batchCoupling'], message, input: batchCoupling });
  }
  if (isPaperRecursion(batchCoupling) && valueRegularization > 0) {
    const message = `the ${batchCoupling} recursion has no such regularisation; leave it 0`;
    context.addIssue({ code: 'custom', path: ['valueRegularization'], message, input: valueRegularization });
  }
}

/** Whether it is one of the paper's own recursions, which make the control metric in the backward pass. */
export function isPaperRecursion(batchCoupling: BatchCoupling): boolean {
  return batchCoupling === 'paper-faithful' || batchCoupling === 'paper-averaged';
}

export const optimizerSchema = z
  .strictObject({
    learningRate: learningRateSchema.prefault({ kind: 'leverage' }),
    metric: metricSchema.prefault({ kind: 'kronecker' }),
    ...recursionFields,
    groups: z.array(parameterGroupSchema).max(64).default([]),
    weightDecay: weightDecaySchema.nullable().default(null).meta({ description: 'null for none' }),
    momentum: finite.min(0).lt(1).default(0).meta({
      description: 'μ of v ← μ v + δu, applied in place of δu; with an update reply. 0.9 narrows the range of good η',
    }),
    lookahead: lookaheadSchema
      .nullable()
      .default(null)
      .meta({ description: 'Slow weights (Zhang, Lucas, Hinton & Ba, 2019); null for none; with an update reply' }),
    maximumNorm: finite.gt(0).nullable().default(null).meta({
      description:
        'Largest Euclidean norm of the update over all layers, before decoupled weight decay and lookahead; with an update reply',
    }),
    maximumPredictedDecrease: finite
      .gt(0)
      .nullable()
      .default(null)
      .meta({
        description:
          'Trust region: largest decrease of the mean loss that an update may predict to first order, as a share of that loss; ' +
          'with an update reply',
      }),
  })
  .superRefine((optimizer, context) => {
    const { learningRate, lookahead, weightDecay, groups, batchCoupling } = optimizer;
    refuseRecursion(optimizer, context);
    if (isPaperRecursion(batchCoupling) && learningRate.kind === 'leverage') {
      const message = `with batchCoupling "${batchCoupling}" the metric, and so the leverage, depends on η; take another rule, such as { "kind": "constant", "value": 0.1 }`;
      context.addIssue({ code: 'custom', path: ['learningRate', 'kind'], message, input: learningRate.kind });
    }
    if (lookahead !== null && learningRate.kind === 'levenberg-marquardt') {
      const message =
        'learningRate "levenberg-marquardt" judges what a step predicts, and lookahead takes part of some steps back; use one of them';
      context.addIssue({ code: 'custom', path: ['lookahead'], message, input: lookahead });
    }
    if (weightDecay?.kind !== 'decoupled') return;
    for (const [index, { weightDecayFactor }] of groups.entries()) {
      if (weightDecay.rate * weightDecayFactor < 1) continue;
      const message = `times the decoupled rate, ${String(weightDecay.rate)}, it is not less than 1: the parameters would change sign`;
      const path = ['groups', index, 'weightDecayFactor'];
      context.addIssue({ code: 'custom', path, message, input: weightDecayFactor });
    }
  })
  .meta({ id: 'Optimizer' });

export type Optimizer = z.output<typeof optimizerSchema>;
export type ControlMetric = z.output<typeof metricSchema>;
export type LearningRate = z.output<typeof learningRateSchema>;
export type LevenbergMarquardt = z.output<typeof levenbergMarquardtSchema>;
export type ParameterGroup = z.output<typeof parameterGroupSchema>;
export type Lookahead = z.output<typeof lookaheadSchema>;
export type KroneckerMetric = z.output<typeof kroneckerMetricSchema>;
export type EkfacMetric = z.output<typeof ekfacMetricSchema>;
export type RmspropMetric = z.output<typeof rmspropMetricSchema>;
export type AdamMetric = z.output<typeof adamMetricSchema>;
export type BatchCoupling = z.output<typeof batchCouplingSchema>;
export type BatchSolver = z.output<typeof solverSchema>;
export type TerminalCurvature = z.output<typeof terminalCurvatureSchema>;
export type Coupling = z.output<typeof couplingSchema>;

/** Columns of terminal curvature per sample, r, that a client sends; 0 where the loss gradients are the columns. */
export function sentColumns(curvature: TerminalCurvature): number {
  switch (curvature.kind) {
    case 'gradient':
      return 0;
    case 'sampled-fisher':
      return 1;
    case 'gauss-newton':
      return curvature.columns;
  }
}

/** Whether the step with this sequence number judges the one before it, by the losses that its batch had before that one. */
export function judgesLastStep(rule: LearningRate, step: number): boolean {
  return rule.kind === 'levenberg-marquardt' && step > 0 && step % rule.every === 0;
}
