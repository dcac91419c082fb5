/** Steps from parts: the step of the whole batch, whoever sends its parts, in whatever order, however often. */
import { describe, expect, it } from 'vitest';
import { DdpnoptClient } from '../../clients/js/index.ts';
import { problemSchema } from '../../shared/errors.ts';
import {
  encode,
  readHeader,
  readValues,
  SAFETENSORS_CONTENT_TYPE,
  type NamedTensor,
} from '../../shared/safetensors.ts';
import { sessionDefinitionSchema, type SessionDefinitionInput } from '../../shared/session.ts';
import { stepPartsSchema, type StepParts } from '../../shared/step-parts.ts';
import { seededRandom } from '../../shared/random.ts';
import { BATCH, MODEL, randomStep } from '../conformance/bodies.ts';
import {
  call,
  describeSession,
  expectProblem,
  getStep,
  json,
  LAYERS,
  newSession,
  putStep,
  stepBody,
  stepTensors,
  type Answer,
} from './support.ts';
import { serveTests } from './stack.ts';

const stack = serveTests({ engine: 'reference' });

function putPart(id: string, n: number, k: number | string, body: Uint8Array<ArrayBuffer>): Promise<Answer> {
  return call(stack.url, 'PUT', `/v1/sessions/${id}/steps/${n}/parts/${k}`, { body, type: SAFETENSORS_CONTENT_TYPE });
}

function commit(id: string, n: number, parts: unknown): Promise<Answer> {
  return call(stack.url, 'POST', `/v1/sessions/${id}/steps/${n}/commit`, {
    body: JSON.stringify({ parts }),
    type: 'application/json',
  });
}

async function parts(id: string, n: number): Promise<StepParts> {
  return stepPartsSchema.parse(json(await call(stack.url, 'GET', `/v1/sessions/${id}/steps/${n}/parts`)));
}

const drop = (id: string, path: string): Promise<Answer> =>
  call(stack.url, 'DELETE', `/v1/sessions/${id}/steps/${path}`);

type Narrowed = NonNullable<NamedTensor['dtype']>;

/** Rows from `begin` to `end` of every tensor that has the batch's samples along its first axis; the others whole. */
function rowsOf(
  body: Uint8Array,
  batch: number,
  begin: number,
  end: number,
  dtype?: Narrowed,
): Uint8Array<ArrayBuffer> {
  const header = readHeader(body);
  return encode(
    header.entries.map((entry) => {
      const values = readValues(body, header, entry);
      const { name, shape } = entry;
      if (shape[0] !== batch || name.includes('.parameter.')) return { name, shape, values };
      const row = values.length / batch;
      const narrowed = dtype === undefined || name === 'losses' || name === 'y' ? {} : { dtype };
      return {
        name,
        shape: [end - begin, ...shape.slice(1)],
        values: values.slice(begin * row, end * row),
        ...narrowed,
      };
    }),
  );
}

const CASES: { readonly title: string; readonly definition: SessionDefinitionInput }[] = [
  { title: 'layers, policies', definition: { layers: LAYERS } },
  { title: 'layers, policies in inverse factors', definition: { layers: LAYERS, policyEncoding: 'inverse-factors' } },
  {
    title: 'layers, updates with weight decay and gauss-newton',
    definition: {
      layers: [
        { name: 'a', kind: 'dense', inputs: 3, outputs: 2, sequence: true },
        { name: 'b', kind: 'generic', parameters: 4 },
      ],
      optimizer: {
        coupling: 'gauss-newton-step',
        terminalCurvature: { kind: 'gauss-newton', columns: 2 },
        weightDecay: { kind: 'running-cost', rate: 0.1 },
      },
    },
  },
  {
    title: 'layers, judged by the next batch',
    definition: {
      layers: LAYERS,
      optimizer: { coupling: 'value', learningRate: { kind: 'levenberg-marquardt', every: 1 } },
    },
  },
  { title: 'hosted', definition: { mode: 'hosted', model: MODEL, loss: { kind: 'softmax-cross-entropy' } } },
];

