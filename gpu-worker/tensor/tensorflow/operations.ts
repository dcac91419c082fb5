/**
 * The seam on TensorFlow: float32, with factorisations in float64.
 *
 * Every operation of the seam is a few operations of TensorFlow, none of which waits for values on the host; the same calls
 * therefore compute at once and, recorded, make a graph.
 */
import type { WindowGeometry } from '../../../shared/convolution.ts';
import { tensorsIn, type Engine, type Operand, type Tensor } from '../engine.ts';
import type { Compile } from '../deferred/programs.ts';
import { boolean, FLOAT32, integer, integerList, LOGICAL_REDUCTION, RESHAPE, SLICE, text, type } from './attributes.ts';
import { DATA_TYPES, type Attribute, type TensorFlowBinding } from './binding.ts';
import { graphCompiler } from './graph-compiler.ts';
import { allFinite, tensorflowLinearAlgebra } from './linear-algebra.ts';
import { hasOpenblas, openblas } from './openblas.ts';
import { made, own, TensorFlowTensor } from './tensor.ts';
import { TensorFlowTensors } from './tensors.ts';

const { float32, int32 } = DATA_TYPES;

const REDUCTION = [type('T', float32), type('Tidx', int32), boolean('keep_dims', false)];
const TRANSPOSE = [type('T', float32), type('Tperm', int32)];
const STRIDED_SLICE = [
  ...SLICE[float32],
  ...['begin_mask', 'end_mask', 'ellipsis_mask', 'new_axis_mask', 'shrink_axis_mask'].map((name) => integer(name, 0)),
];
const FILL_FLOAT32 = [type('T', float32), type('index_type', int32)];
const PAD = [type('T', float32), type('Tpaddings', int32)];
const FROM_BOOL = [type('SrcT', DATA_TYPES.bool), type('DstT', float32), boolean('Truncate', false)];
const REVERSE = [type('T', float32), type('Tidx', int32)];

const alongImage = (rows: number, columns: number): readonly number[] => [1, rows, columns, 1];

/** What convolutions and pooling have in common. */
function windowAttributes({ rows, columns }: WindowGeometry): Attribute[] {
  const padding = [0, 0, ...rows.padding, ...columns.padding, 0, 0];
  const isPadded = padding.some((zeros) => zeros > 0);
  return [
    ...FLOAT32,
    text('data_format', 'NHWC'),
    integerList('strides', alongImage(rows.stride, columns.stride)),
    text('padding', isPadded ? 'EXPLICIT' : 'VALID'),
    integerList('explicit_paddings', isPadded ? padding : []),
  ];
}

function convolutionAttributes(window: WindowGeometry): Attribute[] {
  const { rows, columns } = window;
  return [...windowAttributes(window), integerList('dilations', alongImage(rows.dilation, columns.dilation)), boolean('use_cudnn_on_gpu', true)]; // prettier-ignore
}

function poolAttributes(window: WindowGeometry): Attribute[] {
  const { rows, columns } = window;
  return [...windowAttributes(window), integerList('ksize', alongImage(rows.kernel, columns.kernel))];
}

const isTensor = (value: object): value is Tensor => value instanceof TensorFlowTensor;

export interface TensorFlowEngine {
  /** Computes operation by operation. */
  readonly engine: Engine;
  /** Makes a graph of a computation on it. */
  readonly compile: Compile;
}

