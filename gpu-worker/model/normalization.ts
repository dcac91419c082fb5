/**
 * Layer norm (Ba, Kiros & Hinton, 2016) and batch norm (Ioffe & Szegedy, 2015) without their affine part, x̂ = (x − μ)/√(v + ε),
 * whose pullback is (g − mean g − x̂ mean(g x̂))/√(v + ε) with the means over what was normalised.
 *
 * Batch statistics tie the samples of a batch together, so that a row of a gradient is no longer that of one sample's own loss
 * alone: row i of the pullback is the gradient in x_i of the sum of that column over the batch. Summed over the batch it is exact,
 * and so is the mean gradient; the split among samples is by input rather than by loss.
 */
import { elementCount } from '../../shared/shape.ts';
import type { Engine, Tensor } from '../tensor/engine.ts';
import type { Differentiable } from './pullback.ts';

/** Mean and variance of every channel, [C] each. */
export interface ChannelStatistics {
  readonly mean: Tensor;
  readonly variance: Tensor;
}

/** [B, …, C] → B, P and C: samples, positions, channels. */
function axes(x: Tensor): readonly [number, number, number] {
  const [batch = 1] = x.shape;
  const channels = x.shape.at(-1) ?? 1;
  const size = elementCount(x.shape);
  return [batch, size / (batch * channels), channels];
}

/** Over the last axis of each sample and position. */
export function layerNorm(engine: Engine, epsilon: number, x: Tensor): Differentiable {
  const { add, divide, multiply, reshape, sqrt, square, subtract, sum } = engine;
  const [B, P, C] = axes(x);
  const mean = (tensor: Tensor): Tensor => {
    const axis = tensor.shape.length - 1;
    return divide(reshape(sum(tensor, axis), tensor.shape.with(axis, 1)), C);
  };
  const { normalised, deviation } = engine.scope(() => {
    const flat = reshape(x, [B, P, C]);
    const centred = subtract(flat, mean(flat));
    const deviation = sqrt(add(mean(square(centred)), epsilon));
    return { normalised: divide(centred, deviation), deviation };
  });
  return {
    value: reshape(normalised, x.shape),
    pullback: (rows) =>
      engine.scope(() => {
        const r = (rows.shape[0] ?? 1) / B;
        const g = reshape(rows, [B, r, P, C]);
        const xHat = reshape(normalised, [B, 1, P, C]);
        const inner = subtract(subtract(g, mean(g)), multiply(xHat, mean(multiply(g, xHat))));
        return reshape(divide(inner, reshape(deviation, [B, 1, P, 1])), rows.shape);
      }),
  };
}

/** By the batch's own statistics: training. */
export function batchNorm(
  engine: Engine,
  epsilon: number,
  x: Tensor,
): Differentiable & { readonly statistics: ChannelStatistics } {
  const { add, divide, multiply, reshape, sqrt, square, subtract, sum } = engine;
  const [B, P, C] = axes(x);
  const { normalised, deviation, mean, variance } = engine.scope(() => {
    const flat = reshape(x, [B * P, C]);
    const channelMean = (tensor: Tensor): Tensor => divide(sum(tensor, 0), B * P);
    const mean = channelMean(flat);
    const centred = subtract(flat, mean);
    const variance = channelMean(square(centred));
    const deviation = sqrt(add(variance, epsilon));
    return { normalised: divide(centred, deviation), deviation, mean, variance };
  });
  return {
    value: reshape(normalised, x.shape),
    statistics: { mean, variance },
    pullback: (rows) =>
      engine.scope(() => {
        const r = (rows.shape[0] ?? 1) / B;
        const g = reshape(rows, [B, r, P, C]);
        const xHat = reshape(normalised, [B, 1, P, C]);
        // Per column and channel, over samples and positions: [B, r, P, C] → [1, r, 1, C].
        const columnMean = (tensor: Tensor): Tensor => divide(reshape(sum(sum(tensor, 0), 1), [1, r, 1, C]), B * P);
        const inner = subtract(subtract(g, columnMean(g)), multiply(xHat, columnMean(multiply(g, xHat))));
        return reshape(divide(inner, deviation), rows.shape);
      }),
  };
}

/** By given statistics: evaluation. */
export function fixedNorm(
  engine: Engine,
  epsilon: number,
  { mean, variance }: ChannelStatistics,
  x: Tensor,
): Differentiable {
  const { add, divide, sqrt, subtract } = engine;
  const deviation = sqrt(add(variance, epsilon));
  return {
    value: engine.scope(() => divide(subtract(x, mean), deviation)),
    pullback: (rows) => divide(rows, deviation),
  };
}
