/**
 * Hosted mode refuses every bad model, step and prediction with a problem that names field, value and remedy, and leaves the
 * session as it was: the next correct step gives the bytes it gives in a session that saw no bad one.
 */
import { beforeAll, describe, expect, it, onTestFailed } from 'vitest';
import type { ProblemCode } from '../../shared/errors.ts';
import type { HostedDefinitionInput } from '../../shared/hosted-definition.ts';
import { LIMITS } from '../../shared/limits.ts';
import { encode, SAFETENSORS_CONTENT_TYPE, type NamedTensor } from '../../shared/safetensors.ts';
import { mulberry32 } from '../oracle/network.ts';
import {
  call,
  create,
  describeSession,
  encodeRaw,
  expectProblem,
  expectSameStep,
  LAYERS,
  newSession,
  putStep,
  rawBody,
  type Answer,
} from './support.ts';
import { serveTests } from './stack.ts';

const stack = serveTests({ engine: 'wasm' });

const B = 4;
const MODEL: HostedDefinitionInput['model'] = {
  input: [5],
  layers: [{ kind: 'dense', name: 'fc1', outputs: 4 }, { kind: 'tanh' }, { kind: 'dense', name: 'fc2', outputs: 3 }],
};
const HOSTED: HostedDefinitionInput = { mode: 'hosted', model: MODEL, loss: { kind: 'softmax-cross-entropy' } };

const dense = (outputs: number, name = 'fc1') => ({ kind: 'dense', name, outputs });
const conv = (fields: object = {}) => ({ kind: 'conv2d', name: 'c', outputs: 2, kernel: [2, 2], ...fields });

interface BadDefinition {
  readonly title: string;
  readonly definition: unknown;
  readonly param: string;
  /** What the detail says beside the field's name. */
  readonly mentions: readonly string[];
}

const model = (input: unknown, ...layers: readonly unknown[]): unknown => ({ ...HOSTED, model: { input, layers } });