describe('parts make up the batch', () => {
  it.each(CASES)('$title: byte for byte the step of all of it', async ({ definition }) => {
    const { id } = await newSession(stack.url, definition);
    const { id: whole } = await newSession(stack.url, definition);
    const random = seededRandom(5);
    const complete = sessionDefinitionSchema.parse(definition);
    for (let n = 0; n < 3; n++) {
      const body = randomStep(complete, random, n);
      const cut = [0, 1, 4, BATCH];
      // In any order, and some of them twice.
      for (const k of [2, 0, 2, 1]) {
        const answer = await putPart(id, n, k, rowsOf(body, BATCH, cut[k]!, cut[k + 1]!));
        expect(answer.status).toBe(200);
      }
      expect(await parts(id, n)).toMatchObject({
        step: n,
        samples: BATCH,
        committed: false,
        parts: [
          { part: 0, samples: 1, firstSample: 0 },
          { part: 1, samples: 3, firstSample: 1 },
          { part: 2, samples: 2, firstSample: 4 },
        ],
      });
      const expected = await putStep(stack.url, whole, n, body);
      const actual = await commit(id, n, 3);
      expect(actual.status).toBe(200);
      expect(Buffer.compare(actual.bytes, expected.bytes)).toBe(0);
      // For the other clients, and for whoever lost the answer.
      for (const again of [await getStep(stack.url, id, n), await commit(id, n, 3)]) {
        expect(Buffer.compare(again.bytes, expected.bytes)).toBe(0);
      }
      expect(await parts(id, n)).toMatchObject({ committed: true, expiresAt: null, samples: BATCH });
      expect((await putPart(id, n, 1, rowsOf(body, BATCH, 1, 4))).status).toBe(200);
      expectProblem(await putPart(id, n, 1, rowsOf(body, BATCH, 1, 5)), { status: 409, code: 'step_applied' });
      expect((await describeSession(stack.url, id)).nextStep).toBe(n + 1);
    }
  });

  it('takes parts in different element types, each as it would be taken alone', async () => {
    const { id } = await newSession(stack.url, { layers: LAYERS, transport: { int8: true } });
    const { id: whole } = await newSession(stack.url);
    const body = stepBody(3);
    const narrow = [undefined, 'F16', 'I8'] as const;
    const pieces = narrow.map((dtype, k) => rowsOf(body, BATCH, 2 * k, 2 * k + 2, dtype));
    for (const [k, piece] of pieces.entries()) expect((await putPart(id, 0, k, piece)).status).toBe(200);
    const headers = pieces.map((piece) => readHeader(piece));
    const joined = headers[0]!.entries.map(({ name, shape }) => ({
      name,
      shape: [BATCH, ...shape.slice(1)],
      values: Float32Array.from(
        pieces.flatMap((piece, k) => {
          const entry = headers[k]!.entries.find((each) => each.name === name)!;
          return [...readValues(piece, headers[k]!, entry)];
        }),
      ),
    }));
    const actual = await commit(id, 0, 3);
    const expected = await putStep(stack.url, whole, 0, encode(joined));
    expect([actual.status, expected.status]).toEqual([200, 200]);
    expect(Buffer.compare(actual.bytes, expected.bytes)).toBe(0);
  });

  it('gives samples without a weight the weight 1', async () => {
    const definition: SessionDefinitionInput = {
      mode: 'hosted',
      model: MODEL,
      loss: { kind: 'softmax-cross-entropy' },
    };
    const { id } = await newSession(stack.url, definition);
    const { id: whole } = await newSession(stack.url, definition);
    const body = randomStep(sessionDefinitionSchema.parse(definition), seededRandom(8));
    const weighed = (part: Uint8Array<ArrayBuffer>, weights: Float32Array): Uint8Array<ArrayBuffer> => {
      const header = readHeader(part);
      const tensors = header.entries.map((entry) => ({ ...entry, values: readValues(part, header, entry) }));
      return encode([
        ...tensors.map(({ name, shape, values }) => ({ name, shape, values })),
        { name: 'sample_weights', shape: [weights.length], values: weights },
      ]);
    };
    await putPart(id, 0, 0, rowsOf(body, BATCH, 0, 2));
    await putPart(id, 0, 1, weighed(rowsOf(body, BATCH, 2, BATCH), Float32Array.of(2, 0, 1, 3)));
    const actual = json(await commit(id, 0, 2));
    expect(actual).toEqual(json(await putStep(stack.url, whole, 0, weighed(body, Float32Array.of(1, 1, 2, 0, 1, 3)))));
  });

  it('kernel mode, without cross-sample terms: diagonals follow one another, statistics are averaged', async () => {
    const definition = {
      mode: 'kernel',
      layers: [{ name: 'a', factors: { inputs: 2, outputs: 1 } }],
      optimizer: { batchCoupling: 'diagonal', coupling: 'value', metric: { kind: 'kronecker' } },
    } satisfies SessionDefinitionInput;
    const { id } = await newSession(stack.url, definition);
    const { id: whole } = await newSession(stack.url, definition);
    const tensors = (losses: number[], diagonal: number[], input: number[], output: number): Uint8Array<ArrayBuffer> =>
      encode([
        { name: 'losses', shape: [losses.length], values: Float64Array.from(losses) },
        { name: 'layers.a.gram_diagonal', shape: [diagonal.length], values: Float64Array.from(diagonal) },
        { name: 'layers.a.factor.input', shape: [3], values: Float64Array.from(input) },
        { name: 'layers.a.factor.output_grad', shape: [1], values: Float64Array.of(output) },
      ]);
    await putPart(id, 0, 0, tensors([1], [3], [4, 0, 2], 8));
    await putPart(id, 0, 1, tensors([2, 0.5, 1.5], [1, 2, 5], [8, 4, 2], 4));
    const actual = await commit(id, 0, 2);
    const expected = await putStep(stack.url, whole, 0, tensors([1, 2, 0.5, 1.5], [3, 1, 2, 5], [7, 3, 2], 5));
    expect([actual.status, expected.status]).toEqual([200, 200]);
    expect(Buffer.compare(actual.bytes, expected.bytes)).toBe(0);
  });
});

