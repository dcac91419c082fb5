/** A step that would take more than a worker can give is refused from its header. */
import { describe, expect, it } from 'vitest';
import { hostedDefinitionSchema, type HostedDefinitionInput } from '../../shared/hosted-definition.ts';
import { passCost, PREDICTION_PASSES, trainingPasses } from '../../shared/cost.ts';
import { LIMITS } from '../../shared/limits.ts';
import type { SafetensorsHeader } from '../../shared/safetensors.ts';
import { layersDefinitionSchema, type LayersDefinition } from '../../shared/layers-definition.ts';
import { modelSchema, type ModelInput } from '../../shared/model.ts';
import { optimizerSchema } from '../../shared/optimizer.ts';
import { checkStepHeader } from '../../shared/step.ts';
import { TENSOR } from '../../shared/tensor-names.ts';

function definitionOf(count: number): LayersDefinition {
  const layers = Array.from({ length: count }, (_, t) => ({
    name: `l${t}`,
    kind: 'dense' as const,
    inputs: 1,
    outputs: 1,
  }));
  return layersDefinitionSchema.parse({ layers });
}

/** The header of a step; the offsets are not looked at here. */
function headerOf({ layers }: LayersDefinition, batch: number): SafetensorsHeader {
  const entry = (name: string, shape: number[]) => ({ name, dtype: 'F32' as const, shape, begin: 0, end: 0 });
  const entries = layers.flatMap(({ name }) => [
    entry(TENSOR.input(name), [batch, 1]),
    entry(TENSOR.outputGradient(name), [batch, 1]),
  ]);
  return { entries: [entry(TENSOR.losses, [batch]), ...entries], metadata: {}, dataStart: 0 };
}

describe('the batch', () => {
  it.each([
    [1, LIMITS.batch],
    [2, LIMITS.batch],
    [20, 900],
    [512, 200],
  ])('with %i layers may have %i samples', (count, batch) => {
    const definition = definitionOf(count);
    expect(checkStepHeader(headerOf(definition, batch), definition)).toBe(batch);
  });

  it.each([
    [3, LIMITS.batch],
    [20, 2000],
    [128, 1024],
    [512, 256],
  ])('with %i layers may not have %i, and the remedy states how many it may', (count, batch) => {
    const definition = definitionOf(count);
    const check = (size: number) => () => checkStepHeader(headerOf(definition, size), definition);
    expect(check(batch)).toThrow(expect.objectContaining({ code: 'step_too_large' }));
    let most = 0;
    try {
      check(batch)();
    } catch (error) {
      const { remedy } = (error as { details: { remedy: string } }).details;
      most = Number(/at most ([0-9]+) samples/.exec(remedy)![1]);
    }
    expect(check(most)()).toBe(most);
    expect(check(most + 1)).toThrow(expect.objectContaining({ code: 'step_too_large' }));
  });

  it('counts what is computed: factorisations up to their rows, iterations beyond, nothing without cross-sample terms', () => {
    const layers = [
      { kind: 'dense', name: 'a', outputs: 256 },
      { kind: 'relu' },
      { kind: 'dense', name: 'b', outputs: 256 },
      { kind: 'relu' },
      { kind: 'dense', name: 'c', outputs: 10 },
    ] as const;
    const model = { input: [784] as [number], layers: [...layers] };
    const header: SafetensorsHeader = {
      entries: [
        { name: 'x', dtype: 'F32', shape: [2048, 784], begin: 0, end: 0 },
        { name: 'y', dtype: 'F32', shape: [2048], begin: 0, end: 0 },
      ],
      metadata: {},
      dataStart: 0,
    };
    const check = (optimizer: HostedDefinitionInput['optimizer']) => () =>
      checkStepHeader(
        header,
        hostedDefinitionSchema.parse({ mode: 'hosted', model, loss: { kind: 'softmax-cross-entropy' }, optimizer }),
      );
    expect(check({})()).toBe(2048);
    expect(check({ solver: { choleskyRows: 0, iterations: 100 } })()).toBe(2048);
    expect(check({ batchCoupling: 'diagonal', solver: { choleskyRows: 2048 } })()).toBe(2048);
    const tooLarge = (words: RegExp): unknown =>
      expect.objectContaining({ code: 'step_too_large', message: expect.stringMatching(words) as string });
    expect(check({ solver: { choleskyRows: 2048 } })).toThrow(tooLarge(/3 factorisations of 2048×2048/));
    // A policy that is handed out always has its factors; an update has none.
    const ten = definitionOf(10);
    expect(() => checkStepHeader(headerOf(ten, 2048), ten)).toThrow(tooLarge(/10 factorisations of 2048×2048/));
    const update = layersDefinitionSchema.parse({ layers: ten.layers, optimizer: { coupling: 'value' } });
    expect(checkStepHeader(headerOf(update, 2048), update)).toBe(2048);
    const slow = { ...update, optimizer: { ...update.optimizer, solver: { choleskyRows: 0, iterations: 1000 } } };
    expect(() => checkStepHeader(headerOf(slow, 2048), slow)).toThrow(
      tooLarge(/10 systems of 2048×2048.*1000 iterations/),
    );
  });

  it('counts the one-hot rows of an embedding by the length of its sequences', () => {
    const layers = [{ name: 'words', kind: 'embedding' as const, inputs: 16_384, outputs: 1 }];
    const metric = { kind: 'identity' as const };
    const definition = layersDefinitionSchema.parse({ layers, optimizer: { metric, coupling: 'value' } });
    const header = (sequence: number): SafetensorsHeader => {
      const entry = (name: string, shape: number[]) => ({ name, dtype: 'F32' as const, shape, begin: 0, end: 0 });
      const entries = [
        entry(TENSOR.losses, [100]),
        entry(TENSOR.input('words'), [100, sequence]),
        entry(TENSOR.outputGradient('words'), [100, sequence, 1]),
      ];
      return { entries, metadata: {}, dataStart: 0 };
    };
    expect(checkStepHeader(header(50), definition)).toBe(100);
    expect(() => checkStepHeader(header(1000), definition)).toThrow(
      expect.objectContaining({
        code: 'step_too_large',
        message: expect.stringMatching(/bytes beside the session’s state/) as string,
      }),
    );
  });
});

