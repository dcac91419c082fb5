/** The statistics of one batch for one parameter block. */
import type { Tensor } from '../../tensor/engine.ts';
import type { PerSampleGradients } from '../layers/per-sample-gradients.ts';

export interface BlockStatistics {
  /** D: gradients of each sample's loss, one row per sample. */
  readonly lossGradients: PerSampleGradients;
  /** ν: what every row of D counts, [B]; null for ones. */
  readonly gradientWeights: Tensor | null;
  /** ℓ_u where it is part of every sample's gradient, [n, c]; else null. */
  readonly costGradient: Tensor | null;
  /** J: gradients of the terminal curvature's columns, r rows per sample. */
  readonly columns: PerSampleGradients;
  /** Weight of every row's square in J, [R]. */
  readonly rowWeights: Tensor;
  /** B. */
  readonly batch: number;
  /** Whether the layer's inputs are the data. */
  readonly isFirstLayer: boolean;
}
