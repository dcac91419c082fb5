/**
 * Weight decay. As a running cost ℓ_t = (λ/2)‖u_t‖² its gradient λu enters the recursion; decoupled (Loshchilov & Hutter,
 * "Decoupled Weight Decay Regularization", ICLR 2019) λu times the schedule's multiplier is taken away beside it.
 */
import type { Layer } from '../../../shared/layer.ts';
import type { Optimizer } from '../../../shared/optimizer.ts';
import { weightDecayRate } from '../../../shared/parameter-groups.ts';
import { decayingParameters } from '../../../shared/step.ts';
import type { Engine, Tensor } from '../../tensor/engine.ts';
import { parameterMatrices } from '../layers/layer.ts';
import type { LayerParameters } from '../layers/parameter-changes.ts';
import { scheduleMultiplier } from './learning-rate.ts';

/** What decays in one layer, λu per parameter block [n, c], 0 where a parameter does not decay; null where nothing does. */
export interface LayerDecay {
  /** ℓ_u = λu. */
  readonly costGradients: readonly Tensor[] | null;
  /** λ(η/η_peak)u. */
  readonly decoupled: readonly Tensor[] | null;
}

/** @param step sequence number of this step */
export function layerDecay(
  engine: Engine,
  optimizer: Optimizer,
  layer: Layer,
  parameters: LayerParameters,
  step: number,
): LayerDecay {
  const { weightDecay, learningRate } = optimizer;
  const names = decayingParameters(optimizer, layer);
  if (weightDecay === null || names.length === 0) return { costGradients: null, decoupled: null };
  const decaying = Object.fromEntries(names.map((name) => [name, parameters[name]]));
  const rate = weightDecayRate(optimizer, layer.name);
  const times = (factor: number): Tensor[] =>
    parameterMatrices(engine, layer, decaying).map((matrix) => engine.multiply(matrix, factor));
  switch (weightDecay.kind) {
    case 'running-cost':
      return { costGradients: times(rate), decoupled: null };
    case 'decoupled':
      return { costGradients: null, decoupled: times(rate * scheduleMultiplier(learningRate, step)) };
  }
}
