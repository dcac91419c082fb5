/** Every kind of layer through HTTP: the client's step gives the changes that the optimizer computes directly. */
import { describe, expect, it } from 'vitest';
import { DdpnoptClient, type LayerInput } from '../../clients/js/index.ts';
import { INITIAL_STATE } from '../../gpu-worker/optimizer/state.ts';
import { ddpStep } from '../../gpu-worker/optimizer/step.ts';
import type { Tensor } from '../../gpu-worker/tensor/engine.ts';
import { createReferenceEngine } from '../../gpu-worker/tensor/reference.ts';
import { encode, readHeader, readValues, type NamedTensor } from '../../shared/safetensors.ts';
import { layersDefinitionSchema, replyForm, type LayersDefinitionInput } from '../../shared/layers-definition.ts';
import { stepMetricsSchema } from '../../shared/session.ts';
import { PARAMETER_NAMES, type ParameterName } from '../../shared/parameter-names.ts';
import { mulberry32 } from '../oracle/network.ts';
import {
  BATCH as BATCH_SIZE,
  expectProblem,
  LAYERS,
  newSession,
  putStep,
  stepTensors,
  type Answer,
} from './support.ts';
import { serveTests } from './stack.ts';

const BATCH = 3;
const COLUMNS = 2;

const stack = serveTests({ engine: 'reference' });

const definition: LayersDefinitionInput = {
  layers: [
    { name: 'embed', kind: 'embedding', inputs: 7, outputs: 3 },
    { name: 'mix', kind: 'dense', inputs: 3, outputs: 2, sequence: true },
    {
      name: 'conv',
      kind: 'conv2d',
      height: 4,
      width: 5,
      inputs: 2,
      outputs: 4,
      kernel: [3, 3],
      groups: 2,
      padding: { kind: 'same' },
    },
    { name: 'norm', kind: 'scale-shift', features: 4, sequence: true },
    { name: 'own', kind: 'generic', parameters: 5 },
    { name: 'head', kind: 'dense', inputs: 4, outputs: 3, bias: false },
  ],
  optimizer: {
    coupling: 'gauss-newton-step',
    terminalCurvature: { kind: 'gauss-newton', columns: COLUMNS },
    metric: { kind: 'kronecker' },
  },
};

/** Shapes behind the batch axis: input, and gradient. */
const SHAPES: Record<string, readonly [readonly number[] | null, readonly number[]]> = {
  embed: [[6], [6, 3]],
  mix: [
    [6, 3],
    [6, 2],
  ],
  conv: [
    [4, 5, 2],
    [4, 5, 4],
  ],
  norm: [
    [20, 4],
    [20, 4],
  ],
  own: [null, [5]],
  head: [[4], [3]],
};

/** Shapes of the parameters. */
const PARAMETERS: Record<string, Readonly<Partial<Record<ParameterName, readonly number[]>>>> = {
  embed: { weight: [7, 3] },
  mix: { weight: [3, 2], bias: [2] },
  conv: { weight: [3, 3, 1, 4], bias: [4] },
  norm: { scale: [4], shift: [4] },
  own: { parameters: [5] },
  head: { weight: [4, 3] },
};

