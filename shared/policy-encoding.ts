/** How the policy of a layer is handed out: by its metric-weighted samples, or by the inverse of its metric. */
import { layerSizes } from './cost.ts';
import type { Layer } from './layer.ts';
import type { ControlMetric, Optimizer } from './optimizer.ts';
import { triangleSize } from './triangle.ts';

type PolicyEncoding = 'sample-factors' | 'inverse-factors';

interface Definition {
  readonly policyEncoding: 'auto' | PolicyEncoding;
  readonly optimizer: Pick<Optimizer, 'metric'>;
}

/** Whether R⁻¹Jᵀκ of a layer is ãᵀ diag(κ) g̃ for some ã and g̃ with one row per sample. */
export function hasSampleFactors(layer: Layer, metric: Pick<ControlMetric, 'kind'>): boolean {
  return layer.kind === 'dense' && !layer.sequence && (metric.kind === 'identity' || metric.kind === 'kronecker');
}

/** Whether the inverse of a layer's metric is two Kronecker factors, which change with a refresh only. */
export function hasInverseFactors(layer: Layer, metric: Pick<ControlMetric, 'kind'>): boolean {
  return metric.kind === 'kronecker' && layer.kind !== 'scale-shift' && layer.kind !== 'generic';
}

/**
 * What a reply carries of a layer: unless the client asks, the smaller one, with inverses counted over the steps between two
 * refreshes.
 *
 * @param batch B
 */
export function policyEncodingOf(
  { policyEncoding, optimizer }: Definition,
  layer: Layer,
  batch: number,
): PolicyEncoding {
  const { metric } = optimizer;
  if (!hasSampleFactors(layer, metric)) return 'inverse-factors';
  if (policyEncoding !== 'auto') return policyEncoding;
  const { inputs, outputs } = layerSizes(layer);
  const perStep =
    metric.kind === 'kronecker' ? (triangleSize(inputs) + triangleSize(outputs)) / metric.refreshEvery : 0;
  return perStep < batch * (inputs + outputs) ? 'inverse-factors' : 'sample-factors';
}

/** Whether a reply can carry inverses that have versions. */
export function hasVersions({ policyEncoding, optimizer }: Definition): boolean {
  return policyEncoding !== 'sample-factors' && optimizer.metric.kind === 'kronecker';
}