const DEFINITIONS: readonly BadDefinition[] = [
  {
    title: 'an unknown mode',
    definition: { ...HOSTED, mode: 'remote' },
    param: 'mode',
    mentions: ['"remote"', '"layers" or "kernel" or "hosted"'],
  },
  {
    title: 'a model without a mode',
    definition: { model: MODEL, loss: HOSTED.loss },
    param: 'layers',
    mentions: ['missing', 'mode "layers", which is the default', 'send mode "hosted"'],
  },
  {
    title: 'layers in hosted mode',
    definition: { ...HOSTED, layers: LAYERS },
    param: 'layers',
    mentions: ['mode "hosted" has no such field'],
  },
  {
    title: 'a reply form in hosted mode',
    definition: { ...HOSTED, reply: 'update' },
    param: 'reply',
    mentions: ['"update"', 'mode "hosted" has no such field'],
  },
  {
    title: 'a model in layers mode',
    definition: { mode: 'layers', layers: LAYERS, model: MODEL },
    param: 'model',
    mentions: ['mode "layers" has no such field'],
  },
  {
    title: 'a seed in layers mode',
    definition: { layers: LAYERS, seed: 3 },
    param: 'seed',
    mentions: ['3', 'mode "layers" has no such field'],
  },
  { title: 'no model', definition: { mode: 'hosted', loss: HOSTED.loss }, param: 'model', mentions: ['missing'] },
  { title: 'no loss', definition: { mode: 'hosted', model: MODEL }, param: 'loss', mentions: ['missing'] },
  {
    title: 'an unknown loss',
    definition: { ...HOSTED, loss: { kind: 'hinge' } },
    param: 'loss.kind',
    mentions: ['"hinge"', 'multi-margin'],
  },
  {
    title: 'an unknown layer',
    definition: model([5], { kind: 'lstm', name: 'a' }),
    param: 'model.layers[0].kind',
    mentions: ['"lstm"', 'conv2d'],
  },
  { title: 'no layers', definition: model([5]), param: 'model.layers', mentions: ['[]'] },
  {
    title: 'no layer to train',
    definition: model([5], { kind: 'relu' }),
    param: 'model.layers',
    mentions: ['no layer has parameters', 'add a dense or conv2d layer'],
  },
  {
    title: 'an input of four axes',
    definition: model([1, 2, 3, 4], dense(2)),
    param: 'model.input',
    mentions: ['[1,2,3,4]', '[height, width, channels]', '16384'],
  },
  { title: 'an input of size 0', definition: model([0], dense(2)), param: 'model.input[0]', mentions: ['0', '>=1'] },
  {
    title: 'a convolution of features',
    definition: model([5], conv(), dense(2)),
    param: 'model.layers[0]',
    mentions: ['conv2d c', '[5]', 'it takes [height, width, channels]'],
  },
  {
    title: 'a dense layer of images',
    definition: model([4, 4, 1], dense(2)),
    param: 'model.layers[0]',
    mentions: ['dense fc1', '[4, 4, 1]', 'flatten it first'],
  },
  {
    title: 'a kernel larger than the image',
    definition: model([4, 4, 1], conv({ kernel: [5, 1] }), { kind: 'flatten' }, dense(2)),
    param: 'model.layers[0]',
    mentions: ['[4, 4, 1]', 'the kernel is larger'],
  },
  {
    title: 'groups that do not divide the channels',
    definition: model([4, 4, 3], conv({ groups: 2 }), { kind: 'flatten' }, dense(2)),
    param: 'model.layers[0]',
    mentions: ['2 groups do not divide 3 input channels'],
  },
  {
    title: 'branches that cannot be added',
    definition: model([5], dense(5, 'a'), { kind: 'residual', layers: [dense(4, 'b')] }, dense(2, 'c')),
    param: 'model.layers[1]',
    mentions: ['[4]', '[5]', 'cannot be added'],
  },
  {
    title: 'a branch whose layer does not fit',
    definition: model([5], { kind: 'residual', layers: [dense(5, 'a'), conv()] }, dense(2, 'b')),
    param: 'model.layers[0].layers[1]',
    mentions: ['conv2d c', '[5]'],
  },
  {
    title: 'a model that ends with an image',
    definition: model([4, 4, 1], conv()),
    param: 'model.layers',
    mentions: ['ends with [3, 3, 2]', 'Flatten it'],
  },
  {
    title: 'two layers of one name',
    definition: model([5], dense(4), dense(3)),
    param: 'model.layers',
    mentions: ['two layers are named fc1', 'a name of its own'],
  },
  {
    title: 'a name with a space',
    definition: model([5], dense(4, 'a b')),
    param: 'model.layers[0].name',
    mentions: ['"a b"', '1 to 128 letters'],
  },
  {
    title: 'too many parameters',
    definition: { ...(model([16_384], dense(2000)) as object), optimizer: { metric: { kind: 'identity' } } },
    param: 'model',
    mentions: [String(16_385 * 2000), String(LIMITS.modelParameters), 'narrower'],
  },
  {
    title: 'too much work to refresh the metric',
    definition: model([3000], dense(3000)),
    param: 'model.layers',
    mentions: ['kronecker', '5.4e+10', '1.7e+10', 'narrower layers'],
  },
  {
    title: 'class weights of another number',
    definition: { ...HOSTED, loss: { kind: 'softmax-cross-entropy', classWeights: [1, 2] } },
    param: 'loss.classWeights',
    mentions: ['[1,2]', '2 weights for 3 classes', 'one for each'],
  },
  {
    title: 'weights of another number of outputs',
    definition: { ...HOSTED, loss: { kind: 'logistic', classWeights: [1, 2] } },
    param: 'loss.classWeights',
    mentions: ['2 weights for 3 outputs'],
  },
  {
    title: 'more centres than fit',
    definition: { ...HOSTED, loss: { kind: 'max-mahalanobis-centre', classes: 5 } },
    param: 'loss.classes',
    mentions: ['5 centres do not fit into 3 outputs; at most 4'],
  },
  {
    title: 'a curvature that the hinge lacks',
    definition: {
      ...HOSTED,
      loss: { kind: 'multi-margin', power: 1 },
      optimizer: { terminalCurvature: { kind: 'sampled-fisher' } },
    },
    param: 'loss.power',
    mentions: ['1', 'take power 2'],
  },
  {
    title: 'columns of the Hessian that are not the outputs',
    definition: { ...HOSTED, optimizer: { terminalCurvature: { kind: 'gauss-newton', columns: 2 } } },
    param: 'optimizer.terminalCurvature.columns',
    mentions: ['2', 'as the network has outputs: 3'],
  },
  {
    title: 'momentum with feedback',
    definition: { ...HOSTED, optimizer: { momentum: 0.5 } },
    param: 'optimizer.momentum',
    mentions: ['0.5', 'take another coupling'],
  },
  {
    title: 'a fractional seed',
    definition: { ...HOSTED, seed: 1.5 },
    param: 'seed',
    mentions: ['1.5', 'whole number'],
  },
  { title: 'a seed beyond 32 bits', definition: { ...HOSTED, seed: 2 ** 32 }, param: 'seed', mentions: ['4294967296'] },
];

