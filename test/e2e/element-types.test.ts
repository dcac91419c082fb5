/** Half precision and int8 on the wire, in every mode: how far a step is from the one in full, what is refused, and JSON beside them. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { DdpnoptClient, type StepInput, type TrainingSession } from '../../clients/js/index.ts';
import { startStack, type LocalStack } from '../../deploy/local/stack.ts';
import type { HostedDefinitionInput } from '../../shared/hosted-definition.ts';
import { encode, readHeader, readValues, type NamedTensor, type NarrowDtype } from '../../shared/safetensors.ts';
import { mulberry32 } from '../oracle/network.ts';
import { BATCH, call, describeSession, encodeRaw, expectProblem, expectSameStep, getStep, headerOf, json, LAYERS, newSession, putStep, rawBody, stepTensors, type Answer, type ExpectedProblem } from './support.ts'; // prettier-ignore

let stack: LocalStack;
let client: DdpnoptClient;
beforeAll(async () => {
  stack = await startStack({ engine: 'reference' });
  client = new DdpnoptClient({ url: stack.url });
});
afterAll(() => stack.stop());

const NARROW = ['F16', 'BF16', 'I8'] as const;

function layersInput(seed: number): StepInput {
  const tensors = new Map(stepTensors(seed).map(({ name, values }) => [name, values]));
  const layer = (name: string) => ({
    input: tensors.get(`layers.${name}.input`)!,
    outputGradient: tensors.get(`layers.${name}.output_grad`)!,
  });
  return { losses: tensors.get('losses')!, layers: { fc1: layer('fc1'), fc2: layer('fc2') } };
}

async function changesOf(session: TrainingSession, input: StepInput, sendAs?: NarrowDtype): Promise<number[][]> {
  const reply = await session.step(input, sendAs === undefined ? {} : { sendAs });
  if (reply.kind !== 'update') throw new Error('no update');
  return [...reply.changes.values()].map(({ weight }) => [...weight!]);
}

function relativeError(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  const norm = (values: number[]): number => Math.hypot(...values);
  return norm(Array.from(expected, (value, i) => actual[i]! - value)) / norm(Array.from(expected));
}

describe('layers mode', () => {
  const definition = { layers: LAYERS, optimizer: { coupling: 'gauss-newton-step' } } as const;

  // Rounding moves an input by 2⁻¹² (F16) or 2⁻⁹ (BF16) of itself on average; the step of a well-scaled batch by a few times that.
  it.each([
    { sendAs: 'F16', bound: 0.005 },
    { sendAs: 'BF16', bound: 0.04 },
    { sendAs: 'I8', bound: 0.2 },
  ] as const)('a step sent as $sendAs is within $bound of the one in float32', async ({ sendAs, bound }) => {
    const full = await client.createSession(definition);
    const narrow = await client.createSession({ ...definition, transport: { int8: sendAs === 'I8' } });
    for (let n = 0; n < 3; n++) {
      const expected = await changesOf(full, layersInput(n));
      const actual = await changesOf(narrow, layersInput(n), sendAs);
      for (const [t, change] of actual.entries()) {
        const error = relativeError(change, expected[t]!);
        expect(error).toBeLessThan(bound);
        expect(error).toBeGreaterThan(0);
      }
    }
  });

  it.each([
    { reply: 'f16', dtype: 'F16', unit: 2 ** -11 },
    { reply: 'bf16', dtype: 'BF16', unit: 2 ** -8 },
    { reply: 'int8', dtype: 'I8', unit: 1 / 253 },
  ] as const)('a reply in $reply is the one in full, rounded', async ({ reply, dtype, unit }) => {
    const { id } = await newSession(stack.url, definition);
    const { id: narrow } = await newSession(stack.url, { ...definition, transport: { reply } });
    const body = encode(stepTensors(1));
    const [expected, actual] = [await putStep(stack.url, id, 0, body), await putStep(stack.url, narrow, 0, body)];
    const header = readHeader(actual.bytes);
    const full = readHeader(expected.bytes);
    for (const entry of header.entries) {
      expect(entry.dtype).toBe(dtype);
      const exact = readValues(
        expected.bytes,
        full,
        full.entries.find(({ name }) => name === entry.name)!,
      );
      const largest = Math.max(...exact.map(Math.abs));
      for (const [i, value] of readValues(actual.bytes, header, entry).entries()) {
        const size = dtype === 'I8' ? largest : Math.max(Math.abs(exact[i]!), 2 ** -14);
        expect(Math.abs(value - exact[i]!)).toBeLessThanOrEqual(unit * size);
      }
    }
  });

  it('a policy keeps what is solved with in full', async () => {
    const { id } = await newSession(stack.url, {
      layers: LAYERS,
      policyEncoding: 'sample-factors',
      transport: { reply: 'bf16' },
    });
    const { bytes } = await putStep(stack.url, id, 0, encode(stepTensors(1)));
    const dtypes = readHeader(bytes).entries.map(({ name, dtype }) => [name.replace('layers.fc1.policy.', ''), dtype]);
    expect(Object.fromEntries(dtypes)).toMatchObject({
      input: 'BF16',
      output_grad: 'BF16',
      chol: 'F64',
      target: 'F64',
    });
  });

  it('a tensor with numbers that float16 does not have stays in full', async () => {
    const optimizer = {
      coupling: 'layerwise',
      metric: { kind: 'identity' },
      learningRate: { kind: 'constant', value: 1e6 },
      terminalCurvature: { kind: 'gradient', lossScale: { floor: 1e-6 } },
    } as const;
    const { id } = await newSession(stack.url, { layers: LAYERS, optimizer, transport: { reply: 'f16' } });
    const [losses, ...others] = stepTensors(1);
    const small = others.map((tensor) => ({ ...tensor, values: tensor.values.map((v) => (tensor.name.includes('fc2') ? v / 1e6 : v)) })); // prettier-ignore
    const { bytes } = await putStep(
      stack.url,
      id,
      0,
      encode([{ ...losses!, values: losses!.values.fill(1e6) }, ...small]),
    );
    const header = readHeader(bytes);
    const named = (name: string) => header.entries.find((entry) => entry.name === `layers.${name}`)!;
    expect(Math.max(...readValues(bytes, header, named('fc1.update.weight')).map(Math.abs))).toBeGreaterThan(65_520);
    expect(named('fc1.update.weight').dtype).toBe('F64');
    expect(named('fc2.update.weight').dtype).toBe('F16');
  });
});

describe('kernel mode', () => {
  const definition = { layers: [{ name: 'a' }], optimizer: { coupling: 'value' as const } };

  it.each([
    { sendAs: 'F16', bound: 0.005 },
    { sendAs: 'BF16', bound: 0.04 },
    { sendAs: 'I8', bound: 0.1 },
  ] as const)('kernels sent as $sendAs give coefficients within $bound', async ({ sendAs, bound }) => {
    const random = mulberry32(4);
    const B = 8;
    const root = Float32Array.from({ length: B * B }, () => random() - 0.5);
    const gram = root.map((_, index) => {
      const [i, j] = [Math.floor(index / B), index % B];
      return Array.from({ length: B }, (__, k) => root[i * B + k]! * root[j * B + k]!).reduce((a, b) => a + b);
    });
    const input = { losses: Float32Array.from({ length: B }, () => random() + 0.2), layers: { a: { gram } } };
    const [full, narrow] = [
      await client.createKernelSession(definition),
      await client.createKernelSession({ ...definition, transport: { int8: true } }),
    ];
    const [expected, actual] = [await full.step(input), await narrow.step(input, { sendAs })];
    if (expected.kind !== 'coefficients' || actual.kind !== 'coefficients') throw new Error('no coefficients');
    expect(actual.bytesSent).toBeLessThan(expected.bytesSent);
    expect(relativeError(actual.changes.get('a')!.coefficients, expected.changes.get('a')!.coefficients)).toBeLessThan(
      bound,
    );
  });

  it('has no reply to narrow', async () => {
    const created = client.createKernelSession({ ...definition, transport: { reply: 'f16' } as object });
    await expect(created).rejects.toMatchObject({ problem: { code: 'invalid_parameter', param: 'transport.reply' } });
    await expect(created).rejects.toThrow('stays in full');
  });
});

describe('hosted mode', () => {
  it.each(NARROW)('samples sent as %s train nearly the same model, and predictions come as asked', async (sendAs) => {
    const definition: Omit<HostedDefinitionInput, 'mode'> = {
      model: { input: [2], layers: [{ kind: 'dense', name: 'a', outputs: 2 }] },
      loss: { kind: 'softmax-cross-entropy' },
    };
    const full = await client.createHostedSession(definition);
    const narrow = await client.createHostedSession({ ...definition, transport: { int8: true, reply: 'bf16' } });
    const x = Float32Array.of(0.3, -0.7, 0.9, 0.2, -0.4, 0.55);
    const batch = { x, y: [0, 1, 1] };
    const [expected, actual] = [await full.step(batch), await narrow.step(batch, { sendAs })];
    expect(Math.abs(actual.loss - expected.loss)).toBeLessThan(0.02);
    const [exact, rounded] = [await full.predict({ x }), await narrow.predict({ x })];
    expect(relativeError(rounded.outputs, exact.outputs)).toBeLessThan(0.1);
    const answer = await call(stack.url, 'POST', `/v1/sessions/${narrow.session.id}/predictions`, {
      body: encode([{ name: 'x', shape: [3, 2], values: x, dtype: sendAs }]),
      type: 'application/vnd.safetensors',
    });
    expect(readHeader(answer.bytes).entries).toMatchObject([{ name: 'outputs', dtype: 'BF16' }]);
  });
});

/** A correct step whose first tensor is I8 with this `__metadata__`. */
function withInt8(metadata: Record<string, string> | null): Uint8Array<ArrayBuffer> {
  const tensors = stepTensors(5).map((tensor): NamedTensor =>
    tensor.name === 'layers.fc1.input' ? { ...tensor, dtype: 'I8' } : tensor,
  );
  const { header, data } = headerOf(encode(tensors));
  const document: Record<string, unknown> = { ...header };
  delete document['__metadata__'];
  return rawBody(JSON.stringify(metadata === null ? document : { ...document, __metadata__: metadata }), data);
}

