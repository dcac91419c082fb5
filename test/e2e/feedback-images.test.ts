/** The singular vectors that the bench makes from a policy's factors are those of the dense K, entry by entry from the same policy. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import { png } from '../../bench/feedback-images/png.ts';
import { feedbackSingularVectors } from '../../bench/feedback-images/singular-vectors.ts';
import { DdpnoptClient, type LayerPolicy } from '../../clients/js/index.ts';
import { startStack, type LocalStack } from '../../deploy/local/stack.ts';
import { relativeError } from '../conformance/drive.ts';
import {
  at,
  build,
  columnVector,
  eigenSymmetric,
  multiply,
  row,
  scale,
  stackColumns,
  subtract,
  transpose,
  type Matrix,
} from '../oracle/matrix.ts';
import { gaussianMatrix, mulberry32 } from '../oracle/network.ts';
import { crc32, inflateSync } from 'node:zlib';

let stack: LocalStack;
beforeAll(async () => {
  stack = await startStack({ engine: 'reference' });
});
afterAll(() => stack.stop());

const [B, N, C] = [7, 5, 4];

/** The first layer's policy of one step on random numbers, and G: any gradients serve. */
async function randomPolicy(
  encoding: 'sample-factors' | 'inverse-factors',
): Promise<{ policy: LayerPolicy; G: Matrix }> {
  const random = mulberry32(2);
  const session = await new DdpnoptClient({ url: stack.url }).createSession({
    layers: [
      { name: 'a', kind: 'dense', inputs: N, outputs: C },
      { name: 'b', kind: 'dense', inputs: C, outputs: 3 },
    ],
    optimizer: { learningRate: { kind: 'constant', value: 2 } },
    policyEncoding: encoding,
  });
  const numbers = (width: number) => gaussianMatrix(random, B, width).data;
  const reply = await session.step({
    losses: numbers(1).map((value) => 0.2 + Math.abs(value)),
    layers: {
      a: { input: numbers(N), outputGradient: numbers(C) },
      b: { input: numbers(C), outputGradient: numbers(3) },
    },
  });
  await session.delete();
  if (reply.kind !== 'policy') throw new Error('no policy');
  return { policy: reply.policies.get('a')!, G: gaussianMatrix(random, B, N) };
}

/** δu(s), weight above bias, as one column. */
function changeOf(policy: LayerPolicy, s: ArrayLike<number>): Matrix {
  const { weight, bias } = policy.change(s);
  return columnVector([...weight!, ...bias!]);
}

/** K by its columns: what the policy answers to every entry of δx, less what it does at rest. */
function denseFeedback(policy: LayerPolicy, G: Matrix, isInGroup: (sample: number) => boolean): Matrix {
  const resting = changeOf(policy, new Float64Array(B));
  const columns = Array.from({ length: N }, (_, entry) =>
    subtract(
      changeOf(
        policy,
        Float64Array.from({ length: B }, (__, i) => (isInGroup(i) ? at(G, i, entry) : 0)),
      ),
      resting,
    ),
  );
  return stackColumns(columns);
}

it.each([
  ['all samples', () => true],
  ['a few samples', (sample: number) => sample % 3 === 0],
] as const)('%s move: singular values and vectors are those of the dense K', async (_, isInGroup) => {
  const { policy, G } = await randomPolicy('sample-factors');
  const K = denseFeedback(policy, G, isInGroup);
  const { values, leading } = feedbackSingularVectors(policy, G.data, isInGroup, N);
  const dense = eigenSymmetric(multiply(transpose(K), K));
  const rank = Math.min(N, Array.from({ length: B }, (__, i) => i).filter(isInGroup).length);
  expect(values).toHaveLength(rank);
  for (const [index, value] of values.entries()) {
    const expected = Math.sqrt(dense.values[N - 1 - index]!);
    expect(Math.abs(value / expected - 1)).toBeLessThan(1e-5);
    const along = row(transpose(dense.vectors), N - 1 - index);
    const cosine = leading[index]!.input.reduce((sum, entry, j) => sum + entry * at(along, 0, j), 0);
    expect(Math.abs(cosine)).toBeCloseTo(1, 6);
  }
  // K is the sum of its parts, signs included.
  const sum = leading
    .map(({ value, input, parameters }) =>
      scale(multiply(columnVector(parameters), transpose(columnVector(input))), value),
    )
    .reduce((left, right) => build(K.rows, K.cols, (i, j) => at(left, i, j) + at(right, i, j)));
  expect(relativeError(sum, K)).toBeLessThan(1e-5);
});

it('a policy in inverse factors is refused', async () => {
  const { policy, G } = await randomPolicy('inverse-factors');
  expect(() => feedbackSingularVectors(policy, G.data, () => true, 1)).toThrow('sample factors');
});

it('an image is a PNG file: its chunks are whole, and its rows come back', () => {
  const file = png(2, 2, [[1, 2, 3], [4, 5, 6], [7, 8, 9], [250, 251, 252]]); // prettier-ignore
  expect(file.subarray(1, 4).toString()).toBe('PNG');
  const chunks = new Map<string, Buffer>();
  for (let offset = 8; offset < file.length;) {
    const length = file.readUInt32BE(offset);
    const body = file.subarray(offset + 4, offset + 8 + length);
    expect(file.readUInt32BE(offset + 8 + length)).toBe(crc32(body));
    chunks.set(body.subarray(0, 4).toString(), body.subarray(4));
    offset += length + 12;
  }
  expect([...chunks.keys()]).toEqual(['IHDR', 'IDAT', 'IEND']);
  expect([...chunks.get('IHDR')!]).toEqual([0, 0, 0, 2, 0, 0, 0, 2, 8, 2, 0, 0, 0]);
  expect([...inflateSync(chunks.get('IDAT')!)]).toEqual([0, 1, 2, 3, 4, 5, 6, 0, 7, 8, 9, 250, 251, 252]);
});
