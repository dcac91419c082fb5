/** The losses of hosted training. Every option's default, range and meaning stands here. */
import * as z from 'zod';
import { LIMITS } from './limits.ts';
import type { TerminalCurvature } from './optimizer.ts';

const finite = z.number().meta({ description: 'A finite number' });

const weightsSchema = (meaning: string): z.ZodDefault<z.ZodNullable<z.ZodArray<z.ZodNumber>>> =>
  z.array(finite.min(0).max(1e6)).min(1).max(LIMITS.features).nullable().default(null).meta({ description: meaning });

const classWeightsSchema = weightsSchema(
  'One weight per class: it multiplies the loss of that class’s samples; null for 1',
);

const softmaxCrossEntropySchema = z
  .strictObject({
    kind: z.literal('softmax-cross-entropy'),
    labelSmoothing: finite
      .min(0)
      .lt(1)
      .default(0)
      .meta({ description: 'ε: the target is (1 − ε)·label + ε/C, C the number of classes' }),
    classWeights: classWeightsSchema,
  })
  .meta({
    id: 'SoftmaxCrossEntropyLoss',
    description: 'φ = −Σ_k t_k log p_k, p the softmax of the C outputs; y: labels',
  });

const meanSquaredErrorSchema = z
  .strictObject({ kind: z.literal('mse') })
  .meta({ id: 'MeanSquaredErrorLoss', description: 'φ = ½ ‖ŷ − y‖² per sample; y: targets' });

const logisticSchema = z
  .strictObject({
    kind: z.literal('logistic'),
    classWeights: weightsSchema('One weight per output: it multiplies that output’s cross-entropy; null for 1'),
  })
  .meta({
    id: 'LogisticLoss',
    description: 'φ = Σ_k ω_k (log(1 + e^z_k) − y_k z_k): binary cross-entropy of every output; y: targets from 0 to 1',
  });

const multiMarginSchema = z
  .strictObject({
    kind: z.literal('multi-margin'),
    margin: finite.gt(0).max(1e6).default(1).meta({ description: 'm, what the label’s output must lead by' }),
    power: z
      .union([z.literal(1), z.literal(2)])
      .default(2)
      .meta({
        description:
          '2 squares the hinge. The hinge itself, 1, is piecewise linear: it has no curvature of its own, so it takes ' +
          'terminal curvature "gradient" only',
      }),
    classWeights: classWeightsSchema,
  })
  .meta({ id: 'MultiMarginLoss', description: 'φ = (1/C) Σ_{k≠y} max(0, m − z_y + z_k)^power; y: labels' });

const maxMahalanobisCentreSchema = z
  .strictObject({
    kind: z.literal('max-mahalanobis-centre'),
    classes: z
      .int()
      .min(2)
      .max(LIMITS.centreClasses)
      .meta({ description: 'L, at most one more than outputs', example: 10 }),
    scale: finite.gt(0).max(1e6).default(10).meta({ description: 'C_MM, the length of every centre' }),
    classWeights: classWeightsSchema,
  })
  .meta({
    id: 'MaxMahalanobisCentreLoss',
    description:
      'φ = ½ ‖x_T − μ_y‖², the centres μ of one length and as far apart as L points can be (Pang et al., 2020); y: labels',
  });

export const lossSchema = z
  .discriminatedUnion('kind', [
    softmaxCrossEntropySchema,
    meanSquaredErrorSchema,
    logisticSchema,
    multiMarginSchema,
    maxMahalanobisCentreSchema,
  ])
  .meta({ id: 'Loss', description: 'φ, the loss of one sample; training minimises its mean over the batch' });

export type Loss = z.output<typeof lossSchema>;
export type LossInput = z.input<typeof lossSchema>;
export type SoftmaxCrossEntropy = z.output<typeof softmaxCrossEntropySchema>;
export type Logistic = z.output<typeof logisticSchema>;
export type MultiMargin = z.output<typeof multiMarginSchema>;
export type MaxMahalanobisCentre = z.output<typeof maxMahalanobisCentreSchema>;

/** Whether y is one label per sample, [B], or C targets, [B, C]. */
export function truthKind(loss: Loss): 'labels' | 'targets' {
  return loss.kind === 'mse' || loss.kind === 'logistic' ? 'targets' : 'labels';
}

/** How many labels a loss tells apart, for a network with this many outputs. */
export function classCount(loss: Loss, outputs: number): number {
  return loss.kind === 'max-mahalanobis-centre' ? loss.classes : outputs;
}

/** What is wrong with a loss on a network of so many outputs with this terminal curvature, by field; empty if nothing is. */
export function lossProblems(
  loss: Loss,
  outputs: number,
  curvature: TerminalCurvature,
): { readonly path: readonly string[]; readonly message: string }[] {
  const problems = [];
  if (loss.kind === 'max-mahalanobis-centre' && loss.classes > outputs + 1) {
    const message = `${String(loss.classes)} centres do not fit into ${String(outputs)} outputs; at most ${String(outputs + 1)} do. Give the last layer more outputs`;
    problems.push({ path: ['loss', 'classes'], message });
  }
  if (loss.kind === 'max-mahalanobis-centre' && loss.classes * outputs > LIMITS.centreNumbers) {
    const message = `${String(loss.classes)} centres of ${String(outputs)} numbers are too many; at most ${String(LIMITS.centreNumbers)} numbers are held`;
    problems.push({ path: ['loss', 'classes'], message });
  }
  const classes = classCount(loss, outputs);
  if (loss.kind !== 'mse' && loss.classWeights !== null && loss.classWeights.length !== classes) {
    const message = `there are ${String(loss.classWeights.length)} weights for ${String(classes)} ${loss.kind === 'logistic' ? 'outputs' : 'classes'}; give one for each, or null`;
    problems.push({ path: ['loss', 'classWeights'], message });
  }
  if (loss.kind === 'multi-margin' && loss.power === 1 && curvature.kind !== 'gradient') {
    const message = 'the plain hinge has no curvature of its own; take power 2, or terminal curvature "gradient"';
    problems.push({ path: ['loss', 'power'], message });
  }
  if (curvature.kind === 'gauss-newton' && curvature.columns !== outputs) {
    const message = `a hosted model takes the exact Hessian, with as many columns as the network has outputs: ${String(outputs)}`;
    problems.push({ path: ['optimizer', 'terminalCurvature', 'columns'], message });
  }
  return problems;
}