describe('refusals that change nothing', () => {
  let disturbed: string;
  let undisturbed: string;
  let steps = 0;
  beforeAll(async () => {
    const definition = { layers: LAYERS, transport: { int8: true } } as const;
    disturbed = (await newSession(stack.url, definition)).id;
    undisturbed = (await newSession(stack.url, definition)).id;
  });
  const ofJson = (document: unknown): Promise<Answer> =>
    call(stack.url, 'PUT', `/v1/sessions/${disturbed}/steps/${steps}`, {
      body: typeof document === 'string' ? document : JSON.stringify(document),
      type: 'application/json',
    });
  const asJson = (seed: number): Record<string, unknown> =>
    Object.fromEntries(
      stepTensors(seed).map(({ name, shape, values }) => {
        const [rows = 1, columns] = shape;
        const numbers = [...values];
        return [
          name,
          columns === undefined
            ? numbers
            : Array.from({ length: rows }, (_, i) => numbers.slice(i * columns, (i + 1) * columns)),
        ];
      }),
    );
  const raw = (dtype: string, bits: Uint16Array<ArrayBuffer>): Uint8Array<ArrayBuffer> =>
    encodeRaw([
      { name: 'losses', dtype, shape: [BATCH], values: bits },
      ...stepTensors(5).slice(1).map((tensor) => ({ ...tensor, dtype: 'F32', values: tensor.values as Float32Array<ArrayBuffer> })), // prettier-ignore
    ]);

  const CASES: readonly (Partial<ExpectedProblem> & {
    title: string;
    send: () => Uint8Array<ArrayBuffer> | Promise<Answer>;
  })[] = [
    {
      title: 'I8 without a scale',
      send: () => withInt8(null),
      code: 'invalid_header',
      param: 'layers.fc1.input',
      mentions: ['layers.fc1.input.scale', 'missing'],
    },
    {
      title: 'I8 with a scale of 0',
      send: () => withInt8({ 'layers.fc1.input.scale': '0' }),
      code: 'invalid_header',
      param: 'layers.fc1.input',
      mentions: ['"0"'],
    },
    {
      title: 'a float16 that is NaN',
      send: () => raw('F16', Uint16Array.of(0x3c00, 0x3c00, 0x7e00, 0, 0, 0)),
      code: 'non_finite_value',
      param: 'losses',
      mentions: ['losses[2] is NaN'],
    },
    {
      title: 'a bfloat16 that is infinite',
      send: () => raw('BF16', Uint16Array.of(0xff80, 0, 0, 0, 0, 0)),
      code: 'non_finite_value',
      param: 'losses',
      mentions: ['losses[0] is -Infinity'],
    },
    { title: 'JSON that breaks off', send: () => ofJson('{"losses": [1'), status: 400, code: 'malformed_json' },
    {
      title: 'JSON that is a list',
      send: () => ofJson([1, 2]),
      code: 'invalid_parameter',
      mentions: ['[1,2]', 'object of tensors'],
    },
    {
      title: 'JSON with lists of two lengths',
      send: () => ofJson({ ...asJson(5), 'layers.fc1.input': [[1, 2, 3, 4, 5], [1]] }),
      code: 'invalid_parameter',
      param: 'layers.fc1.input',
      mentions: ['layers.fc1.input[1]', 'a list of 5'],
    },
    {
      title: 'JSON with null for a number',
      send: () => ofJson({ ...asJson(5), losses: [1, 1, null, 1, 1, 1] }),
      code: 'invalid_parameter',
      param: 'losses',
      mentions: ['losses[2] is null'],
    },
    {
      title: 'JSON with an object for a tensor',
      send: () => ofJson({ ...asJson(5), losses: { a: 1 } }),
      code: 'invalid_parameter',
      param: 'losses',
      mentions: ['an object'],
    },
    {
      title: 'JSON of another shape',
      send: () => ofJson({ ...asJson(5), losses: [1] }),
      code: 'shape_mismatch',
      param: 'layers.fc1.input',
    },
    {
      title: 'JSON without a tensor',
      send: () => ofJson({ losses: [1] }),
      code: 'missing_tensor',
      param: 'layers.fc1.input',
    },
    {
      title: 'JSON with a number beyond float64',
      send: () => ofJson(JSON.stringify({ ...asJson(5), losses: [9, 1, 1, 1, 1, 1] }).replace('[9,', '[1e999,')),
      code: 'non_finite_value',
      param: 'losses',
    },
    {
      title: 'JSON that is too long',
      send: () => ofJson({ ...asJson(5), losses: new Array(40_000).fill(1) }),
      status: 413,
      code: 'body_too_large',
      mentions: ['65536'],
    },
  ];

  it.each(CASES)('$title', async ({ send, status = 422, code, param, mentions }) => {
    const before = await describeSession(stack.url, disturbed);
    const sent = send();
    const answer = await (sent instanceof Promise ? sent : putStep(stack.url, disturbed, steps, sent));
    expectProblem(answer, { status, code: code!, param, mentions });
    expect({ ...(await describeSession(stack.url, disturbed)), expiresAt: '' }).toEqual({ ...before, expiresAt: '' });
    const n = steps++;
    await expectSameStep(stack.url, [undisturbed, disturbed], n, encode(stepTensors(200 + n)));
  });

  it('I8 in a session that did not ask for it', async () => {
    const { id } = await newSession(stack.url);
    const answer = await putStep(stack.url, id, 0, withInt8({ 'layers.fc1.input.scale': '0.01' }));
    const problem = expectProblem(answer, {
      status: 422,
      code: 'dtype_unsupported',
      param: 'layers.fc1.input',
      mentions: ['I8'],
    });
    expect(problem.remedy).toContain('transport.int8');
  });

  describe('JSON', () => {
    it('is the same step as the safetensors of its numbers, and its reply comes in either form', async () => {
      const { id } = await newSession(stack.url);
      const { id: other } = await newSession(stack.url);
      const body = JSON.stringify(asJson(7));
      const path = `/v1/sessions/${id}/steps/0`;
      const answer = await call(stack.url, 'PUT', path, {
        body,
        type: 'application/json; charset=utf-8',
        accept: 'application/json',
      });
      expect(answer.status).toBe(200);
      expect(answer.headers.get('content-type')).toBe('application/json');
      const plain = await putStep(stack.url, other, 0, encode(stepTensors(7)));
      const document = json(answer) as Record<string, unknown>;
      const header = readHeader(plain.bytes);
      for (const entry of header.entries) {
        const values = [...readValues(plain.bytes, header, entry)];
        const flat = (item: unknown): unknown[] => (Array.isArray(item) ? item.flatMap(flat) : [item]);
        expect(flat(document[entry.name])).toEqual(values);
      }
      expect(document['__metadata__']).toEqual({ metrics: JSON.parse(header.metadata['metrics']!) as unknown });
      // The stored reply, in the form that is asked for; the same JSON again is the same step.
      expect((await getStep(stack.url, id, 0)).bytes).toEqual(plain.bytes);
      expect(json(await call(stack.url, 'GET', path, { accept: 'application/json' }))).toEqual(document);
      expect((await call(stack.url, 'PUT', path, { body, type: 'application/json' })).bytes).toEqual(plain.bytes);
    });

    it('is not what a long reply comes as, nor one that did not ask', async () => {
      const layers = [{ name: 'a', kind: 'dense', inputs: 120, outputs: 100 }] as const;
      const { id } = await newSession(stack.url, { layers: [...layers], optimizer: { coupling: 'value' } });
      const body = encode(stepTensors(3, [...layers], 2));
      expect((await putStep(stack.url, id, 0, body)).headers.get('content-type')).toBe('application/vnd.safetensors');
      const asked = await call(stack.url, 'GET', `/v1/sessions/${id}/steps/0`, { accept: 'application/json' });
      expect(asked.headers.get('content-type')).toBe('application/vnd.safetensors');
    });
  });
});
