/**
 * Every bad step is refused with a problem that names the fault, and leaves the session as it was: the same next step, the same
 * metrics, and the correct steps in between give the bytes they give in a session that saw no bad one.
 */
import { afterAll, beforeAll, describe, expect, it, onTestFailed } from 'vitest';
import { startStack, type LocalStack } from '../../deploy/local/stack.ts';
import type { ProblemCode } from '../../shared/errors.ts';
import { LIMITS } from '../../shared/limits.ts';
import { encode, SAFETENSORS_CONTENT_TYPE } from '../../shared/safetensors.ts';
import {
  BATCH,
  call,
  describeSession,
  expectProblem,
  expectSameStep,
  headerOf,
  newSession,
  putStep,
  rawBody,
  spoiled,
  stepBody,
  stepBodyWith,
  stepTensors,
  type Answer,
} from './support.ts';

let stack: LocalStack;
let disturbed: string;
let undisturbed: string;
beforeAll(async () => {
  stack = await startStack({ engine: 'wasm' });
});
afterAll(() => stack.stop());

interface BadStep {
  readonly title: string;
  /** The body of step n, or how to send it where it is not the body that is wrong. */
  readonly send: (n: number) => Uint8Array<ArrayBuffer> | Promise<Answer>;
  readonly code: ProblemCode;
  readonly status?: number;
  readonly param?: string;
  readonly mentions?: readonly string[];
}

const SEED = 77;
const zeros = (count: number): Float32Array => new Float32Array(count);
const without = (name: string): Uint8Array<ArrayBuffer> => encode(stepTensors(SEED).filter((t) => t.name !== name));
const withValue = (name: string, index: number, value: number): Uint8Array<ArrayBuffer> => {
  const tensor = stepTensors(SEED).find((t) => t.name === name)!;
  tensor.values[index] = value;
  return stepBodyWith(SEED, tensor);
};
const good = headerOf(stepBody(SEED));
const goodHeader = JSON.stringify(good.header);
const path = (n: number | string): string => `/v1/sessions/${disturbed}/steps/${n}`;

const SHAPES: readonly BadStep[] = [
  {
    title: 'too many features',
    send: () => stepBodyWith(SEED, { name: 'layers.fc1.input', shape: [BATCH, 7], values: zeros(BATCH * 7) }),
    code: 'shape_mismatch',
    param: 'layers.fc1.input',
    mentions: ['[6, 7]', '[B, 5]', 'B = 6'],
  },
  {
    title: 'the transposed shape',
    send: () => stepBodyWith(SEED, { name: 'layers.fc1.input', shape: [5, BATCH], values: zeros(BATCH * 5) }),
    code: 'shape_mismatch',
    param: 'layers.fc1.input',
    mentions: ['[5, 6]'],
  },
  {
    title: 'a rank too high',
    send: () => stepBodyWith(SEED, { name: 'layers.fc2.output_grad', shape: [BATCH, 3, 1], values: zeros(BATCH * 3) }),
    code: 'shape_mismatch',
    param: 'layers.fc2.output_grad',
    mentions: ['[6, 3, 1]'],
  },
  {
    title: 'a rank too low',
    send: () => stepBodyWith(SEED, { name: 'layers.fc2.output_grad', shape: [BATCH * 3], values: zeros(BATCH * 3) }),
    code: 'shape_mismatch',
    param: 'layers.fc2.output_grad',
    mentions: ['[18]'],
  },
  {
    title: 'another batch in one tensor',
    send: () => stepBodyWith(SEED, { name: 'layers.fc2.input', shape: [BATCH - 1, 4], values: zeros((BATCH - 1) * 4) }),
    code: 'shape_mismatch',
    param: 'layers.fc2.input',
    mentions: ['[5, 4]', 'B = 6'],
  },
  {
    title: 'another batch in the losses',
    send: () => stepBodyWith(SEED, { name: 'losses', shape: [BATCH + 1], values: zeros(BATCH + 1) }),
    code: 'shape_mismatch',
    param: 'layers.fc1.input',
    mentions: ['[6, 5]', 'B = 7'],
  },
  {
    title: 'losses of rank 2',
    send: () => stepBodyWith(SEED, { name: 'losses', shape: [BATCH, 1], values: zeros(BATCH) }),
    code: 'shape_mismatch',
    param: 'losses',
    mentions: ['[6, 1]'],
  },
  {
    title: 'a scalar loss',
    send: () => stepBodyWith(SEED, { name: 'losses', shape: [], values: zeros(1) }),
    code: 'shape_mismatch',
    param: 'losses',
    mentions: ['[]'],
  },
  {
    title: 'an empty batch',
    send: () => encode(stepTensors(SEED, undefined, 0)),
    code: 'shape_mismatch',
    param: 'losses',
    mentions: ['[0]', '2048'],
  },
  {
    title: 'a batch over the limit',
    send: () => encode(stepTensors(SEED, undefined, LIMITS.batch + 1)),
    code: 'shape_mismatch',
    param: 'losses',
    mentions: ['[2049]', '2048'],
  },
];

