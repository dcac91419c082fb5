/** Trained weights on their way into another framework. */
import type { DownloadedTensor } from '../hosted-session.ts';

/** As `HostedTrainingSession.weights` gives them: by name, `layers.<layer>.<parameter>`. */
export type TrainedWeights = ReadonlyMap<string, DownloadedTensor>;

/** A layer or an arrangement that the other framework has no equal of; the message names it. */
export class InterchangeError extends Error {
  override readonly name = 'InterchangeError';
}

/** In float32. @throws RangeError if it is missing */
export function weightOf(
  weights: TrainedWeights,
  layer: string,
  parameter: string,
): { shape: number[]; values: Float32Array } {
  const name = `layers.${layer}.${parameter}`;
  const tensor = weights.get(name);
  if (tensor === undefined) throw new RangeError(`the weights lack ${name}`);
  return { shape: [...tensor.shape], values: Float32Array.from(tensor.values) };
}
