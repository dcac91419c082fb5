/** Hosted mode through HTTP: training, predictions and weights, judged by the hosted step run directly and by hand. */
import { describe, expect, it } from 'vitest';
import { createReferenceEngine } from '../../gpu-worker/tensor/reference.ts';
import { tensorsIn } from '../../gpu-worker/tensor/engine.ts';
import { hostedConfiguration, hostedStep, initialHostedState } from '../../gpu-worker/training/hosted-step.ts';
import { hostedDefinitionSchema, type HostedDefinitionInput } from '../../shared/hosted-definition.ts';
import { HOSTED_TENSOR } from '../../shared/hosted-tensors.ts';
import { truthKind } from '../../shared/loss.ts';
import { modelOutputs, modelSchema } from '../../shared/model.ts';
import { PARAMETER_NAMES } from '../../shared/parameter-names.ts';
import { gaussian, seededRandom } from '../../shared/random.ts';
import {
  encode,
  readHeader,
  readValues,
  SAFETENSORS_CONTENT_TYPE,
  type NamedTensor,
} from '../../shared/safetensors.ts';
import { stepMetricsSchema, type StepMetrics } from '../../shared/session.ts';
import {
  call,
  describeSession,
  encodeRaw,
  expectProblem,
  getStep,
  json,
  newSession,
  putStep,
  rawRequest,
  type Answer,
} from './support.ts';
import { serveTests } from './stack.ts';

const B = 6;

const DENSE: HostedDefinitionInput = {
  mode: 'hosted',
  model: {
    input: [5],
    layers: [{ kind: 'dense', name: 'fc1', outputs: 4 }, { kind: 'relu' }, { kind: 'dense', name: 'fc2', outputs: 3 }],
  },
  loss: { kind: 'softmax-cross-entropy' },
  seed: 7,
};

const CNN: HostedDefinitionInput = {
  mode: 'hosted',
  model: {
    input: [6, 6, 1],
    layers: [
      { kind: 'conv2d', name: 'stem', outputs: 2, kernel: [3, 3], padding: { kind: 'same' } },
      { kind: 'batch-norm', name: 'norm', decay: 0.75 },
      { kind: 'relu' },
      {
        kind: 'residual',
        layers: [
          { kind: 'conv2d', name: 'inner', outputs: 2, kernel: [3, 3], padding: { kind: 'same' } },
          { kind: 'tanh' },
        ],
      },
      { kind: 'max-pooling', window: [2, 2] },
      { kind: 'flatten' },
      { kind: 'dropout', rate: 0.25 },
      { kind: 'dense', name: 'head', outputs: 3 },
    ],
  },
  loss: { kind: 'softmax-cross-entropy', labelSmoothing: 0.1 },
  optimizer: { coupling: 'gauss-newton-step', metric: { kind: 'kronecker', refreshEvery: 2 } },
  seed: 11,
};

const DEFINITIONS: Readonly<Record<string, HostedDefinitionInput>> = {
  'a dense net': DENSE,
  'a small CNN': CNN,
  'mean squared error': { ...DENSE, loss: { kind: 'mse' }, optimizer: { metric: { kind: 'identity' } } },
  'the logistic loss': { ...DENSE, loss: { kind: 'logistic' }, optimizer: { coupling: 'value' } },
  'a label drawn from the prediction': { ...DENSE, optimizer: { terminalCurvature: { kind: 'sampled-fisher' } } },
};

interface MiniBatch {
  readonly x: Float32Array<ArrayBuffer>;
  readonly y: Float32Array<ArrayBuffer>;
  readonly sampleWeights?: Float32Array<ArrayBuffer>;
}

/** Random samples and truth for a definition; another seed gives others. */
function miniBatch(definition: HostedDefinitionInput, seed: number, batch = B): MiniBatch {
  const { model, loss } = hostedDefinitionSchema.parse(definition);
  const random = seededRandom(seed);
  const outputs = modelOutputs(model);
  const isLabelled = truthKind(loss) === 'labels';
  return {
    x: Float32Array.from({ length: batch * size(model.input) }, () => gaussian(random)),
    y: Float32Array.from({ length: isLabelled ? batch : batch * outputs }, () =>
      isLabelled ? Math.floor(outputs * random()) : random(),
    ),
  };
}

function size(shape: readonly number[]): number {
  return shape.reduce((product, length) => product * length, 1);
}

