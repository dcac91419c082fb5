/**
 * An engine that records what is asked of it and computes it later, many operations as one program: deferred evaluation, as
 * in LazyTensor (Suhan et al., "LazyTensor: combining eager execution with domain-specific compilers", 2021). The code above the
 * seam stays as it is; what it costs per operation is the recording.
 *
 * Something is computed when it is read, when `evaluate` names it, and when the outermost scope ends with it in its result. What
 * several of these need is computed several times, so whoever is going to read should name all of it to `evaluate` first.
 */
import { tensorsIn, type Engine, type Operand, type Tensor } from '../engine.ts';
import { Programs, type Compile } from './programs.ts';
import {
  broadcastShape,
  concatenatedShape,
  productShape,
  reshapedShape,
  windowedShape,
  windowText,
  type Shape,
} from './shapes.ts';
import { DeferredTensor, type Operation } from './tensor.ts';

const isTensor = (value: object): value is Tensor => value instanceof DeferredTensor;

function own(tensor: Tensor): DeferredTensor {
  if (!(tensor instanceof DeferredTensor)) throw new TypeError('a tensor of another engine');
  return tensor;
}

function made(tensor: DeferredTensor): Tensor {
  return tensor as unknown as Tensor;
}

function operand(value: Operand): DeferredTensor | number {
  return typeof value === 'number' ? value : own(value);
}

/**
 * @param engine computes what is recorded
 * @param report hears what is computed operation by operation though it was to be a program, and why
 */