/** @param linearAlgebra OpenBLAS's unless the binding is without it or the device is a GPU */
export function createTensorFlowEngine(
  binding: TensorFlowBinding,
  linearAlgebra: 'openblas' | 'tensorflow' = hasOpenblas(binding) ? 'openblas' : 'tensorflow',
): TensorFlowEngine {
  const tensors = new TensorFlowTensors(binding);
  const matrices = linearAlgebra === 'openblas' ? openblas(tensors) : tensorflowLinearAlgebra(tensors);
  const execute = tensors.execute.bind(tensors);

  const number = (value: number): TensorFlowTensor => tensors.constant([value], [], float32);
  const integers = (values: readonly number[]): TensorFlowTensor => tensors.constant(values, [values.length], int32);
  const pairs = (values: readonly (readonly [number, number])[]): TensorFlowTensor =>
    tensors.constant(values.flat(), [values.length, 2], int32);
  const axisOf = (axis: number): TensorFlowTensor => tensors.constant([axis], [], int32);
  const operand = (value: Operand): TensorFlowTensor => (typeof value === 'number' ? number(value) : own(value));
  const binary = (operation: string) => (left: Operand, right: Operand) =>
    made(execute(operation, FLOAT32, operand(left), operand(right)));
  const unary = (operation: string) => (tensor: Tensor) => made(execute(operation, FLOAT32, own(tensor)));
  const reduction = (operation: string) => (tensor: Tensor, axis: number) =>
    made(execute(operation, REDUCTION, own(tensor), axisOf(axis)));

  /** Several operations as one: what they make on the way is freed. */
  const composed = (compute: () => TensorFlowTensor): Tensor => made(tensors.scope(compute, (result) => [result]));

  const reshaped = (tensor: TensorFlowTensor, shape: readonly number[]): TensorFlowTensor =>
    execute('Reshape', RESHAPE[float32], tensor, integers(shape));

  const isFinite = (list: readonly Tensor[]): TensorFlowTensor => {
    if (list.length === 0) return execute('Identity', FLOAT32, number(1));
    const packing = [type('T', DATA_TYPES.bool), integer('N', list.length), integer('axis', 0)];
    const flags = execute('Pack', packing, ...list.map((tensor) => allFinite(tensors, own(tensor))));
    return execute('Cast', FROM_BOOL, execute('All', LOGICAL_REDUCTION, flags, integers([0])));
  };

  const engine: Engine = {
    name: 'tensorflow',
    precision: 'float32',
    tensor: (values, shape) => made(tensors.upload(new Float32Array(values), shape)),
    read: (tensor) => tensors.read(own(tensor)) as Float32Array<ArrayBuffer>,
    add: binary('AddV2'),
    subtract: binary('Sub'),
    multiply: binary('Mul'),
    divide: binary('RealDiv'),
    minimum: binary('Minimum'),
    maximum: binary('Maximum'),
    sqrt: unary('Sqrt'),
    square: unary('Square'),
    matMul: (left, right, product = {}) => {
      const { transposeLeft = false, transposeRight = false } = product;
      if (left.shape.length > 2) {
        const attributes = [...FLOAT32, boolean('adj_x', transposeLeft), boolean('adj_y', transposeRight)];
        return made(execute('BatchMatMulV2', attributes, own(left), own(right)));
      }
      if (left === right && transposeLeft !== transposeRight) return matrices.gram(left, transposeLeft);
      return matrices.product(left, right, product);
    },
    sum: reduction('Sum'),
    reshape: (tensor, shape) => made(reshaped(own(tensor), shape)),
    appendOnes: (tensor) => {
      const last = tensor.shape.length - 1;
      const paddings = tensor.shape.map((_, axis): [number, number] => [0, axis === last ? 1 : 0]);
      return made(execute('PadV2', PAD, own(tensor), pairs(paddings), number(1)));
    },
    transpose: (tensor, axes) => made(execute('Transpose', TRANSPOSE, own(tensor), integers(axes))),
    slice: (tensor, axis, begin, size) => {
      const from = tensor.shape.map((_, index) => (index === axis ? begin : 0));
      return made(
        execute('Slice', SLICE[float32], own(tensor), integers(from), integers(tensor.shape.with(axis, size))),
      );
    },
    stride: (tensor, axis, begin, size, stride) => {
      const from = tensor.shape.map((_, index) => (index === axis ? begin : 0));
      const end = tensor.shape.with(axis, begin + (size - 1) * stride + 1);
      const steps = tensor.shape.map((_, index) => (index === axis ? stride : 1));
      return made(execute('StridedSlice', STRIDED_SLICE, own(tensor), integers(from), integers(end), integers(steps)));
    },
    concat: (parts, axis) => {
      const [only] = parts;
      if (parts.length === 1 && only !== undefined) return unary('Identity')(only);
      const attributes = [...FLOAT32, type('Tidx', int32), integer('N', parts.length)];
      return made(execute('ConcatV2', attributes, ...parts.map(own), axisOf(axis)));
    },
    pad: (tensor, paddings) => made(execute('PadV2', PAD, own(tensor), pairs(paddings), number(0))),
    reverse: (tensor, axis) => made(execute('ReverseV2', REVERSE, own(tensor), integers([axis]))),
    convolution: (images, kernel, window) =>
      made(execute('Conv2D', convolutionAttributes(window), own(images), own(kernel))),
    maxPool: (images, window) => made(execute('MaxPool', poolAttributes(window), own(images))),
    maxPoolGradient: (images, largest, gradient, window) =>
      made(execute('MaxPoolGrad', poolAttributes(window), own(images), own(largest), own(gradient))),
    exp: unary('Exp'),
    log: unary('Log'),
    tanh: unary('Tanh'),
    sigmoid: unary('Sigmoid'),
    softplus: unary('Softplus'),
    erf: unary('Erf'),
    isPositive: (tensor) =>
      composed(() => execute('Cast', FROM_BOOL, execute('Greater', FLOAT32, own(tensor), number(0)))),
    largest: reduction('Max'),
    identity: (n) =>
      composed(() => execute('MatrixDiag', FLOAT32, execute('Fill', FILL_FLOAT32, integers([n]), number(1)))),
    diagonal: unary('MatrixDiag'),
    diagonalOf: unary('MatrixDiagPart'),
    cholesky: matrices.cholesky,
    choleskySolve: matrices.choleskySolve,
    inverseCholesky: matrices.inverseCholesky,
    eigenSymmetric: matrices.eigenSymmetric,
    isFinite: (list) => composed(() => isFinite(list)),
    evaluate: () => undefined,
    scope: (compute) => tensors.scope(compute, (result) => [...tensorsIn(result, isTensor)].map(own)),
    dispose: (list) => {
      for (const tensor of list) tensors.dispose(own(tensor));
    },
    isTensor,
    get liveTensors() {
      return tensors.live;
    },
  };
  return { engine, compile: graphCompiler(tensors, { own, made }) };
}