describe('a definition', () => {
  it.each(DEFINITIONS)('$title', async ({ definition, param, mentions }) => {
    const answer = await create(stack.url, definition);
    const { detail } = expectProblem(answer, { status: 422, code: 'invalid_parameter', param, mentions });
    expect(detail).toMatch(/^\S+ is .*\.$/);
  });

  it.each(['[]', '"hosted"', 'null', '3'])('that is %s', async (body) => {
    const answer = await call(stack.url, 'POST', '/v1/sessions', { body, type: 'application/json' });
    const mentions = [body, 'a JSON object was expected'];
    expectProblem(answer, { status: 422, code: 'invalid_parameter', mentions });
  });
});

/** The tensors of a correct step. */
function tensors(seed: number, batch = B): { x: NamedTensor; y: NamedTensor; weights: NamedTensor } {
  const random = mulberry32(seed);
  const filled = (name: string, shape: readonly number[], value: () => number): NamedTensor => ({
    name,
    shape,
    values: Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, value),
  });
  return {
    x: filled('x', [batch, 5], () => 2 * random() - 1),
    y: filled('y', [batch], () => Math.floor(3 * random())),
    weights: filled('sample_weights', [batch], random),
  };
}

const GOOD = tensors(77);
const step = (replaced: Partial<typeof GOOD> = {}): Uint8Array<ArrayBuffer> =>
  encode(Object.values({ ...GOOD, ...replaced }));
const sized = (name: string, ...shape: readonly number[]): NamedTensor => ({
  name,
  shape,
  values: new Float32Array(shape.reduce((a, b) => a * b, 1)),
});
const changed = (tensor: NamedTensor, index: number, value: number): NamedTensor => {
  const values = Float32Array.from(tensor.values);
  values[index] = value;
  return { ...tensor, values };
};
/** A step in which one tensor has another element type. */
function typed(name: 'x' | 'y' | 'sample_weights', dtype: string, bytes: number): Uint8Array<ArrayBuffer> {
  const good = Object.values(GOOD).map(({ name, shape, values }) => ({
    name,
    dtype: 'F32',
    shape,
    values: values as Float32Array<ArrayBuffer>,
  }));
  return encodeRaw(
    good.map((tensor) => {
      if (tensor.name !== name) return tensor;
      return { ...tensor, dtype, values: new Uint8Array(tensor.values.length * bytes) };
    }),
  );
}

interface BadBody {
  readonly title: string;
  readonly body: Uint8Array<ArrayBuffer>;
  readonly code: ProblemCode;
  readonly param?: string;
  readonly mentions?: readonly string[];
  /** Texts of the remedy. */
  readonly remedy?: string;
}

