/**
 * Loads the native engine from a file, computes a product and a factorisation, and says what it is. A process of its own, because
 * a library that does not fit the machine may end it.
 *
 * usage: node check.ts BINDING
 */
import { loadBinding } from './binding.ts';
import { createTensorFlowEngine } from './operations.ts';

const [, , file] = process.argv;
if (file === undefined) throw new Error('usage: node check.ts BINDING');
const binding = loadBinding(file);
const { engine } = createTensorFlowEngine(binding);
const root = engine.tensor([2, 0, 3, 1], [2, 2]);
const matrix = engine.matMul(root, root, { transposeRight: true });
expect('product', engine.read(matrix), [4, 6, 6, 10]);
expect('Cholesky factor', engine.read(engine.cholesky(matrix)), [2, 0, 3, 1]);
const device = binding.isUsingGpuDevice() ? 'GPU' : 'CPU';
process.stdout.write(`TensorFlow ${binding.TF_Version} computes on the ${device}.\n`);

function expect(what: string, actual: ArrayLike<number>, expected: readonly number[]): void {
  if (expected.every((value, index) => actual[index] === value)) return;
  throw new Error(`its ${what} is [${Array.from(actual).join(', ')}], not [${expected.join(', ')}]`);
}