function tensorsOf(definition: HostedDefinitionInput, { x, y, sampleWeights }: MiniBatch): NamedTensor[] {
  const { model, loss } = hostedDefinitionSchema.parse(definition);
  const batch = x.length / size(model.input);
  return [
    { name: 'x', shape: [batch, ...model.input], values: x },
    { name: 'y', shape: truthKind(loss) === 'labels' ? [batch] : [batch, modelOutputs(model)], values: y },
    ...(sampleWeights === undefined ? [] : [{ name: 'sample_weights', shape: [batch], values: sampleWeights }]),
  ];
}

const bodyOf = (definition: HostedDefinitionInput, batch: MiniBatch): Uint8Array<ArrayBuffer> =>
  encode(tensorsOf(definition, batch));

interface Downloaded {
  readonly shape: readonly number[];
  readonly values: readonly number[];
}

function tensorsFrom(body: Uint8Array): Record<string, Downloaded> {
  const header = readHeader(body);
  return Object.fromEntries(
    header.entries.map((entry) => [entry.name, { shape: entry.shape, values: [...readValues(body, header, entry)] }]),
  );
}

const stack = serveTests({ engine: 'reference' });

async function takeStep(id: string, n: number, body: Uint8Array<ArrayBuffer>): Promise<StepMetrics> {
  const answer = await putStep(stack.url, id, n, body);
  expect({ status: answer.status, text: new TextDecoder().decode(answer.bytes) }).toMatchObject({ status: 200 });
  return stepMetricsSchema.parse(json(answer));
}

async function download(id: string): Promise<Uint8Array> {
  const answer = await call(stack.url, 'GET', `/v1/sessions/${id}/weights`);
  expect(answer.status).toBe(200);
  expect(answer.headers.get('content-type')).toBe(SAFETENSORS_CONTENT_TYPE);
  expect(answer.headers.get('content-length')).toBe(String(answer.bytes.length));
  return answer.bytes;
}

const weightsOf = async (id: string): Promise<Record<string, Downloaded>> => tensorsFrom(await download(id));

function predict(id: string, body: Uint8Array<ArrayBuffer>): Promise<Answer> {
  return call(stack.url, 'POST', `/v1/sessions/${id}/predictions`, { body, type: SAFETENSORS_CONTENT_TYPE });
}

async function predicted(
  id: string,
  ...tensors: readonly NamedTensor[]
): Promise<Downloaded & { readonly loss: number | null }> {
  const answer = await predict(id, encode(tensors));
  expect(answer.status).toBe(200);
  expect(answer.headers.get('content-type')).toBe(SAFETENSORS_CONTENT_TYPE);
  const { loss } = readHeader(answer.bytes).metadata;
  const { outputs, ...others } = tensorsFrom(answer.bytes);
  expect(others).toEqual({});
  return { ...outputs!, loss: loss === undefined ? null : Number(loss) };
}

/** What the worker should hold after these batches, and its metrics, from the hosted step itself. */
function trainDirectly(
  input: HostedDefinitionInput,
  batches: readonly MiniBatch[],
): { weights: Record<string, Downloaded>; metrics: StepMetrics[] } {
  const engine = createReferenceEngine();
  const definition = hostedDefinitionSchema.parse(input);
  const configuration = hostedConfiguration(definition);
  const { program } = configuration;
  let state = initialHostedState(engine, configuration);
  const metrics = batches.map(({ x, y, sampleWeights = null }, step): StepMetrics => {
    const batch = x.length / size(definition.model.input);
    const result = hostedStep(engine, configuration, state, {
      input: engine.tensor(x, [batch, ...definition.model.input]),
      truth: { values: y, sampleWeights },
    });
    state = result.state;
    const h = Float64Array.from(engine.read(result.terminalWeights));
    return {
      step,
      batch,
      loss: result.lossBefore,
      lossAfter: result.lossAfter,
      learningRate: result.learningRate,
      terminalWeight: h.reduce((sum, value) => sum + value / h.length, 0),
      refreshed: result.refreshed,
      failedFactorizations: 0,
    };
  });
  expect(tensorsIn(state, engine.isTensor).size).toBeGreaterThan(0);
  const weights: Record<string, Downloaded> = {};
  for (const [t, { layer }] of program.stages.entries()) {
    for (const name of PARAMETER_NAMES) {
      const tensor = state.weights[t]![name];
      if (tensor === undefined) continue;
      weights[HOSTED_TENSOR.parameter(layer.name, name)] = { shape: tensor.shape, values: [...engine.read(tensor)] };
    }
  }
  for (const { name, index } of program.batchNorms) {
    const { mean, variance } = state.statistics[index]!;
    weights[HOSTED_TENSOR.runningMean(name)] = { shape: mean.shape, values: [...engine.read(mean)] };
    weights[HOSTED_TENSOR.runningVariance(name)] = { shape: variance.shape, values: [...engine.read(variance)] };
  }
  return { weights, metrics };
}