const NAMES: readonly BadStep[] = [
  {
    title: 'a layer the session does not have',
    send: () =>
      encode([...stepTensors(SEED), { name: 'layers.fc9.input', shape: [BATCH, 4], values: zeros(BATCH * 4) }]),
    code: 'unknown_tensor',
    param: 'layers.fc9.input',
    mentions: ['layers.fc9.input', 'fc1, fc2'],
  },
  {
    title: 'a tensor the step does not take',
    send: () => encode([...stepTensors(SEED), { name: 'layers.fc1.weight', shape: [1], values: zeros(1) }]),
    code: 'unknown_tensor',
    param: 'layers.fc1.weight',
    mentions: ['layers.fc1.weight'],
  },
  {
    title: 'a tensor of another case',
    send: () =>
      spoiled(SEED, (header) => {
        header['Losses'] = header['losses']!;
        delete header['losses'];
      }),
    code: 'unknown_tensor',
    param: 'Losses',
  },
  ...['losses', 'layers.fc1.input', 'layers.fc2.output_grad'].map((name): BadStep => ({
    title: `without ${name}`,
    send: () => without(name),
    code: 'missing_tensor',
    param: name,
    mentions: [name],
  })),
  { title: 'no tensors at all', send: () => encode([]), code: 'missing_tensor', param: 'losses' },
  ...(
    [
      ['I32', 4],
      ['I8', 1],
      ['I64', 8],
      ['BOOL', 1],
    ] as const
  ).map(([dtype, bytes]): BadStep => ({
    title: `dtype ${dtype}`,
    send: () => {
      // The losses are the first tensor: shift the others to make room for another element size.
      const shift = BATCH * bytes - BATCH * 4;
      const { header, data } = headerOf(stepBody(SEED));
      for (const entry of Object.values(header))
        entry.data_offsets = [entry.data_offsets[0] + shift, entry.data_offsets[1] + shift];
      header['losses'] = { dtype, shape: [BATCH], data_offsets: [0, BATCH * bytes] };
      return rawBody(JSON.stringify(header), new Uint8Array(data.length + shift));
    },
    code: 'dtype_unsupported',
    param: 'losses',
    mentions: ['losses', dtype, 'F32'],
  })),
];

