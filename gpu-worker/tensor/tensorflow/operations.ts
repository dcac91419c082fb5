/**
 * The seam on TensorFlow: float32, with factorisations in float64.
 *
 * Every operation of the seam is a few operations of TensorFlow, none of which waits for values on the host; the same calls
 * therefore compute at once and, recorded, make a graph.
 *
 * Factorisations are computed in float64 between two casts. Measured on the CPU, a Cholesky factor takes 1.3 times as long as in
 * float32 and an inverse twice, both a small part of a step; in float32 a hosted Gauss–Newton step leaves the oracle by 1.6e-4.
 */
import type { WindowGeometry } from '../../../shared/convolution.ts';
import { tensorsIn, type Engine, type Operand, type Tensor } from '../engine.ts';
import { ATTRIBUTE_KINDS, DATA_TYPES, type Attribute, type DataType, type TensorFlowBinding } from './binding.ts';
import type { Compile } from '../deferred/programs.ts';
import { graphCompiler } from './graph-compiler.ts';
import { TensorFlowTensor } from './tensor.ts';
import { TensorFlowTensors } from './tensors.ts';

const { float32, float64, int32 } = DATA_TYPES;

const text = (name: string, value: string): Attribute => ({ name, type: ATTRIBUTE_KINDS.text, value });
const integer = (name: string, value: number): Attribute => ({ name, type: ATTRIBUTE_KINDS.integer, value });
const integerList = (name: string, value: readonly number[]): Attribute => ({
  name,
  type: ATTRIBUTE_KINDS.integer,
  value,
});
const boolean = (name: string, value: boolean): Attribute => ({ name, type: ATTRIBUTE_KINDS.boolean, value });
const type = (name: string, value: DataType): Attribute => ({ name, type: ATTRIBUTE_KINDS.type, value });

const FLOAT32 = [type('T', float32)];
const FLOAT64 = [type('T', float64)];
const REDUCTION = [type('T', float32), type('Tidx', int32), boolean('keep_dims', false)];
const LOGICAL_REDUCTION = [type('Tidx', int32), boolean('keep_dims', false)];
const RESHAPE = { [float32]: [type('T', float32), type('Tshape', int32)], [float64]: [type('T', float64), type('Tshape', int32)] }; // prettier-ignore
const TRANSPOSE = [type('T', float32), type('Tperm', int32)];
const SLICE = { [float32]: [type('T', float32), type('Index', int32)], [float64]: [type('T', float64), type('Index', int32)] }; // prettier-ignore
const STRIDED_SLICE = [
  ...SLICE[float32],
  ...['begin_mask', 'end_mask', 'ellipsis_mask', 'new_axis_mask', 'shrink_axis_mask'].map((name) => integer(name, 0)),
];
const FILL = [type('T', float64), type('index_type', int32)];
const FILL_FLOAT32 = [type('T', float32), type('index_type', int32)];
const PAD = [type('T', float32), type('Tpaddings', int32)];
const FROM_BOOL = [type('SrcT', DATA_TYPES.bool), type('DstT', float32), boolean('Truncate', false)];
const TO_FLOAT64 = [type('SrcT', float32), type('DstT', float64), boolean('Truncate', false)];
const TO_FLOAT32 = [type('SrcT', float64), type('DstT', float32), boolean('Truncate', false)];
const LOWER = [...FLOAT64, boolean('lower', true), boolean('adjoint', false)];
const LOWER_TRANSPOSED = [...FLOAT64, boolean('lower', true), boolean('adjoint', true)];
/** Of two matrices. */
const PAIR = [...FLOAT64, type('Tidx', int32), integer('N', 2)];
const PRODUCT = [...FLOAT64, boolean('transpose_a', false), boolean('transpose_b', false)];
const EIGEN = [...FLOAT64, boolean('compute_v', true)];

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

/** Order up to which a triangular matrix is inverted by one solve. */
const LARGEST_SOLVED = 256;

const isTensor = (value: object): value is Tensor => value instanceof TensorFlowTensor;

function own(tensor: Tensor): TensorFlowTensor {
  if (!(tensor instanceof TensorFlowTensor)) throw new TypeError('a tensor of another engine');
  return tensor;
}

function made(tensor: TensorFlowTensor): Tensor {
  return tensor as unknown as Tensor;
}

function orderOf({ shape }: Tensor): number {
  const [rows, columns] = shape;
  if (rows === undefined || rows !== columns || shape.length !== 2) {
    throw new RangeError(`expected a square matrix, got [${shape.join(', ')}]`);
  }
  return rows;
}

export interface TensorFlowEngine {
  /** Computes operation by operation. */
  readonly engine: Engine;
  /** Makes a graph of a computation on it. */
  readonly compile: Compile;
}

