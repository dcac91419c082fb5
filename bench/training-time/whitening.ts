/** Inputs whitened once, as somebody would before training anything on them. */
import type { LabelledData } from '../../clients/datasets/digits/digits.ts';
import type { Engine } from '../../gpu-worker/tensor/engine.ts';

export interface Whitening {
  readonly rank: number;
  /** Added to the eigenvalues, in mean eigenvalues. */
  readonly damping: number;
}

/** x ↦ (x − mean) U (Λ + dI)^−½ of the largest eigenvalues of the samples' covariance. */
export interface WhiteningMap {
  readonly apply: (data: LabelledData) => LabelledData;
}

export function fitWhitening(engine: Engine, data: LabelledData, { rank, damping }: Whitening): WhiteningMap {
  const { size, features } = data;
  const { mean, transform } = engine.scope(() => {
    const { add, divide, eigenSymmetric, matMul, maximum, multiply, reshape, slice, sqrt, subtract, sum } = engine;
    const samples = engine.tensor(data.inputs, [size, features]);
    const average = divide(sum(samples, 0), size);
    const centred = subtract(samples, average);
    const covariance = divide(matMul(centred, centred, { transposeLeft: true }), size);
    const { values, vectors } = eigenSymmetric(covariance);
    const largest = maximum(slice(values, 0, features - rank, rank), 0);
    const damped = add(largest, multiply(divide(sum(values, 0), features), damping));
    const kept = slice(vectors, 1, features - rank, rank);
    const root = divide(kept, sqrt(reshape(damped, [1, rank])));
    engine.evaluate([average, root]);
    return { mean: engine.read(average), transform: engine.read(root) };
  });
  return {
    apply: ({ inputs, size: samples, ...rest }) => ({
      ...rest,
      size: samples,
      features: rank,
      inputs: engine.scope(() => {
        const shift = engine.tensor(mean, [features]);
        const matrix = engine.tensor(transform, [features, rank]);
        const centred = engine.subtract(engine.tensor(inputs, [samples, features]), shift);
        return Float32Array.from(engine.read(engine.matMul(centred, matrix)));
      }),
    }),
  };
}