const HEADERS: readonly BadStep[] = [
  {
    title: 'tensors that end before the body does',
    send: () => rawBody(goodHeader, new Uint8Array([...good.data, 1, 2, 3])),
    code: 'length_mismatch',
    mentions: [String(good.data.length), String(good.data.length + 3)],
  },
  {
    title: 'tensors that go on after the body',
    send: () => rawBody(goodHeader, good.data.subarray(0, -4)),
    code: 'length_mismatch',
    mentions: [String(good.data.length), String(good.data.length - 4)],
  },
  {
    title: 'a gap',
    send: () => {
      const { header } = headerOf(stepBody(SEED));
      for (const [name, entry] of Object.entries(header)) {
        if (name !== 'losses') entry.data_offsets = [entry.data_offsets[0] + 4, entry.data_offsets[1] + 4];
      }
      return rawBody(JSON.stringify(header), new Uint8Array(good.data.length + 4));
    },
    code: 'invalid_header',
    param: 'layers.fc1.input',
    mentions: ['layers.fc1.input', 'gap', '28'],
  },
  {
    title: 'an overlap',
    send: () => spoiled(SEED, (header) => (header['layers.fc1.input']!.data_offsets = [20, 20 + BATCH * 5 * 4])),
    code: 'invalid_header',
    param: 'layers.fc1.input',
    mentions: ['layers.fc1.input', 'overlap', '20'],
  },
  {
    title: 'two tensors on the same bytes',
    send: () =>
      spoiled(
        SEED,
        (header) => (header['layers.fc2.input']!.data_offsets = [...header['layers.fc1.output_grad']!.data_offsets]),
      ),
    code: 'invalid_header',
    mentions: ['overlap'],
  },
  {
    title: 'reversed offsets',
    send: () => spoiled(SEED, (header) => (header['losses']!.data_offsets = [24, 0])),
    code: 'invalid_header',
    param: 'losses',
    mentions: ['[24,0]'],
  },
  {
    title: 'negative offsets',
    send: () => spoiled(SEED, (header) => (header['losses']!.data_offsets = [-24, 0])),
    code: 'invalid_header',
    param: 'losses',
    mentions: ['[-24,0]'],
  },
  {
    title: 'offsets that do not fit the shape',
    send: () => spoiled(SEED, (header) => (header['losses']!.shape = [BATCH + 1])),
    code: 'invalid_header',
    param: 'losses',
    mentions: ['[7]', '28', '24'],
  },
  {
    title: 'a negative size',
    send: () => spoiled(SEED, (header) => (header['losses']!.shape = [-1, -6])),
    code: 'invalid_header',
    param: 'losses',
    mentions: ['[-1,-6]'],
  },
  {
    title: 'a shape whose product overflows',
    send: () => spoiled(SEED, (header) => (header['losses']!.shape = [2 ** 53 - 1, 2 ** 53 - 1])),
    code: 'invalid_header',
    param: 'losses',
    mentions: ['9007199254740991'],
  },
  {
    title: 'a dtype nobody knows',
    send: () => spoiled(SEED, (header) => (header['losses']!.dtype = 'F33')),
    code: 'invalid_header',
    param: 'losses',
    mentions: ['F33'],
  },
  {
    title: 'a header that is not JSON',
    send: () => rawBody('{"losses": nonsense', good.data),
    code: 'invalid_header',
    mentions: ['JSON'],
  },
  {
    title: 'a header that is an array',
    send: () => rawBody('[1]', good.data),
    code: 'invalid_header',
    mentions: ['JSON object'],
  },
  {
    title: 'a header that is null',
    send: () => rawBody('null', good.data),
    code: 'invalid_header',
    mentions: ['JSON object'],
  },
  {
    title: 'a header that is not UTF-8',
    send: () => {
      const body = stepBody(SEED);
      body[10] = 0xff;
      return body;
    },
    code: 'invalid_header',
  },
  {
    title: 'metadata that is not text',
    send: () => rawBody(goodHeader.replace('{', '{"__metadata__":{"a":1},'), good.data),
    code: 'invalid_header',
    param: '__metadata__',
    mentions: ['__metadata__.a'],
  },
  {
    title: 'the same name twice',
    send: () => rawBody(goodHeader.replace('{', `{"losses":${JSON.stringify(good.header['losses'])},`), good.data),
    code: 'invalid_header',
    param: 'losses',
    mentions: ['losses'],
  },
  {
    title: 'a header of length 0',
    send: () => rawBody('', good.data, 0n),
    code: 'invalid_header',
    mentions: ['0 bytes'],
  },
  {
    title: 'a header longer than the limit',
    send: () => rawBody(goodHeader, good.data, BigInt(LIMITS.headerBytes) + 1n),
    code: 'invalid_header',
    mentions: ['1048577', '1048576'],
  },
  {
    title: 'a header of 2⁶⁴ − 1 bytes',
    send: () => rawBody(goodHeader, good.data, 2n ** 64n - 1n),
    code: 'invalid_header',
    mentions: ['18446744073709551615'],
  },
  {
    title: 'a header longer than the body',
    send: () => rawBody(goodHeader, good.data, 100_000n),
    code: 'length_mismatch',
    mentions: ['100000'],
  },
  { title: 'a body of 7 bytes', send: () => new Uint8Array(7), code: 'length_mismatch', mentions: ['7 bytes'] },
  { title: 'an empty body', send: () => new Uint8Array(0), code: 'length_mismatch', mentions: ['0 bytes'] },
];