describe('training', () => {
  it.each(Object.entries(DEFINITIONS))(
    '%s: metrics and weights are those of the hosted step',
    async (_, definition) => {
      const batches = [1, 2, 3, 4].map((seed) => miniBatch(definition, seed));
      const { id } = await newSession(stack.url, definition);
      const metrics = [];
      for (const [n, batch] of batches.entries()) metrics.push(await takeStep(id, n, bodyOf(definition, batch)));
      const direct = trainDirectly(definition, batches);
      expect(metrics).toEqual(direct.metrics);
      expect(await weightsOf(id)).toEqual(direct.weights);
      expect(await describeSession(stack.url, id)).toMatchObject({
        mode: 'hosted',
        nextStep: 4,
        metrics: metrics.at(-1),
      });
    },
  );

  it('batches of different sizes, down to one sample', async () => {
    const batches = [B, 1, 2, 9].map((batch, seed) => miniBatch(DENSE, seed, batch));
    const { id } = await newSession(stack.url, DENSE);
    const metrics = [];
    for (const [n, batch] of batches.entries()) metrics.push(await takeStep(id, n, bodyOf(DENSE, batch)));
    expect(metrics.map(({ batch }) => batch)).toEqual([B, 1, 2, 9]);
    expect(await weightsOf(id)).toEqual(trainDirectly(DENSE, batches).weights);
  });

  it('takes labels of every element type for the same labels', async () => {
    const { x, y } = miniBatch(DENSE, 1);
    const samples = { name: 'x', dtype: 'F32', shape: [B, 5], values: x };
    const labels = [...y];
    const replies = [];
    for (const [dtype, values] of [
      ['F32', y],
      ['F64', Float64Array.from(y)],
      ['I64', BigInt64Array.from(labels, BigInt)],
      ['I32', Int32Array.from(y)],
      ['U8', Uint8Array.from(y)],
    ] as const) {
      const { id } = await newSession(stack.url, DENSE);
      const metrics = await takeStep(id, 0, encodeRaw([samples, { name: 'y', dtype, shape: [B], values }]));
      replies.push({ metrics, weights: await weightsOf(id) });
    }
    for (const reply of replies) expect(reply).toEqual(replies[0]);
  });

  it('takes elements that do not lie where their type would have them', async () => {
    const { x, y } = miniBatch(DENSE, 1);
    const odd = encodeRaw([
      { name: 'y', dtype: 'U8', shape: [B - 1], values: Uint8Array.from(y.subarray(1)) },
      { name: 'x', dtype: 'F64', shape: [B - 1, 5], values: Float64Array.from(x.subarray(5)) },
    ]);
    const { id } = await newSession(stack.url, DENSE);
    await takeStep(id, 0, odd);
    const batch = { x: x.slice(5), y: y.slice(1) };
    expect(await weightsOf(id)).toEqual(trainDirectly(DENSE, [batch]).weights);
  });
});