export function createDeferredEngine(engine: Engine, compile: Compile, report: (reason: string) => void): Engine {
  const programs = new Programs(engine, compile, report);
  /** What the innermost scope has made so far; null outside any. */
  let scope: Set<DeferredTensor> | null = null;
  /** Held by somebody. */
  const held = new Set<DeferredTensor>();
  /** Held by nobody, but perhaps needed by an operation that is pending in a scope. */
  let released: DeferredTensor[] = [];

  function keep(tensor: DeferredTensor): DeferredTensor {
    held.add(tensor);
    scope?.add(tensor);
    return tensor;
  }

  /** The tensor on the device. */
  function upload(tensor: DeferredTensor): Tensor {
    const { source } = tensor;
    switch (source.kind) {
      case 'device':
        return source.tensor;
      case 'host': {
        const uploaded = engine.tensor(source.values, tensor.shape);
        tensor.source = { kind: 'device', tensor: uploaded };
        return uploaded;
      }
      case 'pending':
        throw new TypeError('a tensor that has not been computed');
      case 'freed':
        throw new TypeError('a tensor that has been freed');
    }
  }

  function evaluate(tensors: readonly DeferredTensor[]): void {
    programs.evaluate(tensors, upload);
  }

  function release(tensor: DeferredTensor): void {
    if (tensor.isReleased) return;
    tensor.isReleased = true;
    held.delete(tensor);
    released.push(tensor);
  }

  function freeReleased(): void {
    for (const tensor of released) {
      if (tensor.source.kind === 'device') engine.dispose([tensor.source.tensor]);
      tensor.source = { kind: 'freed' };
    }
    released = [];
  }

  function recordAll(
    text: string,
    operands: readonly (DeferredTensor | number)[],
    shapes: readonly Shape[],
    perform: Operation['perform'],
    isIdentity = false,
  ): Tensor[] {
    const operation: Operation = { text, operands, isIdentity, perform };
    const results = shapes.map((shape, result) =>
      keep(new DeferredTensor(shape, { kind: 'pending', operation, result })),
    );
    if (scope === null) evaluate(results);
    return results.map(made);
  }

  function record(
    text: string,
    operands: readonly (DeferredTensor | number)[],
    shape: Shape,
    perform: (operands: readonly Operand[]) => Tensor,
    isIdentity = false,
  ): Tensor {
    const [result] = recordAll(text, operands, [shape], (values) => [perform(values)], isIdentity);
    if (result === undefined) throw new TypeError('one shape, one result');
    return result;
  }

  /** An operation on one tensor. */
  const one = (text: string, tensor: Tensor, shape: Shape, perform: (tensor: Tensor) => Tensor): Tensor =>
    record(text, [own(tensor)], shape, ([value]) => perform(asTensor(value)));
  const unary = (name: 'sqrt' | 'square' | 'exp' | 'log' | 'tanh' | 'sigmoid' | 'softplus' | 'erf' | 'isPositive') => {
    return (tensor: Tensor): Tensor => one(name, tensor, tensor.shape, engine[name]);
  };
  const binary = (name: 'add' | 'subtract' | 'multiply' | 'divide' | 'minimum' | 'maximum') => {
    return (left: Operand, right: Operand): Tensor => {
      const operands = [operand(left), operand(right)];
      const shape = broadcastShape(shapeOf(left), shapeOf(right));
      return record(name, operands, shape, ([a = 0, b = 0]) => engine[name](a, b));
    };
  };
  const reduction = (name: 'sum' | 'largest') => {
    return (tensor: Tensor, axis: number): Tensor => {
      const shape = tensor.shape.filter((_, index) => index !== axis);
      return one(`${name} ${String(axis)}`, tensor, shape, (value) => engine[name](value, axis));
    };
  };
  const matrixFunction = (name: 'cholesky' | 'inverseCholesky') => {
    return (matrix: Tensor): Tensor => one(name, matrix, matrix.shape, engine[name]);
  };

  return {
    name: engine.name,
    precision: engine.precision,
    // A copy: the caller may change its array before the values are needed.
    tensor: (values, shape) =>
      made(keep(new DeferredTensor([...shape], { kind: 'host', values: copied(values, engine.precision) }))),
    read: (tensor) => {
      const from = own(tensor);
      evaluate([from]);
      return engine.read(upload(from));
    },
    evaluate: (value) => {
      evaluate([...tensorsIn(value, isTensor)].map(own));
    },
    add: binary('add'),
    subtract: binary('subtract'),
    multiply: binary('multiply'),
    divide: binary('divide'),
    minimum: binary('minimum'),
    maximum: binary('maximum'),
    sqrt: unary('sqrt'),
    square: unary('square'),
    matMul: (left, right, product = {}) => {
      const { transposeLeft = false, transposeRight = false, upperTriangular = 'neither' } = product;
      const shape = productShape(left.shape, right.shape, transposeLeft, transposeRight);
      const text = `matMul ${String(transposeLeft)} ${String(transposeRight)} ${upperTriangular}`;
      return record(text, [own(left), own(right)], shape, ([a, b]) => engine.matMul(asTensor(a), asTensor(b), product));
    },
    sum: reduction('sum'),
    reshape: (tensor, shape) => {
      const result = reshapedShape(tensor.shape, shape);
      const isIdentity = result.join() === tensor.shape.join();
      const perform = ([value]: readonly Operand[]): Tensor => engine.reshape(asTensor(value), result);
      return record(`reshape ${result.join()}`, [own(tensor)], result, perform, isIdentity);
    },
    appendOnes: (tensor) => {
      const shape = tensor.shape.with(-1, (tensor.shape.at(-1) ?? 0) + 1);
      return one('appendOnes', tensor, shape, engine.appendOnes);
    },
    transpose: (tensor, axes) => {
      const order = [...axes];
      const shape = order.map((axis) => tensor.shape[axis] ?? 1);
      return one(`transpose ${order.join()}`, tensor, shape, (value) => engine.transpose(value, order));
    },
    slice: (tensor, axis, begin, size) => {
      const text = `slice ${[axis, begin, size].join()}`;
      return one(text, tensor, tensor.shape.with(axis, size), (value) => engine.slice(value, axis, begin, size));
    },
    stride: (tensor, axis, begin, size, stride) => {
      const text = `stride ${[axis, begin, size, stride].join()}`;
      const shape = tensor.shape.with(axis, size);
      return one(text, tensor, shape, (value) => engine.stride(value, axis, begin, size, stride));
    },
    concat: (tensors, axis) => {
      const shape = concatenatedShape(tensors.map((tensor) => tensor.shape), axis); // prettier-ignore
      return record(`concat ${String(axis)}`, tensors.map(own), shape, (values) => engine.concat(values.map(asTensor), axis)); // prettier-ignore
    },
    pad: (tensor, paddings) => {
      const amounts = paddings.map(([before, after]) => [before, after] as const);
      const shape = tensor.shape.map((size, axis) => size + (amounts[axis]?.[0] ?? 0) + (amounts[axis]?.[1] ?? 0));
      return one(`pad ${amounts.join()}`, tensor, shape, (value) => engine.pad(value, amounts));
    },
    reverse: (tensor, axis) =>
      one(`reverse ${String(axis)}`, tensor, tensor.shape, (value) => engine.reverse(value, axis)),
    convolution: (images, kernel, window) => {
      const shape = windowedShape(images.shape, window, kernel.shape[3] ?? 1);
      return record(`convolution ${windowText(window)}`, [own(images), own(kernel)], shape, ([x, k]) =>
        engine.convolution(asTensor(x), asTensor(k), window),
      );
    },
    maxPool: (images, window) => {
      const shape = windowedShape(images.shape, window, images.shape[3] ?? 1);
      return one(`maxPool ${windowText(window)}`, images, shape, (value) => engine.maxPool(value, window));
    },
    maxPoolGradient: (images, largest, gradient, window) => {
      const operands = [own(images), own(largest), own(gradient)];
      return record(`maxPoolGradient ${windowText(window)}`, operands, images.shape, ([x, y, g]) =>
        engine.maxPoolGradient(asTensor(x), asTensor(y), asTensor(g), window),
      );
    },
    exp: unary('exp'),
    log: unary('log'),
    tanh: unary('tanh'),
    sigmoid: unary('sigmoid'),
    softplus: unary('softplus'),
    erf: unary('erf'),
    isPositive: unary('isPositive'),
    largest: reduction('largest'),
    identity: (n) => record(`identity ${String(n)}`, [], [n, n], () => engine.identity(n)),
    diagonal: (values) => {
      const [n = 0] = values.shape;
      return one('diagonal', values, [n, n], engine.diagonal);
    },
    diagonalOf: (matrix) => one('diagonalOf', matrix, matrix.shape.slice(1), engine.diagonalOf),
    cholesky: matrixFunction('cholesky'),
    choleskySolve: (factor, rightHandSide) =>
      record('choleskySolve', [own(factor), own(rightHandSide)], rightHandSide.shape, ([L, b]) =>
        engine.choleskySolve(asTensor(L), asTensor(b)),
      ),
    inverseCholesky: matrixFunction('inverseCholesky'),
    eigenSymmetric: (matrix) => {
      const [n = 0] = matrix.shape;
      const [values, vectors] = recordAll('eigenSymmetric', [own(matrix)], [[n], [n, n]], ([value]) => {
        const decomposition = engine.eigenSymmetric(asTensor(value));
        return [decomposition.values, decomposition.vectors];
      });
      if (values === undefined || vectors === undefined) throw new TypeError('two shapes, two results');
      return { values, vectors };
    },
    isFinite: (tensors) => record('isFinite', tensors.map(own), [], (values) => engine.isFinite(values.map(asTensor))),
    scope: (compute) => {
      const outer = scope;
      const ours = new Set<DeferredTensor>();
      scope = ours;
      let kept = new Set<Tensor>();
      try {
        const result = compute();
        const found = tensorsIn(result, isTensor);
        // Nothing stays pending outside: what it needs may be freed there.
        if (outer === null) evaluate([...found].map(own));
        kept = found;
        return result;
      } finally {
        scope = outer;
        for (const tensor of ours) {
          if (kept.has(made(tensor))) outer?.add(tensor);
          else release(tensor);
        }
        if (outer === null) freeReleased();
      }
    },
    dispose: (tensors) => {
      for (const tensor of tensors) release(own(tensor));
      if (scope === null) freeReleased();
    },
    isTensor,
    get liveTensors() {
      // Those on the device, whoever made them, and those that are not there yet.
      const elsewhere = [...held].filter(({ source }) => source.kind !== 'device');
      return engine.liveTensors - programs.keptTensors + elsewhere.length;
    },
  };
}

function copied(values: ArrayLike<number>, precision: Engine['precision']): Float32Array | Float64Array {
  return precision === 'float32' ? new Float32Array(values) : new Float64Array(values);
}

function shapeOf(value: Operand): Shape {
  return typeof value === 'number' ? [] : value.shape;
}

function asTensor(value: Operand | undefined): Tensor {
  if (typeof value !== 'object') throw new TypeError('an operand that is no tensor');
  return value;
}
