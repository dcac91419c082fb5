/**
 * A graph in TensorFlow's own form: a SavedModel that holds one GraphDef, in Protocol Buffers' wire format. The few messages it
 * takes are written here field by field (saved_model.proto, meta_graph.proto, graph.proto, node_def.proto, attr_value.proto,
 * tensor.proto of TensorFlow).
 */
import { ATTRIBUTE_KINDS, type Attribute, type DataType } from './binding.ts';
import type { GraphNode, NodeOutput } from './recording.ts';

/** The tag under which the graph is found in the SavedModel. */
export const GRAPH_TAG = 'serve';

/** The version of the GraphDef format from which on operations mean what they mean today. */
const PRODUCER_VERSION = 1882;

export interface GraphDefinition {
  /** The SavedModel's file. */
  readonly file: Uint8Array;
  /** Names of the inputs and outputs, as `node:index`. */
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
}

/** The graph of everything that the outputs depend on; inputs are part of it in any case. */
export function graphDefinition(inputs: readonly GraphNode[], outputs: readonly NodeOutput[]): GraphDefinition {
  const names = new Map<GraphNode, string>();
  const nodes: Uint8Array[] = [];
  const nameOf = ({ node, index }: NodeOutput): string => {
    const name = names.get(node);
    if (name === undefined) throw new TypeError('a node that stands before one it depends on');
    return `${name}:${String(index)}`;
  };

  // A node stands after those it depends on; without recursion, which a long chain would exhaust.
  const stack = [...outputs.map(({ node }) => node).toReversed(), ...inputs.toReversed()];
  for (let node = stack.at(-1); node !== undefined; node = stack.at(-1)) {
    const dependencies = node.kind === 'operation' ? node.inputs : [];
    const missing = names.has(node) ? [] : dependencies.filter((each) => !names.has(each.node));
    if (missing.length > 0) {
      stack.push(...missing.map((each) => each.node).toReversed());
      continue;
    }
    stack.pop();
    if (names.has(node)) continue;
    const name = `n${String(names.size)}`;
    names.set(node, name);
    nodes.push(nodeMessage(name, node, dependencies.map(nameOf))); // prettier-ignore
  }

  const inputNames = inputs.map((node) => nameOf({ node, index: 0 }));
  const outputNames = outputs.map(nameOf);
  const versions = integerField(1, PRODUCER_VERSION);
  const graph = concatenate([...nodes.map((node) => bytesField(1, node)), bytesField(4, versions)]);
  const information = textField(4, GRAPH_TAG);
  const metaGraph = concatenate([bytesField(1, information), bytesField(2, graph)]);
  const file = concatenate([integerField(1, 1), bytesField(2, metaGraph)]);
  return { file, inputs: inputNames, outputs: outputNames };
}

/** NodeDef. */
function nodeMessage(name: string, node: GraphNode, inputs: readonly string[]): Uint8Array {
  const head = (operation: string): Uint8Array[] => [textField(1, name), textField(2, operation)];
  switch (node.kind) {
    case 'input':
      return concatenate([
        ...head('Placeholder'),
        attributeField('dtype', typeValue(node.type)),
        attributeField('shape', bytesField(7, shapeMessage(node.shape))),
      ]);
    case 'constant':
      return concatenate([
        ...head('Const'),
        attributeField('dtype', typeValue(node.type)),
        attributeField('value', bytesField(8, tensorMessage(node))),
      ]);
    case 'operation':
      return concatenate([
        ...head(node.operation),
        ...inputs.map((input) => textField(3, input)),
        ...node.attributes.map((attribute) => attributeField(attribute.name, attributeValue(attribute))),
      ]);
  }
}

/** An entry of NodeDef's map of attributes; the value is an AttrValue. */
function attributeField(name: string, value: Uint8Array): Uint8Array {
  return bytesField(5, concatenate([textField(1, name), bytesField(2, value)]));
}

function attributeValue(attribute: Attribute): Uint8Array {
  switch (attribute.type) {
    case ATTRIBUTE_KINDS.text:
      return textField(2, attribute.value);
    case ATTRIBUTE_KINDS.integer:
      return typeof attribute.value === 'number' ? integerField(3, attribute.value) : integerList(attribute.value);
    case ATTRIBUTE_KINDS.boolean:
      return integerField(5, attribute.value ? 1 : 0);
    case ATTRIBUTE_KINDS.type:
      return typeValue(attribute.value);
  }
}

/** A ListValue of integers, packed. */
function integerList(values: readonly number[]): Uint8Array {
  return bytesField(1, bytesField(3, concatenate(values.map(variableInteger))));
}

function typeValue(type: DataType): Uint8Array {
  return integerField(6, type);
}

/** TensorShapeProto. */
function shapeMessage(shape: readonly number[]): Uint8Array {
  return concatenate(shape.map((size) => bytesField(2, integerField(1, size))));
}

/** TensorProto. */
function tensorMessage({ type, shape, values }: Extract<GraphNode, { kind: 'constant' }>): Uint8Array {
  const content = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
  return concatenate([integerField(1, type), bytesField(2, shapeMessage(shape)), bytesField(4, content)]);
}

const TEXT = new TextEncoder();

function textField(field: number, text: string): Uint8Array {
  return bytesField(field, TEXT.encode(text));
}

/** A field of wire type 2: length and bytes. */
function bytesField(field: number, bytes: Uint8Array): Uint8Array {
  return concatenate([variableInteger(field * 8 + 2), variableInteger(bytes.length), bytes]);
}

/** A field of wire type 0: a whole number that is not negative. */
function integerField(field: number, value: number): Uint8Array {
  return concatenate([variableInteger(field * 8), variableInteger(value)]);
}

/** Seven bits a byte, the lowest first. */
function variableInteger(value: number): Uint8Array {
  const bytes: number[] = [];
  let rest = value;
  for (; rest >= 128; rest = Math.floor(rest / 128)) bytes.push((rest % 128) + 128);
  bytes.push(rest);
  return Uint8Array.from(bytes);
}

function concatenate(parts: readonly Uint8Array[]): Uint8Array {
  const result = new Uint8Array(parts.reduce((length, part) => length + part.length, 0));
  let position = 0;
  for (const part of parts) {
    result.set(part, position);
    position += part.length;
  }
  return result;
}
