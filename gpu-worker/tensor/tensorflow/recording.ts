/** What a computation executed, taken down operation by operation, so that it can be run again as one graph. */
import { CompilationError } from '../deferred/programs.ts';
import type { Attribute, DataType } from './binding.ts';
import type { TensorFlowTensor } from './tensor.ts';

/** One result of a node. */
export interface NodeOutput {
  readonly node: GraphNode;
  readonly index: number;
}

export type GraphNode =
  | { readonly kind: 'input'; readonly type: DataType; readonly shape: readonly number[] }
  | {
      readonly kind: 'constant';
      readonly type: DataType;
      readonly shape: readonly number[];
      readonly values: Float32Array | Int32Array;
    }
  | {
      readonly kind: 'operation';
      readonly operation: string;
      readonly attributes: readonly Attribute[];
      readonly inputs: readonly NodeOutput[];
    };

export class Recording {
  readonly #outputs = new Map<TensorFlowTensor, NodeOutput>();

  /** The nodes of the computation's inputs, in order. */
  readonly inputs: readonly GraphNode[];

  /** @param inputs of the computation; any other tensor that it meets without making it is refused */
  constructor(inputs: readonly TensorFlowTensor[]) {
    this.inputs = inputs.map(({ type, shape }) => ({ kind: 'input', type, shape }));
    for (const [index, node] of this.inputs.entries()) {
      const tensor = inputs[index];
      if (tensor !== undefined) this.#outputs.set(tensor, { node, index: 0 });
    }
  }

  /** @param values asked for the first time only */
  constant(tensor: TensorFlowTensor, values: () => Float32Array | Int32Array): void {
    if (this.#outputs.has(tensor)) return;
    const { type, shape } = tensor;
    this.#outputs.set(tensor, { node: { kind: 'constant', type, shape, values: values() }, index: 0 });
  }

  operation(
    operation: string,
    attributes: readonly Attribute[],
    inputs: readonly TensorFlowTensor[],
    results: readonly TensorFlowTensor[],
  ): void {
    const node: GraphNode = {
      kind: 'operation',
      operation,
      attributes,
      inputs: inputs.map((tensor) => this.outputOf(tensor)),
    };
    for (const [index, tensor] of results.entries()) this.#outputs.set(tensor, { node, index });
  }

  /** @throws CompilationError if the tensor is neither an input nor made by the computation */
  outputOf(tensor: TensorFlowTensor): NodeOutput {
    const output = this.#outputs.get(tensor);
    if (output === undefined) throw new CompilationError('it takes a tensor that is not among its inputs');
    return output;
  }
}
