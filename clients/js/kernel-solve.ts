/** POST /v1/kernel/solve: systems of one batch, without a session. */
import { SOLVE_TENSOR, type KernelSolveOptions } from '../../shared/kernel-solve.ts';
import { encode, SAFETENSORS_CONTENT_TYPE, type TensorValues } from '../../shared/safetensors.ts';
import { packSymmetric, triangleSize, unpackLower } from '../../shared/triangle.ts';
import { ReplyTensors } from './reply-tensors.ts';
import { complete, type RequestOptions, type Transport } from './transport.ts';

/** One batch; row-major. */
export interface KernelBatchInput {
  /** The loss of each sample, [B]. */
  readonly losses: TensorValues;
  /** N = J P⁻¹ Jᵀ of every layer in the order of the forward pass, [B, B], without the learning rate; all of one element type. */
  readonly grams: readonly TensorValues[];
}

/** Per layer κ, [B]; or L, [B, B], and the target, [B], of L Lᵀ κ = target + s. */
export type SolvedKernels =
  | { readonly kind: 'coefficients'; readonly coefficients: readonly TensorValues[] }
  | { readonly kind: 'factors'; readonly factors: readonly TensorValues[]; readonly target: TensorValues };

/** @throws DdpnoptError, ConnectionError; RangeError if a kernel is not B×B */
export async function solveKernels(
  transport: Transport,
  { losses, grams }: KernelBatchInput,
  settings: Partial<KernelSolveOptions>,
  options: RequestOptions,
): Promise<SolvedKernels> {
  const B = losses.length;
  const size = triangleSize(B);
  const packed = new (grams[0] instanceof Float64Array ? Float64Array : Float32Array)(grams.length * size);
  for (const [t, gram] of grams.entries()) {
    if (gram.length !== B * B) {
      throw new RangeError(
        `kernel ${String(t)} has ${String(gram.length)} values; ${String(B)}×${String(B)} were expected`,
      );
    }
    packed.set(packSymmetric(gram, B), t * size);
  }
  const content = encode([
    { name: SOLVE_TENSOR.losses, shape: [B], values: losses },
    { name: SOLVE_TENSOR.grams, shape: [grams.length, size], values: packed },
  ]);
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(settings)) query.set(name, String(value));
  const path = `v1/kernel/solve?${query.toString()}`;
  const body = { contentType: SAFETENSORS_CONTENT_TYPE, content, isRepeatable: true };
  const answer = await transport.request('POST', path, options, body);
  return complete(async () => {
    const reply = new ReplyTensors(new Uint8Array(await answer.arrayBuffer()));
    const rows = (name: string, width: number): TensorValues[] =>
      grams.map((_, t) => reply.values(name).subarray(t * width, (t + 1) * width));
    if (settings.reply !== 'factors') return { kind: 'coefficients', coefficients: rows(SOLVE_TENSOR.coefficients, B) };
    const factors = rows(SOLVE_TENSOR.cholesky, size).map((factor) => unpackLower(factor, B));
    return { kind: 'factors', factors, target: reply.values(SOLVE_TENSOR.target) };
  });
}