describe('sample weights', () => {
  const definition = DENSE;
  const plain = miniBatch(definition, 1);
  const weighted = (...weights: number[]): MiniBatch => ({ ...plain, sampleWeights: Float32Array.from(weights) });

  async function train(
    batch: MiniBatch,
    as = definition,
  ): Promise<{ metrics: StepMetrics; weights: Record<string, Downloaded> }> {
    const { id } = await newSession(stack.url, as);
    return { metrics: await takeStep(id, 0, bodyOf(as, batch)), weights: await weightsOf(id) };
  }

  it('are those of the hosted step, and ones change nothing', async () => {
    const batch = weighted(1, 0.5, 0, 2, 1, 3);
    const direct = trainDirectly(definition, [batch]);
    const weightedStep = await train(batch);
    expect(weightedStep).toEqual({ metrics: direct.metrics[0], weights: direct.weights });
    const plainStep = await train(plain);
    expect(await train(weighted(1, 1, 1, 1, 1, 1))).toEqual(plainStep);
    expect(weightedStep.weights).not.toEqual(plainStep.weights);
  });

  it('multiply each sample’s loss', async () => {
    const weights = [1, 0.5, 0, 2, 1, 3];
    const { id } = await newSession(stack.url, definition);
    const losses = [];
    for (let i = 0; i < B; i++) {
      const x = { name: 'x', shape: [1, 5], values: plain.x.subarray(5 * i, 5 * i + 5) };
      const y = { name: 'y', shape: [1], values: plain.y.subarray(i, i + 1) };
      losses.push((await predicted(id, x, y)).loss!);
    }
    const { loss } = await takeStep(id, 0, bodyOf(definition, weighted(...weights)));
    expect(loss).toBeCloseTo(losses.reduce((sum, value, i) => sum + weights[i]! * value, 0) / B, 12);
  });

  it('of 0 leave a sample out: neither its label nor, with a metric that does not look at inputs, its features matter', async () => {
    const left = weighted(1, 1, 0, 1, 1, 1);
    const y = Float32Array.from(left.y);
    y[2] = (y[2]! + 1) % 3;
    expect(await train({ ...left, y })).toEqual(await train(left));

    const identity: HostedDefinitionInput = { ...definition, optimizer: { metric: { kind: 'identity' } } };
    const x = Float32Array.from(left.x);
    x.fill(3, 10, 15);
    expect(await train({ ...left, x, y }, identity)).toEqual(await train(left, identity));
    expect((await train({ ...plain, x, y }, identity)).weights).not.toEqual((await train(plain, identity)).weights);
  });

  it('of 0 throughout: the loss is 0 and the weights stay', async () => {
    const { id } = await newSession(stack.url, definition);
    const before = await weightsOf(id);
    expect(await takeStep(id, 0, bodyOf(definition, weighted(0, 0, 0, 0, 0, 0)))).toMatchObject({
      loss: 0,
      lossAfter: 0,
    });
    expect(await weightsOf(id)).toEqual(before);
  });
});

describe('predictions', () => {
  it('are what the downloaded weights compute, with the loss where the truth is sent', async () => {
    const { id } = await newSession(stack.url, DENSE);
    await takeStep(id, 0, bodyOf(DENSE, miniBatch(DENSE, 1)));
    const w = await weightsOf(id);
    const { x, y } = miniBatch(DENSE, 2, 4);
    const layer = (input: readonly number[], name: string): number[] => {
      const [inputs = 0, outputs = 0] = w[`layers.${name}.weight`]!.shape;
      expect(input).toHaveLength(inputs);
      return Array.from({ length: outputs }, (_, c) =>
        input.reduce(
          (sum, value, n) => sum + value * w[`layers.${name}.weight`]!.values[n * outputs + c]!,
          w[`layers.${name}.bias`]!.values[c]!,
        ),
      );
    };
    const expected = [0, 1, 2, 3].map((i) => {
      const hidden = layer([...x.subarray(5 * i, 5 * i + 5)], 'fc1').map((value) => Math.max(0, value));
      return layer(hidden, 'fc2');
    });
    const loss = expected
      .map((z, i) => Math.log(z.reduce((sum, value) => sum + Math.exp(value), 0)) - z[y[i]!]!)
      .reduce((sum, value) => sum + value / 4, 0);

    const samples: NamedTensor = { name: 'x', shape: [4, 5], values: x };
    const with_ = await predicted(id, samples, { name: 'y', shape: [4], values: y });
    expect(with_.shape).toEqual([4, 3]);
    for (const [index, value] of expected.flat().entries()) expect(with_.values[index]).toBeCloseTo(value, 12);
    expect(with_.loss).toBeCloseTo(loss, 12);
    expect(await predicted(id, samples)).toEqual({ ...with_, loss: null });
  });

  it('are made in evaluation mode: nothing is dropped, and no sample depends on its company', async () => {
    const { id } = await newSession(stack.url, CNN);
    for (const n of [0, 1]) await takeStep(id, n, bodyOf(CNN, miniBatch(CNN, n)));
    const { x } = miniBatch(CNN, 9, 5);
    const all = await predicted(id, { name: 'x', shape: [5, 6, 6, 1], values: x });
    expect(await predicted(id, { name: 'x', shape: [5, 6, 6, 1], values: x })).toEqual(all);
    for (let i = 0; i < 5; i++) {
      const alone = await predicted(id, { name: 'x', shape: [1, 6, 6, 1], values: x.subarray(36 * i, 36 * i + 36) });
      for (const [c, value] of alone.values.entries()) expect(value).toBeCloseTo(all.values[3 * i + c]!, 12);
    }
  });

  it('change nothing', async () => {
    const { id } = await newSession(stack.url, CNN);
    const undisturbed = (await newSession(stack.url, CNN)).id;
    for (let n = 0; n < 3; n++) {
      const before = await describeSession(stack.url, id);
      const weights = await download(id);
      await predicted(id, ...tensorsOf(CNN, miniBatch(CNN, 20 + n)));
      expect(Buffer.compare(await download(id), weights)).toBe(0);
      const after = await describeSession(stack.url, id);
      expect({ ...after, expiresAt: '' }).toEqual({ ...before, expiresAt: '' });
      const body = bodyOf(CNN, miniBatch(CNN, n));
      const [actual, expected] = [
        await putStep(stack.url, id, n, body),
        await putStep(stack.url, undisturbed, n, body),
      ];
      expect(actual.status).toBe(200);
      expect(Buffer.compare(actual.bytes, expected.bytes)).toBe(0);
    }
    expect(Buffer.compare(await download(id), await download(undisturbed))).toBe(0);
  });
});