it.each([
  { title: 'without weight decay', weightDecay: null },
  { title: 'with weight decay as a running cost', weightDecay: { kind: 'running-cost', rate: 0.1 } },
  { title: 'with decoupled weight decay of biases too', weightDecay: { kind: 'decoupled', rate: 0.1, biases: true } },
] as const)('gives the changes of every layer’s parameters, in their own shapes, $title', async ({ weightDecay }) => {
  const random = mulberry32(5);
  const filled = (shape: readonly number[], value = () => 2 * random() - 1): Float64Array =>
    Float64Array.from({ length: shape.reduce((a, b) => a * b, 1) }, value);
  const losses = filled([BATCH], () => 0.5 + random());
  const layers = Object.entries(SHAPES).map(([name, [input, gradient]]) => {
    const token = name === 'embed' ? () => Math.floor(7 * random()) : undefined;
    const values: LayerInput = {
      ...(input === null ? {} : { input: filled([BATCH, ...input], token) }),
      outputGradient: filled([BATCH, ...gradient]),
      curvatureGradient: filled([BATCH, COLUMNS, ...gradient]),
      parameters: Object.fromEntries(
        Object.entries(PARAMETERS[name]!).map(([parameter, shape]) => [parameter, filled(shape)]),
      ),
    };
    return { name, input, gradient, values };
  });

  const decaying = { ...definition, optimizer: { ...definition.optimizer, weightDecay } };
  const session = await new DdpnoptClient({ url: stack.url }).createSession(decaying);
  const reply = await session.step({
    losses,
    layers: Object.fromEntries(layers.map(({ name, values }) => [name, values])),
  });
  if (reply.kind !== 'update') throw new Error('no update');

  const engine = createReferenceEngine();
  const parsed = layersDefinitionSchema.parse(decaying);
  const tensor = (values: Float64Array, shape: readonly number[]): Tensor => engine.tensor(values, shape);
  const direct = ddpStep(
    engine,
    { layers: parsed.layers, optimizer: parsed.optimizer, reply: replyForm(parsed) },
    INITIAL_STATE,
    {
      losses: tensor(losses, [BATCH]),
      previousLosses: null,
      layers: layers.map(({ name, input, gradient, values }) => ({
        input: input === null ? null : tensor(values.input as Float64Array, [BATCH, ...input]),
        lossGradient: tensor(values.outputGradient as Float64Array, [BATCH, ...gradient]),
        columnGradient: tensor(values.curvatureGradient as Float64Array, [BATCH * COLUMNS, ...gradient]),
        parameters: Object.fromEntries(
          Object.entries(values.parameters!).map(([parameter, numbers]) => [
            parameter,
            tensor(numbers as Float64Array, PARAMETERS[name]![parameter as ParameterName]!),
          ]),
        ),
      })),
    },
  );
  if (direct.reply.kind !== 'update') throw new Error('no update');
  for (const [t, { name }] of layers.entries()) {
    for (const parameter of PARAMETER_NAMES) {
      const expected = direct.reply.changes[t]![parameter];
      const actual = reply.changes.get(name)![parameter];
      expect(actual === undefined).toBe(expected === undefined);
      if (expected !== undefined) expect([...actual!]).toEqual([...engine.read(expected)]);
    }
  }
  expect(Object.keys(reply.changes.get('norm')!)).toEqual(['scale', 'shift']);
  expect(reply.changes.get('conv')!.weight).toHaveLength(3 * 3 * 1 * 4);
  await session.delete();
});

it.each([
  {
    title: 'a metric that has no policy',
    input: { optimizer: { metric: { kind: 'ekfac' } } },
    param: 'optimizer.coupling',
    words: /coupling is left at its default.*"ekfac".*gauss-newton-step/,
  },
  {
    title: 'sample factors of other layers',
    input: { policyEncoding: 'sample-factors' },
    param: 'policyEncoding',
    words: /layer embed is another.*"inverse-factors"/,
  },
  {
    title: 'sample factors of a diagonal metric',
    input: { layers: LAYERS, policyEncoding: 'sample-factors', optimizer: { metric: { kind: 'adam' } } },
    param: 'policyEncoding',
    words: /the metric is "adam".*"auto"/,
  },
  {
    title: 'an encoding of updates',
    input: { policyEncoding: 'inverse-factors', optimizer: { coupling: 'value' } },
    param: 'policyEncoding',
    words: /update.*coupling "feedback"/,
  },
] as const)('refuses $title', async ({ input, param, words }) => {
  const created = new DdpnoptClient({ url: stack.url }).createSession({ layers: definition.layers, ...input });
  await expect(created).rejects.toMatchObject({ problem: { code: 'invalid_parameter', param } });
  await expect(created).rejects.toThrow(words);
});

