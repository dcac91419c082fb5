/** A step's reply: tensors on the device, and the form in which each goes out. */
import { elementCount } from '../../shared/shape.ts';
import { encode, type NamedTensor, type TensorValues } from '../../shared/safetensors.ts';
import type { StepMetrics } from '../../shared/session.ts';
import { TENSOR } from '../../shared/tensor-names.ts';
import { packLower, packSymmetric, triangleSize } from '../../shared/triangle.ts';
import type { CoefficientSolver } from '../optimizer/ddp/coefficients.ts';
import type { Engine, Tensor } from '../tensor/engine.ts';

export interface ReplyTensor {
  readonly name: string;
  readonly tensor: Tensor;
  /** A matrix [n, n], or a stack of them, goes out as one triangle if the other says nothing. */
  readonly form: 'whole' | 'symmetric' | 'lower';
}

export function whole(name: string, tensor: Tensor): ReplyTensor {
  return { name, tensor, form: 'whole' };
}

/** What a policy's coefficients κ(s) are solved with. */
export function solverTensors(layer: string, solver: CoefficientSolver): ReplyTensor[] {
  switch (solver.kind) {
    case 'cholesky':
      return [
        { name: TENSOR.policyCholesky(layer), tensor: solver.factor, form: 'lower' },
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
): Uint8Array<ArrayBuffer> {
  return encode(
    tensors.map((tensor) => readTensor(engine, tensor)),
    { metrics: JSON.stringify(metrics) },
  );
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