describe('weights', () => {
  it('have the names and shapes of the model’s parameters, and say which model and step they are of', async () => {
    const session = await newSession(stack.url, CNN);
    if (session.mode !== 'hosted') throw new Error('not hosted');
    const body = await download(session.id);
    const { entries, metadata } = readHeader(body);
    expect(Object.fromEntries(entries.map(({ name, dtype, shape }) => [name, [dtype, ...shape]]))).toEqual({
      'layers.stem.weight': ['F64', 3, 3, 1, 2],
      'layers.stem.bias': ['F64', 2],
      'layers.norm.scale': ['F64', 2],
      'layers.norm.shift': ['F64', 2],
      'layers.inner.weight': ['F64', 3, 3, 2, 2],
      'layers.inner.bias': ['F64', 2],
      'layers.head.weight': ['F64', 18, 3],
      'layers.head.bias': ['F64', 3],
      'layers.norm.running_mean': ['F64', 2],
      'layers.norm.running_variance': ['F64', 2],
    });
    expect(Object.keys(metadata).toSorted()).toEqual(['model', 'step']);
    expect(modelSchema.parse(JSON.parse(metadata['model']!))).toEqual(session.model);
    expect(metadata['step']).toBe('0');
    expect(tensorsFrom(body)).toMatchObject({
      'layers.norm.running_mean': { values: [0, 0] },
      'layers.norm.running_variance': { values: [1, 1] },
      'layers.head.bias': { values: [0, 0, 0] },
    });
    await takeStep(session.id, 0, bodyOf(CNN, miniBatch(CNN, 1)));
    expect(readHeader(await download(session.id)).metadata).toEqual({ ...metadata, step: '1' });
  });

  it('have the running statistics of the batches', async () => {
    const definition: HostedDefinitionInput = {
      ...DENSE,
      model: {
        input: [2],
        layers: [
          { kind: 'batch-norm', name: 'n', decay: 0.75, affine: false },
          { kind: 'dense', name: 'out', outputs: 2, bias: false },
        ],
      },
    };
    const { id } = await newSession(stack.url, definition);
    // Means 4 and −1, variances 9 and 0.
    await takeStep(id, 0, bodyOf(definition, { x: Float32Array.of(1, -1, 7, -1), y: Float32Array.of(0, 1) }));
    const weights = await weightsOf(id);
    expect(Object.keys(weights).toSorted()).toEqual([
      'layers.n.running_mean',
      'layers.n.running_variance',
      'layers.out.weight',
    ]);
    expect(weights['layers.n.running_mean']!.values).toEqual([1, -0.25]);
    expect(weights['layers.n.running_variance']!.values).toEqual([3, 0.75]);
  });

  it('begin as the seed says', async () => {
    const initial = async (definition: HostedDefinitionInput) =>
      weightsOf((await newSession(stack.url, definition)).id);
    const seeded = await initial(DENSE);
    expect(await initial(DENSE)).toEqual(seeded);
    expect(await initial({ ...DENSE, seed: 8 })).not.toEqual(seeded);
    const { mode, model, loss } = DENSE;
    expect(await initial({ mode, model, loss })).toEqual(await initial({ ...DENSE, seed: 0 }));
    expect(await initial({ ...DENSE, seed: 2 ** 32 - 1 })).not.toEqual(seeded);
  });
});