/** What is as bad in a step as in a prediction. */
const SAMPLES: readonly BadBody[] = [
  {
    title: 'no tensors at all',
    body: encode([]),
    code: 'missing_tensor',
    param: 'x',
    mentions: ['x is missing'],
    remedy: 'shape [B, 5]',
  },
  {
    title: 'no samples',
    body: encode([GOOD.y]),
    code: 'missing_tensor',
    param: 'x',
    mentions: ['x is missing'],
    remedy: 'shape [B, 5]',
  },
  {
    title: 'samples of too many features',
    body: encode([sized('x', B, 6), GOOD.y]),
    code: 'shape_mismatch',
    param: 'x',
    mentions: ['[4, 6]', '[B, 5]', 'B = 4'],
    remedy: 'the sizes the session was created with',
  },
  {
    title: 'one sample without the axis of the batch',
    body: encode([sized('x', 5), sized('y', 1)]),
    code: 'shape_mismatch',
    param: 'x',
    mentions: ['[5]', '[B, 5]'],
    remedy: '2 axes, the samples along the first',
  },
  {
    title: 'samples of an axis too many',
    body: encode([sized('x', B, 5, 1), GOOD.y]),
    code: 'shape_mismatch',
    param: 'x',
    mentions: ['[4, 5, 1]', '[B, 5]'],
    remedy: '2 axes',
  },
  {
    title: 'an empty batch',
    body: encode([sized('x', 0, 5), sized('y', 0)]),
    code: 'shape_mismatch',
    param: 'x',
    mentions: ['[0, 5]', '1 ≤ B ≤ 2048'],
    remedy: 'at least one sample and at most 2048',
  },
  {
    title: 'a batch over the limit',
    body: encode([sized('x', LIMITS.batch + 1, 5), sized('y', LIMITS.batch + 1)]),
    code: 'shape_mismatch',
    param: 'x',
    mentions: ['[2049, 5]', '2048'],
    remedy: 'at most 2048',
  },
  ...(['I8', 'I16', 'I32', 'U8'] as const).map((dtype): BadBody => ({
    title: `samples of type ${dtype}`,
    body: encodeRaw([
      { name: 'x', dtype, shape: [B, 5], values: new Uint8Array(B * 5 * { I8: 1, I16: 2, I32: 4, U8: 1 }[dtype]) },
      { name: 'y', dtype: 'U8', shape: [B], values: new Uint8Array(B) },
    ]),
    code: 'dtype_unsupported',
    param: 'x',
    mentions: [dtype, 'F32, F64, F16 or BF16 was expected'],
    remedy: 'Convert the tensor to F32',
  })),
  ...[Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY].map((value): BadBody => ({
    title: `${String(value)} in the samples`,
    body: encode([changed(GOOD.x, 7, value), GOOD.y]),
    code: 'non_finite_value',
    param: 'x',
    mentions: [`x[1, 2] is ${String(value)}`, 'a finite number was expected'],
    remedy: 'missing value',
  })),
  {
    title: 'samples beyond float32',
    body: encode([{ ...GOOD.x, values: new Float64Array(B * 5).fill(1e300) }, GOOD.y]),
    code: 'non_finite_value',
    param: 'x',
    mentions: ['x[0, 0] is 1e+300', 'infinite in float32'],
  },
  {
    title: 'labels of another batch',
    body: encode([GOOD.x, sized('y', B + 1)]),
    code: 'shape_mismatch',
    param: 'y',
    mentions: ['[5]', '[B]', 'B = 4'],
    remedy: 'the batch of "x"',
  },
  {
    title: 'labels as a matrix of ones and zeros',
    body: encode([GOOD.x, sized('y', B, 3)]),
    code: 'shape_mismatch',
    param: 'y',
    mentions: ['[4, 3]', '[B]'],
  },
  ...[
    { value: 3, what: 'a label out of range' },
    { value: -1, what: 'a negative label' },
    { value: 0.5, what: 'a fractional label' },
  ].map(({ value, what }): BadBody => ({
    title: what,
    body: encode([GOOD.x, changed(GOOD.y, 2, value)]),
    code: 'invalid_index',
    param: 'y',
    mentions: [`y[2] is ${String(value)}`, 'a whole number from 0 to 2'],
    remedy: 'labels counted from 0',
  })),
  {
    title: 'a label that is NaN',
    body: encode([GOOD.x, changed(GOOD.y, 2, Number.NaN)]),
    code: 'non_finite_value',
    param: 'y',
    mentions: ['y[2] is NaN'],
    remedy: 'missing value',
  },
  {
    title: 'a label of 64 bits that is far too large',
    body: encodeRaw([
      { name: 'x', dtype: 'F32', shape: [B, 5], values: new Float32Array(B * 5) },
      { name: 'y', dtype: 'I64', shape: [B], values: BigInt64Array.of(0n, 2n ** 62n, 0n, 0n) },
    ]),
    code: 'invalid_index',
    param: 'y',
    mentions: ['y[1]', '0 to 2'],
  },
  ...(['I8', 'I16', 'BOOL'] as const).map((dtype): BadBody => ({
    title: `labels of type ${dtype}`,
    body: typed('y', dtype, { I8: 1, I16: 2, BOOL: 1 }[dtype]),
    code: 'dtype_unsupported',
    param: 'y',
    mentions: [dtype, 'F32, F64, F16, BF16, I64, I32 or U8 was expected'],
  })),
  {
    title: 'a header that lies about its lengths',
    body: rawBody('{"x":{"dtype":"F32","shape":[4,5],"data_offsets":[0,80]}}', new Uint8Array(79)),
    code: 'length_mismatch',
    mentions: ['80', '79'],
  },
  {
    title: 'a body that is no safetensors file',
    body: new TextEncoder().encode('{"x": [[1, 2, 3]]}'),
    code: 'invalid_header',
  },
];