export function createTensorFlowEngine(binding: TensorFlowBinding): TensorFlowEngine {
  const tensors = new TensorFlowTensors(binding);
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

  const double = (tensor: TensorFlowTensor): TensorFlowTensor => execute('Cast', TO_FLOAT64, tensor);
  const single = (tensor: TensorFlowTensor): TensorFlowTensor => execute('Cast', TO_FLOAT32, tensor);
  const reshaped = (tensor: TensorFlowTensor, shape: readonly number[]): TensorFlowTensor =>
    execute('Reshape', tensor.type === float64 ? RESHAPE[float64] : RESHAPE[float32], tensor, integers(shape));

  /** Whether all elements are finite, a scalar of type bool. */
  const finite = (tensor: TensorFlowTensor): TensorFlowTensor => {
    const axes = integers(tensor.shape.map((_, axis) => axis));
    return execute('All', LOGICAL_REDUCTION, execute('IsFinite', [type('T', tensor.type)], tensor), axes);
  };
  /** The tensor if the condition, a scalar of type bool, holds; else NaN throughout. */
  const orNaN = (condition: TensorFlowTensor, tensor: TensorFlowTensor): TensorFlowTensor =>
    execute('AddV2', FLOAT32, tensor, execute('SelectV2', FLOAT32, condition, number(0), number(Number.NaN)));
  /** Whether a matrix has the diagonal of a Cholesky factor: positive and finite. What is wrong with a row reaches it. */
  const isFactor = (matrix: TensorFlowTensor): TensorFlowTensor =>
    finite(execute('Log', FLOAT64, execute('MatrixDiagPart', FLOAT64, matrix)));
  /** The factor; where there is none, something else with which TensorFlow's triangular solve does not throw. */
  const solvable = (L: TensorFlowTensor, exists: TensorFlowTensor): TensorFlowTensor =>
    execute('SelectV2', FLOAT64, exists, L, double(number(1)));
  const filled = (shape: readonly number[], value: number): TensorFlowTensor =>
    execute('Fill', FILL, integers(shape), double(number(value)));
  /**
   * L⁻¹ of a lower triangular matrix, by halves: the inverse of [A 0; X C] is [A⁻¹ 0; −C⁻¹XA⁻¹ C⁻¹]. The products run on all cores,
   * TensorFlow's triangular solve on one.
   */
  const inverseOfLower = (L: TensorFlowTensor): TensorFlowTensor => {
    const n = L.shape[0] ?? 0;
    if (n <= LARGEST_SOLVED) {
      return execute('MatrixTriangularSolve', LOWER, L, execute('MatrixDiag', FLOAT64, filled([n], 1)));
    }
    const first = Math.floor(n / 2);
    const rest = n - first;
    const block = (row: number, column: number, rows: number, columns: number): TensorFlowTensor =>
      execute('Slice', SLICE[float64], L, integers([row, column]), integers([rows, columns]));
    const join = (axis: number, left: TensorFlowTensor, right: TensorFlowTensor): TensorFlowTensor =>
      execute('ConcatV2', PAIR, left, right, axisOf(axis));
    const A = inverseOfLower(block(0, 0, first, first));
    const C = inverseOfLower(block(first, first, rest, rest));
    const X = execute('MatMul', PRODUCT, C, execute('MatMul', PRODUCT, block(first, 0, rest, first), A));
    return join(0, join(1, A, filled([first, rest], 0)), join(1, execute('Neg', FLOAT64, X), C));
  };

  const isFinite = (list: readonly Tensor[]): TensorFlowTensor => {
    const flags = list.map((tensor) => execute('Cast', FROM_BOOL, finite(own(tensor))));
    return flags.reduce((left, right) => execute('Mul', FLOAT32, left, right), execute('Identity', FLOAT32, number(1)));
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
    matMul: (left, right, { transposeLeft = false, transposeRight = false } = {}) => {
      const isStack = left.shape.length > 2;
      const names = isStack ? (['adj_x', 'adj_y'] as const) : (['transpose_a', 'transpose_b'] as const);
      const attributes = [...FLOAT32, boolean(names[0], transposeLeft), boolean(names[1], transposeRight)];
      return made(execute(isStack ? 'BatchMatMulV2' : 'MatMul', attributes, own(left), own(right)));
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
    cholesky: (matrix) => {
      orderOf(matrix);
      return composed(() => {
        const L = execute('Cholesky', FLOAT64, double(own(matrix)));
        return orNaN(isFactor(L), single(L));
      });
    },
    choleskySolve: (factor, rightHandSide) => {
      const n = orderOf(factor);
      return composed(() => {
        const L = double(own(factor));
        const exists = isFactor(L);
        const safe = solvable(L, exists);
        const y = execute('MatrixTriangularSolve', LOWER, safe, reshaped(double(own(rightHandSide)), [n, 1]));
        const x = execute('MatrixTriangularSolve', LOWER_TRANSPOSED, safe, y);
        return orNaN(exists, single(reshaped(x, [n])));
      });
    },
    inverseCholesky: (matrix) => {
      orderOf(matrix);
      return composed(() => {
        const L = execute('Cholesky', FLOAT64, double(own(matrix)));
        const exists = isFactor(L);
        return orNaN(exists, single(inverseOfLower(solvable(L, exists))));
      });
    },
    eigenSymmetric: (matrix) => {
      orderOf(matrix);
      return tensors.scope(
        () => {
          const exists = finite(own(matrix));
          // TensorFlow throws where the decomposition fails, as it may on what is not finite.
          const safe = execute('SelectV2', FLOAT32, exists, own(matrix), number(0));
          const decomposition = tensors.executeAll('SelfAdjointEigV2', EIGEN, [double(safe)], 2);
          const [values, vectors] = decomposition.map((part) => made(orNaN(exists, single(part))));
          if (values === undefined || vectors === undefined) throw new Error('SelfAdjointEigV2 has two results');
          return { values, vectors };
        },
        ({ values, vectors }) => [own(values), own(vectors)],
      );
    },
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