describe('weight decay', () => {
  const sessionFor = (rate: number) =>
    newSession(stack.url, {
      layers: LAYERS,
      optimizer: { weightDecay: { kind: 'decoupled', rate } },
    });
  const weights: readonly NamedTensor[] = [
    { name: 'layers.fc1.parameter.weight', shape: [5, 4], values: Float32Array.from({ length: 20 }, (_, i) => i - 7) },
    { name: 'layers.fc2.parameter.weight', shape: [4, 3], values: Float32Array.from({ length: 12 }, (_, i) => 5 - i) },
  ];
  const body = (...tensors: readonly NamedTensor[]) => encode([...stepTensors(1), ...tensors]);

  it('refuses a step without the parameters, or with others or in another shape, by name', async () => {
    const { id } = await sessionFor(0.25);
    const [fc1, fc2] = weights as [NamedTensor, NamedTensor];
    expectProblem(await putStep(stack.url, id, 0, body(fc1)), {
      status: 422,
      code: 'missing_tensor',
      param: 'layers.fc2.parameter.weight',
    });
    const bias = { name: 'layers.fc1.parameter.bias', shape: [4], values: new Float32Array(4) };
    expectProblem(await putStep(stack.url, id, 0, body(fc1, fc2, bias)), {
      status: 422,
      code: 'unknown_tensor',
      param: bias.name,
    });
    expectProblem(await putStep(stack.url, id, 0, body(fc1, { ...fc2, shape: [3, 4] })), {
      status: 422,
      code: 'shape_mismatch',
      param: fc2.name,
      mentions: ['[3, 4]', '[4, 3]'],
    });
    const plain = await newSession(stack.url);
    expectProblem(await putStep(stack.url, plain.id, 0, body(fc1, fc2)), {
      status: 422,
      code: 'unknown_tensor',
      param: fc1.name,
    });
  });

  it('a policy carries −λu beside its factors', async () => {
    const { id } = await sessionFor(0.25);
    const answer = await putStep(stack.url, id, 0, body(...weights));
    expect(answer.status).toBe(200);
    const header = readHeader(answer.bytes);
    for (const { name, values } of weights) {
      const update = name.replace('.parameter.', '.update.');
      const entry = header.entries.find((each) => each.name === update)!;
      expect([...readValues(answer.bytes, header, entry)]).toEqual(Array.from(values, (value) => -0.25 * value));
    }
  });
});

describe('the Levenberg–Marquardt rule', () => {
  const RATE = { kind: 'levenberg-marquardt', initial: 8, factor: 2 } as const;
  const rateAfter = (answer: Answer): number => {
    expect(answer.status).toBe(200);
    return stepMetricsSchema.parse(JSON.parse(readHeader(answer.bytes).metadata['metrics']!)).learningRate;
  };
  const previousLosses = (shift: number, batch = BATCH_SIZE): NamedTensor => {
    const [losses] = stepTensors(2);
    return {
      name: 'previous_losses',
      shape: [batch],
      values: Float32Array.from({ length: batch }, (_, i) => (losses!.values[i] ?? 0) + shift),
    };
  };
  const body = (...tensors: readonly NamedTensor[]) => encode([...stepTensors(2), ...tensors]);

  it('judges the last step when a step carries previous_losses', async () => {
    const { id } = await newSession(stack.url, { layers: LAYERS, optimizer: { learningRate: RATE } });
    expect(rateAfter(await putStep(stack.url, id, 0, body()))).toBe(8);
    expect(rateAfter(await putStep(stack.url, id, 1, body()))).toBe(8);
    // The last step took the mean loss of this batch down by 100, and the next one up by 100.
    expect(rateAfter(await putStep(stack.url, id, 2, body(previousLosses(100))))).toBe(16);
    expect(rateAfter(await putStep(stack.url, id, 3, body(previousLosses(-100))))).toBe(8);
  });

  it('refuses them with the first step, in another shape, and under another rule', async () => {
    const { id } = await newSession(stack.url, { layers: LAYERS, optimizer: { learningRate: RATE } });
    const first = await putStep(stack.url, id, 0, body(previousLosses(1)));
    expectProblem(first, { status: 422, code: 'unknown_tensor', param: 'previous_losses', mentions: ['first step'] });
    const short = await putStep(stack.url, id, 0, body(previousLosses(1, BATCH_SIZE - 1)));
    expectProblem(short, { status: 422, code: 'shape_mismatch', param: 'previous_losses' });
    const { id: other } = await newSession(stack.url);
    const unknown = await putStep(stack.url, other, 0, body(previousLosses(1)));
    expectProblem(unknown, { status: 422, code: 'unknown_tensor', param: 'previous_losses' });
    expect(rateAfter(await putStep(stack.url, id, 0, body()))).toBe(8);
  });
});