const STEPS: readonly BadBody[] = [
  // Labels of a wrong type come with sample weights, which a prediction does not take.
  ...SAMPLES,
  {
    title: 'no labels',
    body: encode([GOOD.x]),
    code: 'missing_tensor',
    param: 'y',
    mentions: ['y is missing'],
    remedy: 'y with shape [4]',
  },
  {
    title: 'a tensor nobody knows',
    body: encode([GOOD.x, GOOD.y, sized('mask', B)]),
    code: 'unknown_tensor',
    param: 'mask',
    mentions: ['"mask" is no tensor of a step'],
    remedy: 'Send x, y, and nothing else; sample_weights may be added.',
  },
  {
    title: 'the tensors of layers mode',
    body: encode([sized('losses', B)]),
    code: 'unknown_tensor',
    param: 'losses',
    mentions: ['"losses"'],
  },
  {
    title: 'sample weights of another batch',
    body: step({ weights: sized('sample_weights', B - 1) }),
    code: 'shape_mismatch',
    param: 'sample_weights',
    mentions: ['[3]', '[B]', 'B = 4'],
  },
  {
    title: 'one sample weight for all',
    body: step({ weights: sized('sample_weights') }),
    code: 'shape_mismatch',
    param: 'sample_weights',
    mentions: ['[]', '[B]'],
  },
  {
    title: 'sample weights of type I64',
    body: typed('sample_weights', 'I64', 8),
    code: 'dtype_unsupported',
    param: 'sample_weights',
    mentions: ['I64', 'F32, F64, F16 or BF16'],
  },
  {
    title: 'a negative sample weight',
    body: step({ weights: changed(GOOD.weights, 3, -1) }),
    code: 'invalid_parameter',
    param: 'sample_weights',
    mentions: ['sample_weights[3] is -1', 'a number of at least 0'],
    remedy: 'Weigh a sample with 0',
  },
  {
    title: 'a sample weight that is infinite',
    body: step({ weights: changed(GOOD.weights, 3, Number.POSITIVE_INFINITY) }),
    code: 'non_finite_value',
    param: 'sample_weights',
    mentions: ['sample_weights[3] is Infinity'],
  },
  {
    title: 'samples that overflow inside the step',
    body: step({ x: changed(GOOD.x, 0, 3e38) }),
    code: 'numerical_failure',
    mentions: ['fc1'],
    remedy: 'scale',
  },
];

