/** TensorFlow's tensors as seen from here: made, kept by scopes, freed; and the operations on them, one by one. */
import { DATA_TYPES, type Attribute, type TensorDescription, type TensorFlowBinding } from './binding.ts';
import type { Recording } from './recording.ts';
import { idOf, TensorFlowTensor } from './tensor.ts';

/** Small constants (axes, shapes, numbers) that stay on the device between operations. */
const KEPT_CONSTANTS = 512;

export class TensorFlowTensors {
  readonly binding: TensorFlowBinding;
  /** Takes down what is executed, while something is being compiled. */
  recording: Recording | null = null;
  #live = 0;
  /** What the innermost scope has made so far; null outside any. */
  #scope: TensorFlowTensor[] | null = null;
  readonly #constants = new Map<string, TensorFlowTensor>();
  /** Constants beyond those that are kept, which the next operation may still take. */
  #surplus: TensorFlowTensor[] = [];

  constructor(binding: TensorFlowBinding) {
    this.binding = binding;
  }

  /** Tensors alive, without kept constants. */
  get live(): number {
    return this.#live;
  }

  /** Takes over a tensor of the binding. */
  adopt(description: TensorDescription): TensorFlowTensor {
    const tensor = new TensorFlowTensor(description);
    this.#live++;
    this.#scope?.push(tensor);
    return tensor;
  }

  /** Uploads values, which must not change afterwards. */
  upload(values: Float32Array | Int32Array, shape: readonly number[]): TensorFlowTensor {
    const tensor = this.adopt(this.#create(values, shape));
    this.recording?.constant(tensor, () => values);
    return tensor;
  }

  /** Few numbers, uploaded once: the tensor stays and is not the caller's to free. */
  constant(
    values: readonly number[],
    shape: readonly number[],
    type: typeof DATA_TYPES.float32 | typeof DATA_TYPES.int32,
  ): TensorFlowTensor {
    // −0 is not 0: who divides by it sees.
    const key = `${String(type)} [${shape.join()}] ${values.map((value) => (Object.is(value, -0) ? '-0' : value)).join()}`;
    const array = (): Float32Array | Int32Array =>
      type === DATA_TYPES.float32 ? Float32Array.from(values) : Int32Array.from(values);
    const tensor = this.#constants.get(key) ?? new TensorFlowTensor(this.#create(array(), shape));
    // The one used last goes last.
    this.#constants.delete(key);
    this.#constants.set(key, tensor);
    const [oldest] = this.#constants;
    if (this.#constants.size > KEPT_CONSTANTS && oldest !== undefined) {
      this.#constants.delete(oldest[0]);
      this.#surplus.push(oldest[1]);
    }
    this.recording?.constant(tensor, array);
    return tensor;
  }

  #create(values: Float32Array | Int32Array, shape: readonly number[]): TensorDescription {
    const dtype = values instanceof Float32Array ? DATA_TYPES.float32 : DATA_TYPES.int32;
    return { id: this.binding.createTensor(shape, dtype, values), shape: [...shape], dtype };
  }

  /** One operation with one result. */
  execute(
    operation: string,
    attributes: readonly Attribute[],
    ...inputs: readonly TensorFlowTensor[]
  ): TensorFlowTensor {
    const [result] = this.executeAll(operation, attributes, inputs, 1);
    if (result === undefined) throw new Error(`${operation} has no result`);
    return result;
  }

  executeAll(
    operation: string,
    attributes: readonly Attribute[],
    inputs: readonly TensorFlowTensor[],
    outputs: number,
  ): TensorFlowTensor[] {
    const descriptions = this.binding.executeOp(operation, attributes, inputs.map(idOf), outputs);
    const results = descriptions.map((description) => this.adopt(description));
    this.recording?.operation(operation, attributes, inputs, results);
    for (const constant of this.#surplus) this.#free(constant);
    this.#surplus = [];
    return results;
  }

  read(tensor: TensorFlowTensor): ReturnType<TensorFlowBinding['tensorDataSync']> {
    return this.binding.tensorDataSync(idOf(tensor));
  }

  /** Runs a computation and frees every tensor it made, except those that `kept` finds in its result. */
  scope<Result>(compute: () => Result, kept: (result: Result) => Iterable<TensorFlowTensor>): Result {
    const outer = this.#scope;
    const made: TensorFlowTensor[] = [];
    this.#scope = made;
    let survivors = new Set<TensorFlowTensor>();
    try {
      const result = compute();
      survivors = new Set(kept(result));
      return result;
    } finally {
      this.#scope = outer;
      for (const tensor of made) {
        if (survivors.has(tensor)) outer?.push(tensor);
        else this.dispose(tensor);
      }
    }
  }

  /** Frees a tensor; it may have been freed already. */
  dispose(tensor: TensorFlowTensor): void {
    if (tensor.id === null) return;
    this.#free(tensor);
    this.#live--;
  }

  #free(tensor: TensorFlowTensor): void {
    this.binding.deleteTensor(idOf(tensor));
    tensor.id = null;
  }
}