const VALUES: readonly BadStep[] = [
  ...[
    { name: 'losses', index: 3, at: 'losses[3]' },
    { name: 'layers.fc1.input', index: 17, at: 'layers.fc1.input[3, 2]' },
    { name: 'layers.fc2.output_grad', index: BATCH * 3 - 1, at: 'layers.fc2.output_grad[5, 2]' },
  ].flatMap(({ name, index, at }) =>
    [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY].map((value): BadStep => ({
      title: `${String(value)} in ${name}`,
      send: () => withValue(name, index, value),
      code: 'non_finite_value',
      param: name,
      mentions: [at, String(value)],
    })),
  ),
  ...[
    { what: 'inputs', name: 'layers.fc1.input', value: 1e30, layer: 'fc1' },
    { what: 'output gradients', name: 'layers.fc2.output_grad', value: -3e25, layer: 'fc2' },
    { what: 'float32’s largest number', name: 'layers.fc2.input', value: 3.4028234663852886e38, layer: 'fc2' },
  ].map(({ what, name, value, layer }): BadStep => ({
    title: `${what} that overflow inside the step`,
    send: () => withValue(name, 0, value),
    code: 'numerical_failure',
    param: `layers.${layer}`,
    mentions: [layer],
  })),
  {
    title: 'float64 values beyond float32',
    send: () =>
      stepBodyWith(SEED, {
        name: 'layers.fc1.input',
        shape: [BATCH, 5],
        values: new Float64Array(BATCH * 5).fill(1e300),
      }),
    code: 'non_finite_value',
    param: 'layers.fc1.input',
    mentions: ['[0, 0]', '1e+300', 'float32'],
  },
  {
    title: 'losses beyond float32',
    send: () => stepBodyWith(SEED, { name: 'losses', shape: [BATCH], values: new Float64Array(BATCH).fill(1.7e308) }),
    code: 'non_finite_value',
    param: 'losses',
  },
];

const stepAt = (n: string): BadStep => ({
  title: `step number ${n}`,
  send: () => putStep(stack.url, disturbed, encodeURIComponent(n), stepBody(SEED)),
  code: 'invalid_parameter',
  param: 'n',
  mentions: [n],
});

const REQUESTS: readonly BadStep[] = [
  ...['one', '-1', '1.5', '1e3', '01', '+1', ' 1', '0x1', '١', '99999999999999999999999'].map(stepAt),
  {
    title: 'a step far ahead',
    send: () => putStep(stack.url, disturbed, 999_999, stepBody(SEED)),
    code: 'step_out_of_order',
    status: 412,
    param: 'n',
    mentions: ['999999'],
  },
  {
    title: 'another content type',
    send: (n) => call(stack.url, 'PUT', path(n), { body: stepBody(SEED), type: 'application/octet-stream' }),
    code: 'unsupported_media_type',
    status: 415,
    param: 'Content-Type',
    mentions: ['application/octet-stream'],
  },
  {
    title: 'no content type',
    send: (n) => call(stack.url, 'PUT', path(n), { body: stepBody(SEED) }),
    code: 'unsupported_media_type',
    status: 415,
    param: 'Content-Type',
    mentions: ['no content type'],
  },
  {
    title: 'a chunked body',
    send: (n) =>
      call(stack.url, 'PUT', path(n), { body: new Blob([stepBody(SEED)]).stream(), type: SAFETENSORS_CONTENT_TYPE }),
    code: 'length_required',
    status: 411,
    param: 'Content-Length',
    mentions: ['Content-Length'],
  },
];

/** Steps both sessions have taken. */
let correct: number;

/** A pair of sessions to begin with: the first gets the bad steps too, the second the correct ones alone. */
async function startPair(): Promise<void> {
  disturbed = (await newSession(stack.url)).id;
  undisturbed = (await newSession(stack.url)).id;
  correct = 0;
}

/** Step `correct` in both sessions: the same bytes in both, whatever the first has been sent in between. */
async function stepBoth(): Promise<void> {
  const n = correct++;
  await expectSameStep(stack.url, [undisturbed, disturbed], n, stepBody(n));
}

describe.each([
  { kind: 'shapes', steps: SHAPES },
  { kind: 'names and dtypes', steps: NAMES },
  { kind: 'the safetensors header', steps: HEADERS },
  { kind: 'values', steps: VALUES },
  { kind: 'the request', steps: REQUESTS },
])('$kind', ({ steps }) => {
  beforeAll(startPair);

  // The first of each kind meets a session without a step, the others one that has taken some.
  it.each(steps)('$title', async (bad) => {
    onTestFailed(startPair);
    await refuses(bad);
    await stepBoth();
  });
});

async function refuses({ send, code, status = 422, param, mentions }: BadStep): Promise<void> {
  const before = await describeSession(stack.url, disturbed);
  expect(before.nextStep).toBe(correct);
  const sent = send(correct);
  const answer = await (sent instanceof Promise ? sent : putStep(stack.url, disturbed, correct, sent));
  const problem = expectProblem(answer, { status, code, param, mentions });
  if (code === 'step_out_of_order') expect(problem.expectedStep).toBe(correct);
  const after = await describeSession(stack.url, disturbed);
  expect({ ...after, expiresAt: '' }).toEqual({ ...before, expiresAt: '' });
}