/** Two sessions of one definition: the first gets the bad bodies too, the second the correct steps alone. */
let disturbed: string;
let undisturbed: string;
let correct: number;

async function startPair(definition: HostedDefinitionInput): Promise<void> {
  disturbed = (await newSession(stack.url, definition)).id;
  undisturbed = (await newSession(stack.url, definition)).id;
  correct = 0;
}

const weightsOf = async (id: string): Promise<Uint8Array> =>
  (await call(stack.url, 'GET', `/v1/sessions/${id}/weights`)).bytes;

function predict(id: string, body: Uint8Array<ArrayBuffer>): Promise<Answer> {
  return call(stack.url, 'POST', `/v1/sessions/${id}/predictions`, { body, type: SAFETENSORS_CONTENT_TYPE });
}

/** The body is refused, and what comes after it is as if it had never been sent. */
async function refuses(
  send: () => Promise<Answer>,
  { code, param, mentions, remedy }: Omit<BadBody, 'title' | 'body'>,
  good: Uint8Array<ArrayBuffer>,
): Promise<void> {
  const before = await describeSession(stack.url, disturbed);
  const problem = expectProblem(await send(), { status: 422, code, param, mentions });
  expect(problem.remedy).toContain(remedy ?? '');
  expect({ ...(await describeSession(stack.url, disturbed)), expiresAt: '' }).toEqual({ ...before, expiresAt: '' });
  const n = correct++;
  await expectSameStep(stack.url, [undisturbed, disturbed], n, good);
  expect(Buffer.compare(await weightsOf(disturbed), await weightsOf(undisturbed))).toBe(0);
}

const goodStep = (): Uint8Array<ArrayBuffer> => encode(Object.values(tensors(correct)));

describe('a step', () => {
  beforeAll(() => startPair(HOSTED));
  it.each(STEPS)('$title', async ({ body, ...expected }) => {
    onTestFailed(() => startPair(HOSTED));
    await refuses(() => putStep(stack.url, disturbed, correct, body), expected, goodStep());
  });
});

describe('a prediction', () => {
  beforeAll(() => startPair(HOSTED));
  const cases: readonly BadBody[] = [
    ...SAMPLES.filter(({ title }) => !title.startsWith('labels of type')),
    {
      title: 'sample weights',
      body: step(),
      code: 'unknown_tensor',
      param: 'sample_weights',
      mentions: ['"sample_weights" is no tensor of a prediction'],
      remedy: 'Send x, and nothing else; y may be added.',
    },
    {
      title: 'samples that overflow inside the model',
      body: encode([{ ...GOOD.x, values: new Float32Array(B * 5).fill(3e38) }]),
      code: 'numerical_failure',
      param: 'x',
      mentions: ['overflows float32'],
      remedy: 'scale of x',
    },
  ];
  it.each(cases)('$title', async ({ body, ...expected }) => {
    onTestFailed(() => startPair(HOSTED));
    await refuses(() => predict(disturbed, body), expected, goodStep());
  });

  it.each([
    { title: 'another content type', type: 'application/octet-stream', status: 415, code: 'unsupported_media_type' },
    { title: 'no content type', type: undefined, status: 415, code: 'unsupported_media_type' },
  ] as const)('$title', async ({ type, status, code }) => {
    const answer = await call(stack.url, 'POST', `/v1/sessions/${disturbed}/predictions`, {
      body: encode([GOOD.x]),
      ...(type === undefined ? {} : { type }),
    });
    expectProblem(answer, { status, code, param: 'Content-Type' });
  });

  it('a chunked body', async () => {
    const body = new Blob([encode([GOOD.x])]).stream();
    const answer = await call(stack.url, 'POST', `/v1/sessions/${disturbed}/predictions`, {
      body,
      type: SAFETENSORS_CONTENT_TYPE,
    });
    expectProblem(answer, { status: 411, code: 'length_required', param: 'Content-Length' });
  });
});

