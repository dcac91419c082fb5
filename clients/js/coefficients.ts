/** The coefficients κ of a layer's policy, as a client solves for them: S κ = target + s. */
import { choleskySolve } from '../../shared/linear-algebra.ts';
import type { TensorValues } from '../../shared/safetensors.ts';
import { TENSOR } from '../../shared/tensor-names.ts';
import { unpackLower } from '../../shared/triangle.ts';
import type { ReplyTensors } from './reply-tensors.ts';

/** How the coefficients κ depend on s; R rows, one per sample with terminal curvature "gradient". */
export type PolicyCoefficients =
  | {
      readonly kind: 'cholesky';
      /** Lower Cholesky factor of S, [R, R]. */
      readonly factor: TensorValues;
      /** The target of S κ = target + s, [R]: 1/h, unless V_xx is regularised or the parameters decay by a running cost. */
      readonly target: TensorValues;
    }
  /** κ = offset + gain ∘ s, all [R]: without cross-sample terms. */
  | { readonly kind: 'diagonal'; readonly gain: TensorValues; readonly offset: TensorValues };

/** κ(s), [R]. @param predictedChange s, [R]; null for 0 */
export function solveCoefficients(
  coefficients: PolicyCoefficients,
  predictedChange: ArrayLike<number> | null,
): Float64Array {
  const rows = (coefficients.kind === 'cholesky' ? coefficients.target : coefficients.offset).length;
  if (predictedChange !== null && predictedChange.length !== rows) {
    throw new RangeError(`predictedChange has ${String(predictedChange.length)} values; the batch has ${String(rows)}`);
  }
  switch (coefficients.kind) {
    case 'cholesky': {
      const { factor, target } = coefficients;
      return choleskySolve(
        factor,
        Float64Array.from(target, (value, i) => value + (predictedChange?.[i] ?? 0)),
      );
    }
    case 'diagonal': {
      const { gain, offset } = coefficients;
      return Float64Array.from(offset, (value, i) => value + (gain[i] ?? 0) * (predictedChange?.[i] ?? 0));
    }
  }
}

/** What a reply with a policy says of a layer's κ. @throws RangeError if it lacks something */
export function readCoefficients(reply: ReplyTensors, layer: string): PolicyCoefficients {
  if (!reply.has(TENSOR.policyCholesky(layer))) {
    const gain = reply.values(TENSOR.policyGain(layer));
    return { kind: 'diagonal', gain, offset: reply.values(TENSOR.policyOffset(layer)) };
  }
  const target = reply.values(TENSOR.policyTarget(layer));
  return { kind: 'cholesky', factor: unpackLower(reply.values(TENSOR.policyCholesky(layer)), target.length), target };
}
