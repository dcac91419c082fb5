/**
 * Loads a native engine from its file, computes a product and a factorisation, and says what it is. A process of its own, because
 * a library that does not fit the machine may end it.
 *
 * usage: node check.ts BINDING
 */
import { ATTRIBUTE_KINDS, DATA_TYPES, loadBinding, type Attribute } from './binding.ts';

const [, , file] = process.argv;
if (file === undefined) throw new Error('usage: node check.ts BINDING');
const binding = loadBinding(file);

const FLOAT32: Attribute = { name: 'T', type: ATTRIBUTE_KINDS.type, value: DATA_TYPES.float32 };
const boolean = (name: string, value: boolean): Attribute => ({ name, type: ATTRIBUTE_KINDS.boolean, value });
const PRODUCT = [FLOAT32, boolean('transpose_a', false), boolean('transpose_b', true)];

const root = binding.createTensor([2, 2], DATA_TYPES.float32, Float32Array.of(2, 0, 3, 1));
const matrix = expectResult('MatMul', PRODUCT, [root, root], [4, 6, 6, 10]);
expectResult('Cholesky', [FLOAT32], [matrix], [2, 0, 3, 1]);
const device = binding.isUsingGpuDevice() ? 'GPU' : 'CPU';
process.stdout.write(`TensorFlow ${binding.TF_Version} computes on the ${device}.\n`);

/** @returns the result's number */
function expectResult(
  operation: string,
  attributes: readonly Attribute[],
  inputs: readonly number[],
  expected: readonly number[],
): number {
  const [result] = binding.executeOp(operation, attributes, inputs, 1);
  if (result === undefined) throw new Error(`${operation} has no result`);
  const actual = Array.from(binding.tensorDataSync(result.id));
  if (expected.every((value, index) => Math.abs((actual[index] ?? Number.NaN) - value) < 1e-6)) return result.id;
  throw new Error(`the result of ${operation} is [${actual.join(', ')}], not [${expected.join(', ')}]`);
}