describe('targets', () => {
  const logistic: HostedDefinitionInput = { ...HOSTED, loss: { kind: 'logistic' } };
  const targets: NamedTensor = { name: 'y', shape: [B, 3], values: new Float32Array(B * 3).fill(0.5) };
  const good = encode([GOOD.x, targets]);
  beforeAll(() => startPair(logistic));
  const cases: readonly BadBody[] = [
    ...[-0.25, 1.5].map((value): BadBody => ({
      title: `of ${String(value)}`,
      body: encode([GOOD.x, changed(targets, 5, value)]),
      code: 'invalid_parameter',
      param: 'y',
      mentions: [`y[1, 2] is ${String(value)}`, 'a number from 0 to 1'],
      remedy: 'probability',
    })),
    {
      title: 'in place of which there are labels',
      body: encode([GOOD.x, GOOD.y]),
      code: 'shape_mismatch',
      param: 'y',
      mentions: ['[4]', '[B, 3]'],
    },
    {
      title: 'of a whole-number type',
      body: encodeRaw([
        { name: 'x', dtype: 'F32', shape: [B, 5], values: new Float32Array(B * 5) },
        { name: 'y', dtype: 'U8', shape: [B, 3], values: new Uint8Array(B * 3) },
      ]),
      code: 'dtype_unsupported',
      param: 'y',
      mentions: ['U8', 'F32, F64, F16 or BF16'],
    },
  ];
  it.each(cases)('$title', async ({ body, ...expected }) => {
    onTestFailed(() => startPair(logistic));
    await refuses(() => putStep(stack.url, disturbed, correct, body), expected, good);
    await refuses(() => predict(disturbed, body), expected, good);
  });

  it('of any size with the squared error, but not so large that the loss overflows', async () => {
    const { id } = await newSession(stack.url, { ...HOSTED, loss: { kind: 'mse' } });
    const large = encode([GOOD.x, changed(targets, 0, 1e25)]);
    const expected = { status: 422, code: 'numerical_failure' } as const;
    expectProblem(await predict(id, large), { ...expected, param: 'x', mentions: ['loss', 'float32'] });
    expectProblem(await putStep(stack.url, id, 0, large), expected);
    expect((await putStep(stack.url, id, 0, encode([GOOD.x, changed(targets, 0, -100)]))).status).toBe(200);
  });
});