describe('sequence numbers', () => {
  const body = (seed: number): Uint8Array<ArrayBuffer> => bodyOf(DENSE, miniBatch(DENSE, seed));

  it('a step again gives the stored reply and is applied once; other bytes and other numbers are refused', async () => {
    const { id } = await newSession(stack.url, DENSE);
    const first = await putStep(stack.url, id, 0, body(0));
    const second = await putStep(stack.url, id, 1, body(1));
    expect([first.status, second.status]).toEqual([200, 200]);
    expect(second.headers.get('content-type')).toBe('application/json');
    const weights = await download(id);
    for (const again of [await putStep(stack.url, id, 1, body(1)), await getStep(stack.url, id, 1)]) {
      expect(again.status).toBe(200);
      expect(again.headers.get('content-type')).toBe('application/json');
      expect(Buffer.compare(again.bytes, second.bytes)).toBe(0);
    }
    expectProblem(await putStep(stack.url, id, 1, body(2)), { status: 422, code: 'step_conflict', param: 'n' });
    for (const n of [3, 999]) {
      const expected = { status: 412, code: 'step_out_of_order', param: 'n', mentions: [String(n)] } as const;
      expect(expectProblem(await putStep(stack.url, id, n, body(2)), expected).expectedStep).toBe(2);
      expect(expectProblem(await getStep(stack.url, id, n), expected).expectedStep).toBe(2);
    }
    const gone = { status: 410, code: 'reply_not_retained', param: 'n' } as const;
    expectProblem(await putStep(stack.url, id, 0, body(0)), gone);
    expectProblem(await getStep(stack.url, id, 0), gone);
    expect(Buffer.compare(await download(id), weights)).toBe(0);
    expect((await describeSession(stack.url, id)).nextStep).toBe(2);
  });

  it('copies of a step at the same time, and steps of several sessions in between, are each applied once', async () => {
    const ids = await Promise.all([0, 1, 2].map(async () => (await newSession(stack.url, DENSE)).id));
    for (let n = 0; n < 3; n++) {
      const answers = await Promise.all(ids.flatMap((id) => [0, 1, 2].map(() => putStep(stack.url, id, n, body(n)))));
      for (const answer of answers) {
        expect(answer.status).toBe(200);
        expect(Buffer.compare(answer.bytes, answers[0]!.bytes)).toBe(0);
      }
    }
    const direct = trainDirectly(
      DENSE,
      [0, 1, 2].map((seed) => miniBatch(DENSE, seed)),
    );
    for (const id of ids) expect(await weightsOf(id)).toEqual(direct.weights);
  });

  it.each(['destroy', 'end'] as const)(
    'an upload that stops in the middle (%s) is no step; it can be sent again',
    async (how) => {
      const { id } = await newSession(stack.url, DENSE);
      const bytes = body(0);
      for (const length of [0, 20, bytes.length - 1]) {
        await rawRequest(stack.url, {
          method: 'PUT',
          path: `/v1/sessions/${id}/steps/0`,
          headers: { 'content-type': SAFETENSORS_CONTENT_TYPE, 'content-length': String(bytes.length) },
          body: [bytes.subarray(0, length)],
          then: how,
        });
        expect((await describeSession(stack.url, id)).nextStep).toBe(0);
      }
      await takeStep(id, 0, bytes);
      expect(await weightsOf(id)).toEqual(trainDirectly(DENSE, [miniBatch(DENSE, 0)]).weights);
    },
  );

  it('a deleted session has neither steps nor weights nor predictions', async () => {
    const { id } = await newSession(stack.url, DENSE);
    await takeStep(id, 0, body(0));
    expect((await call(stack.url, 'DELETE', `/v1/sessions/${id}`)).status).toBe(204);
    const gone = { status: 404, code: 'session_not_found', param: 'id', mentions: [id] } as const;
    expectProblem(await putStep(stack.url, id, 1, body(1)), gone);
    expectProblem(await getStep(stack.url, id, 0), gone);
    expectProblem(await call(stack.url, 'GET', `/v1/sessions/${id}/weights`), gone);
    expectProblem(await predict(id, body(1)), gone);
  });
});