describe('refused, and changing nothing', () => {
  const half = (seed: number, layers = LAYERS): Uint8Array<ArrayBuffer> => stepBody(seed, layers, 3);

  it('a commit without all parts says which are missing; with more than it names, which are too many', async () => {
    const { id } = await newSession(stack.url);
    const none = expectProblem(await commit(id, 0, 2), { status: 412, code: 'parts_missing', param: 'parts' });
    expect(none.missingParts).toEqual([0, 1]);
    await putPart(id, 0, 0, half(1));
    await putPart(id, 0, 3, half(2));
    const problem = expectProblem(await commit(id, 0, 4), { status: 412, code: 'parts_missing', mentions: ['1, 2'] });
    expect(problem.missingParts).toEqual([1, 2]);
    expectProblem(await commit(id, 0, 1), { status: 422, code: 'part_conflict', mentions: ['part 3'] });
    for (const count of [0, 1.5, '2', 9999]) {
      expectProblem(await commit(id, 0, count), { status: 422, code: 'invalid_parameter', param: 'parts' });
    }
    expect((await drop(id, '0/parts/3')).status).toBe(204);
    expect((await commit(id, 0, 1)).status).toBe(200);
  });

  it('other bytes for a part that is there; after its deletion they are welcome', async () => {
    const { id } = await newSession(stack.url);
    await putPart(id, 0, 0, half(1));
    expectProblem(await putPart(id, 0, 0, half(2)), { status: 422, code: 'part_conflict', param: 'k' });
    expect((await drop(id, '0/parts/0')).status).toBe(204);
    expect((await drop(id, '0/parts/0')).status).toBe(204);
    expect((await putPart(id, 0, 0, half(2))).status).toBe(200);
    expect((await drop(id, '0/parts')).status).toBe(204);
    expect((await parts(id, 0)).parts).toEqual([]);
  });

  it('of several bodies for one part at once, one is taken', async () => {
    const { id } = await newSession(stack.url);
    const answers = await Promise.all([1, 2, 3, 4].map((seed) => putPart(id, 0, 0, half(seed))));
    const codes = answers.map((answer) => (answer.status === 200 ? 'taken' : problemSchema.parse(json(answer)).code));
    expect(codes.toSorted()).toEqual(['part_conflict', 'part_conflict', 'part_conflict', 'taken']);
    const winner = await commit(id, 0, 1);
    const { id: other } = await newSession(stack.url);
    const expected = await putStep(stack.url, other, 0, half(codes.indexOf('taken') + 1));
    expect(Buffer.compare(winner.bytes, expected.bytes)).toBe(0);
  });

  it('numbers that are none, and steps that are not next', async () => {
    const { id } = await newSession(stack.url);
    for (const k of ['-1', 'x', '1024', '01']) {
      expectProblem(await putPart(id, 0, k, half(1)), { status: 422, code: 'invalid_parameter', param: 'k' });
    }
    const ahead = expectProblem(await putPart(id, 2, 0, half(1)), { status: 412, code: 'step_out_of_order' });
    expect(ahead.expectedStep).toBe(0);
    expectProblem(await commit(id, 2, 1), { status: 412, code: 'step_out_of_order' });
    await putStep(stack.url, id, 0, stepBody(1));
    expectProblem(await putPart(id, 0, 0, half(1)), { status: 409, code: 'step_applied' });
    expectProblem(await commit(id, 0, 1), { status: 422, code: 'step_conflict', mentions: ['as a whole'] });
    expectProblem(await drop(id, '0/parts'), { status: 409, code: 'step_applied' });
  });

  it('parts that do not fit together', async () => {
    const sequence = (positions: number): Uint8Array<ArrayBuffer> =>
      encode([
        { name: 'losses', shape: [1], values: Float32Array.of(1) },
        { name: 'layers.a.input', shape: [1, positions, 1], values: new Float32Array(positions).fill(1) },
        { name: 'layers.a.output_grad', shape: [1, positions, 1], values: new Float32Array(positions).fill(1) },
      ]);
    const layers = [{ name: 'a', kind: 'dense', inputs: 1, outputs: 1, sequence: true }] as const;
    const { id } = await newSession(stack.url, { layers: [...layers], optimizer: { coupling: 'value' } });
    await putPart(id, 0, 0, sequence(2));
    expectProblem(await putPart(id, 0, 1, sequence(3)), {
      status: 422,
      code: 'shape_mismatch',
      param: 'layers.a.input',
      mentions: ['part 1', '[1, 3, 1]', '[1, 2, 1]'],
    });
    const decaying = await newSession(stack.url, {
      layers: LAYERS,
      optimizer: { coupling: 'value', weightDecay: { kind: 'decoupled', rate: 0.1 } },
    });
    const withParameters = (seed: number, value: number): Uint8Array<ArrayBuffer> =>
      encode([
        ...stepTensors(seed, LAYERS, 2),
        { name: 'layers.fc1.parameter.weight', shape: [5, 4], values: new Float32Array(20).fill(value) },
        { name: 'layers.fc2.parameter.weight', shape: [4, 3], values: new Float32Array(12) },
      ]);
    await putPart(decaying.id, 0, 0, withParameters(1, 1));
    expectProblem(await putPart(decaying.id, 0, 1, withParameters(2, 1.5)), {
      status: 422,
      code: 'invalid_parameter',
      param: 'layers.fc1.parameter.weight',
    });
    expect((await commit(decaying.id, 0, 1)).status).toBe(200);
  });

  it('a part that would be too much, as it comes', async () => {
    const layers: typeof LAYERS = [{ name: 'fc', kind: 'dense', inputs: 1, outputs: 1 }];
    const { id } = await newSession(stack.url, { layers, optimizer: { coupling: 'value' } });
    expect((await putPart(id, 0, 0, stepBody(1, layers, 2000))).status).toBe(200);
    expectProblem(await putPart(id, 0, 1, stepBody(2, layers, 49)), { status: 422, code: 'step_too_large' });
    expect((await putPart(id, 0, 1, stepBody(2, layers, 48))).status).toBe(200);
  });

  it('a value that is none, when the step is committed; the parts stay, and the one at fault can be replaced', async () => {
    const { id } = await newSession(stack.url);
    const bad = half(2);
    bad.fill(0xff, -4); // NaN
    await putPart(id, 0, 0, half(1));
    await putPart(id, 0, 1, bad);
    expectProblem(await commit(id, 0, 2), { status: 422, code: 'non_finite_value' });
    await drop(id, '0/parts/1');
    await putPart(id, 0, 1, half(2));
    expect((await commit(id, 0, 2)).status).toBe(200);
  });

  it('kernel mode with whole Gram matrices', async () => {
    const { id } = await newSession(stack.url, { mode: 'kernel', layers: [{ name: 'a' }] });
    const body = encode([
      { name: 'losses', shape: [1], values: Float32Array.of(1) },
      { name: 'layers.a.gram', shape: [1], values: Float32Array.of(1) },
    ]);
    const problem = expectProblem(await putPart(id, 0, 0, body), { status: 422, code: 'parts_unsupported' });
    expect(problem.remedy).toContain('"diagonal"');
  });
});

