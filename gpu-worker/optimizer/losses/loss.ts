/** Losses of hosted training, with class and sample weights. One place chooses among their kinds. */
import { ProblemError } from '../../../shared/errors.ts';
import { classCount, type Loss } from '../../../shared/loss.ts';
import type { Engine, Tensor } from '../../tensor/engine.ts';
import type { LossExpansion } from './expansion.ts';
import { logistic } from './logistic.ts';
import { maxMahalanobisCentre } from './max-mahalanobis-centre.ts';
import { multiMargin } from './multi-margin.ts';
import { softmaxCrossEntropy } from './softmax-cross-entropy.ts';
import { squaredError } from './squared-error.ts';

/** What the network should have answered, on the host. */
export interface Truth {
  /** Labels [B], or targets [B, C] row-major, as the loss takes. */
  readonly values: ArrayLike<number>;
  /** c ≥ 0, [B]: multiplies each sample's loss; null for ones. The mean stays one over B, not over Σ c. */
  readonly sampleWeights: ArrayLike<number> | null;
}

/**
 * The loss expanded at the output.
 *
 * @param output x_T, [B, C]
 * @throws ProblemError `invalid_parameter` if a label is none
 */
export function expandLoss(engine: Engine, loss: Loss, output: Tensor, truth: Truth): LossExpansion {
  const labels = (): Tensor => oneHotLabels(engine, loss, output, truth.values);
  const targets = (): Tensor => engine.tensor(truth.values, output.shape);
  const weights = sampleWeights(loss, truth);
  const weighted = (expansion: LossExpansion): LossExpansion =>
    weights === null ? expansion : weigh(engine, expansion, engine.tensor(weights, [weights.length]));
  switch (loss.kind) {
    case 'softmax-cross-entropy':
      return weighted(softmaxCrossEntropy(engine, loss, output, labels()));
    case 'mse':
      return weighted(squaredError(engine, output, targets()));
    case 'logistic':
      return weighted(logistic(engine, loss, output, targets()));
    case 'multi-margin':
      return weighted(multiMargin(engine, loss, output, labels()));
    case 'max-mahalanobis-centre':
      return weighted(maxMahalanobisCentre(engine, loss, output, labels()));
  }
}

/** c_i times the weight of the sample's class, [B]; null where all are 1. */
function sampleWeights(loss: Loss, { values, sampleWeights: given }: Truth): Float64Array | null {
  // The logistic loss weighs its outputs itself.
  const perClass = loss.kind === 'mse' || loss.kind === 'logistic' ? null : loss.classWeights;
  if (perClass === null) return given === null ? null : Float64Array.from(given);
  return Float64Array.from(values, (label, i) => (perClass[label] ?? Number.NaN) * (given?.[i] ?? 1));
}

/** φ → cφ: gradients times c, factors of the curvature times √c. */
function weigh(engine: Engine, expansion: LossExpansion, weights: Tensor): LossExpansion {
  const { multiply, reshape, sqrt } = engine;
  const [batch = 1] = weights.shape;
  const roots = sqrt(weights);
  return {
    values: multiply(expansion.values, weights),
    gradient: multiply(expansion.gradient, reshape(weights, [batch, 1])),
    factor: () => multiply(expansion.factor(), reshape(roots, [batch, 1, 1])),
    sampledGradient: (random) => multiply(expansion.sampledGradient(random), reshape(roots, [batch, 1])),
  };
}

/** [B] of labels → [B, L] of zeros and ones. */
function oneHotLabels(engine: Engine, loss: Loss, output: Tensor, labels: ArrayLike<number>): Tensor {
  const [batch = 0, outputs = 0] = output.shape;
  const classes = classCount(loss, outputs);
  const result = new Float32Array(batch * classes);
  for (let i = 0; i < batch; i++) {
    const label = labels[i];
    if (label === undefined || !Number.isInteger(label) || label < 0 || label >= classes) {
      throw new ProblemError('invalid_parameter', {
        param: `y[${String(i)}]`,
        detail: `The label is ${String(label)}; the loss knows the whole numbers from 0 to ${String(classes - 1)}.`,
        remedy: 'Send labels that count from 0, one per sample.',
      });
    }
    result[i * classes + label] = 1;
  }
  return engine.tensor(result, [batch, classes]);
}
