/**
 * The systems of a batch, solved at the edge in float64: what the worker computes on its tensor engine, written plainly.
 *
 *     S_t = B·H⁻¹ + Σ_{τ ≥ t} η N_τ,   S_t κ_t = 1/h + s_t,   s_t = 0 or −Σ_{τ < t} η N_τ κ_τ
 */
import { at } from '../../shared/at.ts';
import { ProblemError } from '../../shared/errors.ts';
import { SOLVE_TENSOR, type DecodedSolve, type KernelSolveOptions } from '../../shared/kernel-solve.ts';
import { cholesky, choleskySolve } from '../../shared/linear-algebra.ts';
import type { NamedTensor, TensorValues } from '../../shared/safetensors.ts';
import { terminalWeights } from '../../shared/terminal-weights.ts';
import { packLower, triangleSize, unpackSymmetric } from '../../shared/triangle.ts';

/** @returns the tensors of the reply, F64 where the kernels are, else F32. @throws ProblemError `numerical_failure` */
export function solveKernels(decoded: DecodedSolve, options: KernelSolveOptions): NamedTensor[] {
  const { batch: B, stages, losses, grams } = decoded;
  const { learningRate, coupling, reply, lossFloor: floor, lossCeiling: ceiling } = options;
  const h = terminalWeights(losses, { kind: 'gradient', lossScale: { floor, ceiling } });
  const target: Float64Array = h.map((weight) => 1 / weight);
  const factors = factorise(decoded, h, learningRate, coupling === 'layerwise');

  const asSent = (values: Float64Array): TensorValues =>
    grams[0] instanceof Float64Array ? values : Float32Array.from(values);
  if (reply === 'factors') {
    const packed = new Float64Array(stages * triangleSize(B));
    factors.forEach((factor, t) => {
      packed.set(packLower(factor, B), t * triangleSize(B));
    });
    return [
      { name: SOLVE_TENSOR.cholesky, shape: [stages, triangleSize(B)], values: asSent(packed) },
      { name: SOLVE_TENSOR.target, shape: [B], values: asSent(target) },
    ];
  }
  const kappas = new Float64Array(stages * B);
  let rightHandSide: Float64Array = target;
  for (const [t, factor] of factors.entries()) {
    const kappa = choleskySolve(factor, rightHandSide);
    kappas.set(kappa, t * B);
    if (coupling === 'gauss-newton-step') rightHandSide = lessProduct(rightHandSide, at(grams, t), kappa, learningRate);
  }
  return [{ name: SOLVE_TENSOR.coefficients, shape: [stages, B], values: asSent(kappas) }];
}

/** The Cholesky factors of S_t, in the order of the forward pass. */
function factorise(
  { batch: B, grams }: DecodedSolve,
  h: Float64Array,
  learningRate: number,
  isLayerwise: boolean,
): Float64Array[] {
  const terminal = new Float64Array(B * B);
  for (const [i, weight] of h.entries()) terminal[i * B + i] = B / weight;
  const factors: Float64Array[] = [];
  let S: Float64Array = terminal;
  for (let t = grams.length - 1; t >= 0; t--) {
    const N = unpackSymmetric(at(grams, t), B);
    const later = isLayerwise ? terminal : S;
    S = later.map((value, index) => value + learningRate * (N[index] ?? Number.NaN));
    const factor = cholesky(S, B);
    if (factor === null) throw notPositiveDefinite(t);
    factors.unshift(factor);
  }
  return factors;
}

/** b − η N κ for a packed symmetric N. */
function lessProduct(b: Float64Array, packed: TensorValues, kappa: Float64Array, eta: number): Float64Array {
  const n = kappa.length;
  const N = unpackSymmetric(packed, n);
  return b.map((value, i) => {
    let sum = 0;
    for (let j = 0; j < n; j++) sum += (N[i * n + j] ?? Number.NaN) * (kappa[j] ?? Number.NaN);
    return value - eta * sum;
  });
}

function notPositiveDefinite(stage: number): ProblemError {
  return new ProblemError('numerical_failure', {
    param: SOLVE_TENSOR.grams,
    detail: `The system S of stage ${String(stage)} is not positive definite in float64.`,
    remedy: 'N must be positive semidefinite, J P⁻¹ Jᵀ of the same samples in every stage; check it and its scale.',
  });
}