describe('a batch that takes too much', () => {
  interface Large {
    readonly title: string;
    readonly definition: unknown;
    readonly shape: readonly number[];
    readonly mentions: readonly string[];
    /** The most samples that the remedy allows. */
    readonly most: (most: number) => boolean;
    readonly predicts: boolean;
  }
  const image = (...layers: readonly unknown[]): unknown => ({
    ...HOSTED,
    optimizer: { metric: { kind: 'identity' } },
    model: {
      input: [32, 32, 3],
      layers: [...layers, { kind: 'flatten' }, { kind: 'dense', name: 'out', outputs: 3 }],
    },
  });
  const wide = { kind: 'conv2d', name: 'c', outputs: 256, kernel: [3, 3], padding: { kind: 'same' } };
  const pool = { kind: 'max-pooling', window: [32, 32] };
  const cases: readonly Large[] = [
    {
      title: 'bytes of activations',
      definition: image(wide, { kind: 'relu' }, pool),
      shape: [1000, 32, 32, 3],
      mentions: ['A batch of 1000', 'bytes of activations', `more than ${String(LIMITS.activationBytes)}`],
      most: (most) => most > 10 && most < 1000,
      predicts: true,
    },
    {
      title: 'multiplications',
      definition: image(wide, pool, { ...wide, name: 'd', outputs: 4096 }),
      shape: [2000, 32, 32, 3],
      mentions: ['A batch of 2000'],
      most: (most) => most > 0 && most < 2000,
      predicts: true,
    },
    {
      title: 'tangent kernels',
      definition: {
        ...HOSTED,
        optimizer: { metric: { kind: 'adam' } },
        model: { input: [1000], layers: [{ kind: 'dense', name: 'a', outputs: 1000 }] },
      },
      shape: [1000, 1000],
      mentions: ['A batch of 1000', 'tangent kernels', 'more than 1.0e+11'],
      most: (most) => most === Math.floor(Math.sqrt(1e11 / (1001 * 1000))),
      predicts: false,
    },
  ];
  it.each(cases)('$title', async ({ definition, shape, mentions, most, predicts }) => {
    const { id } = await newSession(stack.url, definition as HostedDefinitionInput);
    // The header is enough to refuse it: nothing else needs to be sent.
    const bytes = 4 * shape.reduce((a, b) => a * b, 1);
    expect(bytes).toBeLessThan(LIMITS.bodyBytes);
    const body = encode([sized('x', ...shape), sized('y', shape[0]!)]);
    const expected = { status: 422, code: 'step_too_large', param: 'x', mentions } as const;
    const answers = [await putStep(stack.url, id, 0, body), ...(predicts ? [await predict(id, body)] : [])];
    for (const answer of answers) {
      const { remedy } = expectProblem(answer, expected);
      const allowed = Number(/at most ([0-9]+) samples at once/.exec(remedy)?.[1]);
      expect(most(allowed), remedy).toBe(true);
    }
    expect((await describeSession(stack.url, id)).nextStep).toBe(0);
  });
});

describe('a session in layers mode', () => {
  it('has neither weights nor predictions', async () => {
    const { id } = await newSession(stack.url);
    for (const answer of [
      await call(stack.url, 'GET', `/v1/sessions/${id}/weights`),
      await predict(id, encode([GOOD.x])),
    ]) {
      const mentions = [id, 'not in mode "hosted"'];
      const { remedy } = expectProblem(answer, { status: 409, code: 'not_hosted', mentions });
      expect(remedy).toContain('mode "hosted"');
    }
  });

  it('takes no step of hosted mode', async () => {
    const { id } = await newSession(stack.url);
    const expected = { status: 422, code: 'unknown_tensor', param: 'x', mentions: ['"x"', 'fc1, fc2'] } as const;
    expectProblem(await putStep(stack.url, id, 0, encode([GOOD.x, GOOD.y])), expected);
  });
});

it('a session that does not exist has neither weights nor predictions', async () => {
  const id = 'ses_0123456789abcdef0123456789abcdef';
  const gone = { status: 404, code: 'session_not_found', param: 'id', mentions: [id] } as const;
  expectProblem(await call(stack.url, 'GET', `/v1/sessions/${id}/weights`), gone);
  expectProblem(await predict(id, encode([GOOD.x])), gone);
});

it('other methods are refused with those there are', async () => {
  const { id } = await newSession(stack.url, HOSTED);
  for (const [method, path, allowed] of [
    ['POST', 'weights', 'GET'],
    ['DELETE', 'weights', 'GET'],
    ['GET', 'predictions', 'POST'],
    ['PUT', 'predictions', 'POST'],
  ] as const) {
    const answer = await call(stack.url, method, `/v1/sessions/${id}/${path}`);
    expectProblem(answer, { status: 405, code: 'method_not_allowed', mentions: [allowed] });
    expect(answer.headers.get('allow')).toContain(allowed);
  }
});