it.each([
  [{}, { forward: 2, backward: 1 }],
  [{ terminalCurvature: { kind: 'sampled-fisher' } }, { forward: 2, backward: 2 }],
  [{ terminalCurvature: { kind: 'gauss-newton', columns: 3 } }, { forward: 2, backward: 4 }],
  [{ learningRate: { kind: 'levenberg-marquardt' } }, { forward: 3, backward: 1 }],
  [{ lookahead: {} }, { forward: 3, backward: 1 }],
] as const)('a step with %j takes %j passes', (optimizer, passes) => {
  expect(trainingPasses(optimizerSchema.parse(optimizer))).toEqual(passes);
});

it('counts a window as often as it is added back to the image', () => {
  const layers = [{ kind: 'max-pooling', window: [512, 512] }, { kind: 'flatten' }, { kind: 'dense', name: 'out', outputs: 2 }] as const; // prettier-ignore
  const model = modelSchema.parse({ input: [512, 512, 1], layers: [...layers] });
  expect(passCost(model, PREDICTION_PASSES, 1).forwardWork).toBeGreaterThan(512 ** 4);
});

describe('the passes of a hosted model', () => {
  const image = [32, 32, 16] as [number, number, number];
  const activationBytes = (layers: ModelInput['layers'], batch: number): number => {
    const optimizer = optimizerSchema.parse({ terminalCurvature: { kind: 'gradient' } });
    return passCost(modelSchema.parse({ input: image, layers: [...layers, ...HEAD] }), trainingPasses(optimizer), batch)
      .activationBytes;
  };
  const HEAD = [{ kind: 'flatten' }, { kind: 'dense', name: 'out', outputs: 2 }] as const;
  const plain = activationBytes([], 8);
  const elements = 4 * 8 * 32 * 32 * 16;

  it('count what is dropped, and the sum of a residual block', () => {
    const relu = { kind: 'relu' } as const;
    expect(activationBytes([relu], 8) - plain).toBe(3 * elements);
    expect(activationBytes([{ kind: 'dropout' }], 8) - plain).toBe(6 * elements);
    expect(activationBytes([{ kind: 'residual', layers: [relu] }], 8) - plain).toBe(6 * elements);
    expect(activationBytes([relu], 16)).toBe(2 * activationBytes([relu], 8));
  });

  it('count what every element of a pooling window sees', () => {
    const pool = (window: [number, number], strides: [number, number]): number =>
      activationBytes([{ kind: 'max-pooling', window, strides, padding: { kind: 'same' } }], 8);
    expect(pool([9, 9], [1, 1])).toBeGreaterThan(81 * 3 * elements);
    expect(pool([9, 9], [9, 9])).toBeLessThan(20 * elements);
  });
});