describe('the client library', () => {
  it('puts parts together in hosted and in kernel mode, too', async () => {
    const client = new DdpnoptClient({ url: stack.url });
    const model = { input: [2] as [number], layers: [{ kind: 'dense' as const, name: 'a', outputs: 2 }] };
    const hosted = await client.createHostedSession({ model, loss: { kind: 'softmax-cross-entropy' } });
    const watcher = await client.openHostedSession(hosted.session.id);
    await hosted.sendPart(0, { x: Float32Array.of(1, 2), y: [0] });
    await watcher.sendPart(1, { x: Float32Array.of(3, 4, 5, 6), y: [1, 0] });
    const metrics = await hosted.commit(2);
    expect(metrics).toMatchObject({ step: 0, batch: 3 });
    expect(await watcher.reply()).toEqual(metrics);

    const kernels = await client.createKernelSession({
      layers: [{ name: 'a' }],
      optimizer: { batchCoupling: 'diagonal', coupling: 'value' },
    });
    const other = await client.openKernelSession(kernels.session.id);
    const part = (value: number) => ({
      losses: Float32Array.of(value),
      layers: { a: { gramDiagonal: Float32Array.of(value) } },
    });
    await kernels.sendPart(0, part(1));
    await other.sendPart(1, part(2));
    const reply = await kernels.commit(2);
    if (reply.kind !== 'coefficients') throw new Error('the coupling asks for coefficients');
    expect(reply.changes.get('a')!.coefficients).toHaveLength(2);
    expect((await other.reply()).metrics).toEqual(reply.metrics);
  });

  it('sends parts from two clients; both get the reply', async () => {
    const first = await new DdpnoptClient({ url: stack.url }).createSession({
      layers: [...LAYERS],
      optimizer: { coupling: 'value' },
    });
    const second = await new DdpnoptClient({ url: stack.url }).openSession(first.session.id);
    const input = (value: number) => ({
      losses: new Float64Array(2).fill(1),
      layers: {
        fc1: { input: new Float64Array(10).fill(value), outputGradient: new Float64Array(8).fill(value) },
        fc2: { input: new Float64Array(8).fill(value), outputGradient: new Float64Array(6).fill(value) },
      },
    });
    await first.sendPart(0, input(0.5));
    await expect(first.commit(2)).rejects.toMatchObject({ problem: { code: 'parts_missing', missingParts: [1] } });
    expect((await second.sendPart(1, input(1))).samples).toBe(4);
    await expect(second.reply()).rejects.toMatchObject({ problem: { code: 'step_out_of_order' } });
    const taken = await first.commit(2);
    const seen = await second.reply();
    expect(taken.metrics).toMatchObject({ step: 0, batch: 4 });
    expect(seen).toMatchObject({ kind: 'update', metrics: taken.metrics });
    expect([first.nextStep, second.nextStep]).toEqual([1, 1]);
    await second.sendPart(0, input(2));
    await second.dropParts();
    expect((await second.parts()).parts).toEqual([]);
    await first.delete();
  });
});
