/** What hosted training refuses, what a failed step leaves, and the running statistics. */
import { describe, expect, it } from 'vitest';
import {
  hostedConfiguration,
  hostedStep,
  initialHostedState,
  type HostedState,
} from '../../gpu-worker/training/hosted-step.ts';
import type { Engine } from '../../gpu-worker/tensor/engine.ts';
import { loadEngine } from '../../gpu-worker/tensor/index.ts';
import { hostedDefinitionSchema, type HostedDefinitionInput } from '../../shared/hosted-definition.ts';

const model = {
  input: [3],
  layers: [{ kind: 'dense', name: 'out', outputs: 2 }],
} satisfies HostedDefinitionInput['model'];
const loss = { kind: 'softmax-cross-entropy' } as const;

describe('a definition that cannot be is refused', () => {
  const cases: readonly [string, Omit<HostedDefinitionInput, 'mode' | 'model'>, string, RegExp][] = [
    ['momentum with feedback', { loss, optimizer: { momentum: 0.5 } }, 'optimizer.momentum', /feedback/],
    ['a norm limit with feedback', { loss, optimizer: { maximumNorm: 1 } }, 'optimizer.maximumNorm', /feedback/],
    ['a trust region with feedback', { loss, optimizer: { maximumPredictedDecrease: 1 } }, 'optimizer.maximumPredictedDecrease', /feedback/], // prettier-ignore
    ['columns that are not the outputs', { loss, optimizer: { terminalCurvature: { kind: 'gauss-newton', columns: 3 } } }, 'optimizer.terminalCurvature.columns', /as the network has outputs: 2/], // prettier-ignore
    ['class weights of another number', { loss: { ...loss, classWeights: [1, 2, 3] } }, 'loss.classWeights', /3 weights for 2 classes/], // prettier-ignore
    ['more centres than fit', { loss: { kind: 'max-mahalanobis-centre', classes: 4 } }, 'loss.classes', /4 centres/],
    ['curvature of the plain hinge', { loss: { kind: 'multi-margin', power: 1 }, optimizer: { terminalCurvature: { kind: 'sampled-fisher' } } }, 'loss.power', /power 2/], // prettier-ignore
  ];
  it.each(cases)('%s', (_, rest, path, message) => {
    const issue = hostedDefinitionSchema.safeParse({ mode: 'hosted', model, ...rest }).error!.issues[0]!;
    expect(issue.path.join('.')).toBe(path);
    expect(issue.message).toMatch(message);
  });

  it.each([
    [{ kind: 'dense', name: 'a', outputs: 0 }, 'model.layers.0.outputs'],
    [{ kind: 'residual', layers: [{ kind: 'dense', name: 'a', outputs: 2 }] }, 'model.layers.0'],
  ])('a model at fault, %j, is refused in its own words', (layer, path) => {
    const { error } = hostedDefinitionSchema.safeParse({
      mode: 'hosted',
      model: { ...model, layers: [layer] },
      loss: { kind: 'mse' },
    });
    expect(error!.issues[0]!.path.join('.')).toBe(path);
  });

  it('more centres than are held, and more layers with parameters than are taken', () => {
    const issueOf = (definition: object): string =>
      hostedDefinitionSchema.safeParse({ mode: 'hosted', ...definition }).error!.issues[0]!.message;
    const wide = { input: [1], layers: [{ kind: 'dense', name: 'a', outputs: 2000 }] };
    const centres = { kind: 'max-mahalanobis-centre', classes: 1000 };
    expect(issueOf({ model: wide, loss: centres })).toMatch(/1000 centres of 2000 numbers.*1000000/);
    const block = (b: number) => ({
      kind: 'residual',
      layers: Array.from({ length: 60 }, (_, i) => ({ kind: 'dense', name: `d${String(b)}-${String(i)}`, outputs: 1 })),
    });
    const deep = { input: [1], layers: Array.from({ length: 9 }, (_, b) => block(b)) };
    expect(issueOf({ model: deep, loss: { kind: 'mse' } })).toMatch(/540 layers with parameters; at most 512/);
  });

  it('lookahead with feedback is taken: it works on the weights', () => {
    expect(
      hostedDefinitionSchema.safeParse({ mode: 'hosted', model, loss, optimizer: { lookahead: {} } }).success,
    ).toBe(true);
  });

  it('the same with another coupling is taken', () => {
    const optimizer = { momentum: 0.5, maximumNorm: 1, maximumPredictedDecrease: 1, coupling: 'value' } as const;
    expect(hostedDefinitionSchema.safeParse({ mode: 'hosted', model, loss, optimizer }).success).toBe(true);
  });
});

const engine: Engine = await loadEngine('wasm');
const truth = { values: [0, 1], sampleWeights: null };

describe('a step that overflows', () => {
  const layers = ['a', 'b', 'out'].map((name) => ({ kind: 'dense', name, outputs: 2 }) as const);
  const cases: readonly [string, Omit<HostedDefinitionInput, 'mode'>, number, RegExp][] = [
    ['before the update', { model, loss }, 1e30, /numerical_failure/],
    [
      'only after it',
      {
        model: { ...model, layers },
        loss: { kind: 'mse' },
        optimizer: {
          metric: { kind: 'identity' },
          learningRate: { kind: 'constant', value: 1e6 },
          coupling: 'feedback',
          batchCoupling: 'paper-averaged',
        },
      },
      1e3,
      /The loss is .* before the step and (Infinity|NaN) after it.*float32/,
    ],
  ];
  it.each(cases)('%s is refused, and frees what it made', (_, definition, size, message) => {
    const configuration = hostedConfiguration(hostedDefinitionSchema.parse({ mode: 'hosted', ...definition }));
    engine.scope(() => {
      const state = initialHostedState(engine, configuration);
      const input = engine.tensor([size, -size, size, size, 1, 1], [2, 3]);
      const values = definition.loss.kind === 'mse' ? [0, 1, 1, 0] : [0, 1];
      const before = engine.liveTensors;
      const step = () => hostedStep(engine, configuration, state, { input, truth: { values, sampleWeights: null } });
      expect(step).toThrow(message);
      expect(engine.liveTensors).toBe(before);
    });
  });
});

describe('batch norm', () => {
  it('averages the statistics of the batches', () => {
    const definition: Omit<HostedDefinitionInput, 'mode'> = {
      model: { input: [1], layers: [{ kind: 'batch-norm', name: 'n', decay: 0.75 }, { kind: 'dense', name: 'out', outputs: 2 }] }, // prettier-ignore
      loss,
    };
    const configuration = hostedConfiguration(hostedDefinitionSchema.parse({ mode: 'hosted', ...definition }));
    engine.scope(() => {
      const read = ({ statistics: [running] }: HostedState): number[] => [
        engine.read(running!.mean)[0]!,
        engine.read(running!.variance)[0]!,
      ];
      const initial = initialHostedState(engine, configuration);
      expect(read(initial)).toEqual([0, 1]);
      // Mean 4 and variance 9.
      const batch = { input: engine.tensor([1, 7], [2, 1]), truth };
      const { state: first } = hostedStep(engine, configuration, initial, batch);
      expect(read(first)).toEqual([1, 3]);
      const { state: second } = hostedStep(engine, configuration, first, batch);
      expect(read(second)).toEqual([1.75, 4.5]);
    });
  });
});
