/** A step's reply: tensors on the device, and the form in which each goes out. */
import { fitsBfloat16, fitsFloat16 } from '../../shared/half-precision.ts';
import { elementCount } from '../../shared/shape.ts';
import { encode, type NamedTensor, type TensorValues } from '../../shared/safetensors.ts';
import type { StepMetrics } from '../../shared/session.ts';
import { TENSOR } from '../../shared/tensor-names.ts';
import type { ReplyPrecision } from '../../shared/transport.ts';
import { packLower, packSymmetric, triangleSize } from '../../shared/triangle.ts';
import type { CoefficientSolver } from '../optimizer/ddp/coefficients.ts';
import type { Engine, Tensor } from '../tensor/engine.ts';

export interface ReplyTensor {
  readonly name: string;
  readonly tensor: Tensor;
  /** A matrix [n, n], or a stack of them, goes out as one triangle if the other says nothing. */
  readonly form: 'whole' | 'symmetric' | 'lower';
  /** Whether the client may ask for fewer digits of it: nothing is solved with it. */
  readonly isNarrowed: boolean;
}

export function whole(name: string, tensor: Tensor): ReplyTensor {
  return { name, tensor, form: 'whole', isNarrowed: false };
}

/** As {@link whole}, of fewer digits if the client asks. */
export function narrowed(name: string, tensor: Tensor): ReplyTensor {
  return { name, tensor, form: 'whole', isNarrowed: true };
}

/** A symmetric matrix [n, n], or several along a first axis of their own. */
export function symmetricBlocks(engine: Engine, name: string, matrices: readonly Tensor[]): ReplyTensor {
  return { name, tensor: stack(engine, matrices), form: 'symmetric', isNarrowed: false };
}

function stack(engine: Engine, matrices: readonly Tensor[]): Tensor {
  const [first] = matrices;
  if (matrices.length === 1 && first !== undefined) return first;
  return engine.concat(
    matrices.map((matrix) => engine.reshape(matrix, [1, ...matrix.shape])),
    0,
  );
}

/** What a policy's coefficients κ(s) are solved with. */
export function solverTensors(layer: string, solver: CoefficientSolver): ReplyTensor[] {
  switch (solver.kind) {
    case 'cholesky':
      return [
        { name: TENSOR.policyCholesky(layer), tensor: solver.factor, form: 'lower', isNarrowed: false },
        whole(TENSOR.policyTarget(layer), solver.target),
      ];
    case 'diagonal':
      return [whole(TENSOR.policyGain(layer), solver.gain), whole(TENSOR.policyOffset(layer), solver.offset)];
    case 'conjugate-gradient':
      throw new TypeError('a policy is handed out with its Cholesky factor');
  }
}

/** The body of a reply: its tensors, and the step's metrics in `__metadata__`. */
export function encodeReply(
  engine: Engine,
  tensors: readonly ReplyTensor[],
  metrics: StepMetrics,
  precision: ReplyPrecision,
): Uint8Array<ArrayBuffer> {
  const named = tensors.map((tensor) => {
    const read = readTensor(engine, tensor);
    return tensor.isNarrowed ? inPrecision(read, precision) : read;
  });
  return encode(named, { metrics: JSON.stringify(metrics) });
}

/** A tensor in the element type that a client asks for; in full where its numbers have no finite one. */
export function inPrecision(tensor: NamedTensor, precision: ReplyPrecision): NamedTensor {
  switch (precision) {
    case 'full':
      return tensor;
    case 'f16':
      return fitsFloat16(tensor.values) ? { ...tensor, dtype: 'F16' } : tensor;
    case 'bf16':
      return fitsBfloat16(tensor.values) ? { ...tensor, dtype: 'BF16' } : tensor;
    case 'int8':
      return { ...tensor, dtype: 'I8' };
  }
}

function readTensor(engine: Engine, { name, tensor, form }: ReplyTensor): NamedTensor {
  const values = engine.read(tensor);
  if (form === 'whole') return { name, shape: tensor.shape, values };
  const n = tensor.shape.at(-1) ?? 0;
  const stacked = tensor.shape.slice(0, -2);
  const pack = form === 'symmetric' ? packSymmetric : packLower;
  return { name, shape: [...stacked, triangleSize(n)], values: packAll(values, n, elementCount(stacked), pack) };
}

function packAll(
  values: TensorValues,
  n: number,
  count: number,
  pack: (matrix: TensorValues, n: number) => TensorValues,
): TensorValues {
  if (count === 1) return pack(values, n);
  const packed = new (values instanceof Float64Array ? Float64Array : Float32Array)(count * triangleSize(n));
  for (let index = 0; index < count; index++) {
    packed.set(pack(values.subarray(index * n * n, (index + 1) * n * n), n), index * triangleSize(n));
  }
  return packed;
}
