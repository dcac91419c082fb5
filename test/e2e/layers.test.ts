/** Every kind of layer through HTTP: the client's step gives the changes that the optimizer computes directly. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import { DdpnoptClient, type LayerInput } from '../../clients/js/index.ts';
import { startStack, type LocalStack } from '../../deploy/local/stack.ts';
import { INITIAL_STATE } from '../../gpu-worker/optimizer/state.ts';
import { ddpStep } from '../../gpu-worker/optimizer/step.ts';
import type { Tensor } from '../../gpu-worker/tensor/engine.ts';
import { createReferenceEngine } from '../../gpu-worker/tensor/reference.ts';
import { layersDefinitionSchema, replyForm, type LayersDefinitionInput } from '../../shared/layers-definition.ts';
import { PARAMETER_NAMES } from '../../shared/parameter-names.ts';
import { mulberry32 } from '../oracle/network.ts';

const BATCH = 3;
const COLUMNS = 2;

let stack: LocalStack;
beforeAll(async () => {
  stack = await startStack({ engine: 'reference' });
});
afterAll(() => stack.stop());

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

it('gives the changes of every layer’s parameters, in their own shapes', async () => {
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
    };
    return { name, input, gradient, values };
  });

  const session = await new DdpnoptClient({ url: stack.url }).createSession(definition);
  const reply = await session.step({
    losses,
    layers: Object.fromEntries(layers.map(({ name, values }) => [name, values])),
  });
  if (reply.kind !== 'update') throw new Error('no update');

  const engine = createReferenceEngine();
  const parsed = layersDefinitionSchema.parse(definition);
  const tensor = (values: Float64Array, shape: readonly number[]): Tensor => engine.tensor(values, shape);
  const direct = ddpStep(
    engine,
    { layers: parsed.layers, optimizer: parsed.optimizer, reply: replyForm(parsed) },
    INITIAL_STATE,
    {
      losses: tensor(losses, [BATCH]),
      layers: layers.map(({ input, gradient, values }) => ({
        input: input === null ? null : tensor(values.input as Float64Array, [BATCH, ...input]),
        lossGradient: tensor(values.outputGradient as Float64Array, [BATCH, ...gradient]),
        columnGradient: tensor(values.curvatureGradient as Float64Array, [BATCH * COLUMNS, ...gradient]),
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

it('says that a policy is for dense layers', async () => {
  const client = new DdpnoptClient({ url: stack.url });
  const created = client.createSession({ layers: definition.layers });
  await expect(created).rejects.toMatchObject({ problem: { code: 'invalid_parameter', param: 'optimizer.coupling' } });
  await expect(created).rejects.toThrow(/coupling is left at its default.*layer embed.*gauss-newton-step/);
});
