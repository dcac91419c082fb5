/** What a model declares: shapes that propagate, refusals that name layer and shapes, weights by seed, evaluation. */
import { describe, expect, it } from 'vitest';
import { initialWeights } from '../../gpu-worker/model/parameters.ts';
import { compile } from '../../gpu-worker/model/program.ts';
import { forward, type Mode } from '../../gpu-worker/model/trajectory.ts';
import { loadEngine } from '../../gpu-worker/tensor/index.ts';
import { modelOutputs, modelSchema, type ModelInput } from '../../shared/model.ts';
import { derivedSeed, seededRandom } from '../../shared/random.ts';
import { layerSchema } from '../../shared/layer.ts';
import { MODELS } from './models.ts';

const engine = await loadEngine('reference');
const dense = { kind: 'dense', name: 'out', outputs: 2 } as const;

function refusal(input: unknown): { path: string; message: string } {
  const issue = modelSchema.safeParse(input).error!.issues[0]!;
  return { path: issue.path.join('.'), message: issue.message };
}

describe('a model that cannot be is refused', () => {
  const cases: readonly [string, ModelInput, string, RegExp][] = [
    ['dense on images', { input: [4, 4, 1], layers: [dense] }, 'layers.0', /dense out.*\[4, 4, 1\].*flatten/],
    ['convolution of vectors', { input: [4], layers: [{ kind: 'conv2d', name: 'c', outputs: 2, kernel: [2, 2] }] }, 'layers.0', /conv2d c.*\[4\]/], // prettier-ignore
    ['a kernel that is too large', { input: [4, 4, 1], layers: [{ kind: 'conv2d', name: 'c', outputs: 2, kernel: [5, 5] }] }, 'layers.0', /kernel is larger/], // prettier-ignore
    ['groups that do not divide', { input: [4, 4, 3], layers: [{ kind: 'conv2d', name: 'c', outputs: 4, kernel: [1, 1], groups: 2 }] }, 'layers.0', /2 groups do not divide 3/], // prettier-ignore
    ['a window that is too large', { input: [4, 4, 3], layers: [{ kind: 'max-pooling', window: [5, 1] }] }, 'layers.0', /max-pooling.*\[4, 4, 3\].*window/], // prettier-ignore
    ['a window of padding', { input: [4, 4, 3], layers: [{ kind: 'max-pooling', window: [2, 2], padding: { kind: 'explicit', rows: [2, 0], columns: [0, 0] } }] }, 'layers.0', /padding alone/], // prettier-ignore
    ['branches of two shapes', { input: [4], layers: [dense, { kind: 'residual', layers: [{ ...dense, name: 'b', outputs: 3 }] }] }, 'layers.1', /\[3\].*\[2\]/], // prettier-ignore
    ['inside a residual', { input: [4, 4, 1], layers: [{ kind: 'residual', layers: [{ kind: 'relu' }, dense] }] }, 'layers.0.layers.1', /dense out/], // prettier-ignore
    ['an image at the end', { input: [4, 4, 1], layers: [{ kind: 'conv2d', name: 'c', outputs: 2, kernel: [2, 2] }] }, 'layers', /ends with \[3, 3, 2\]/], // prettier-ignore
    ['two layers of one name', { input: [4], layers: [dense, dense] }, 'layers', /two layers are named out/],
    ['nothing to train', { input: [4], layers: [{ kind: 'relu' }] }, 'layers', /parameters/],
  ];
  it.each(cases)('%s', (_, model, path, message) => {
    const problem = refusal(model);
    expect(problem.path).toBe(path);
    expect(problem.message).toMatch(message);
  });

  it('an unknown kind of layer', () => {
    expect(refusal({ input: [4], layers: [{ kind: 'magic' }] }).path).toBe('layers.0.kind');
  });
});

describe.each(Object.keys(MODELS))('%s', (name) => {
  const model = modelSchema.parse(MODELS[name]);
  const program = compile(model);

  it('ends with the outputs it announces, and its stages are layers of the optimizer', () => {
    engine.scope(() => {
      const weights = initialWeights(engine, program, 1);
      const x = engine.tensor(new Float64Array(2 * program.input.reduce((a, b) => a * b, 1)), [2, ...program.input]);
      const mode: Mode = { kind: 'training', noise: (operation) => seededRandom(operation) };
      const { output, states } = forward(engine, program, (t) => weights[t]!, x, mode);
      expect(output.shape).toEqual([2, modelOutputs(model)]);
      expect(states).toHaveLength(program.stages.length);
      for (const { layer } of program.stages) expect(layerSchema.parse(layer)).toEqual(layer);
    });
  });
});

describe('weights', () => {
  const program = compile(modelSchema.parse({ input: [400], layers: [{ ...dense, outputs: 300 }] }));
  const values = (seed: number, of = program): number[] =>
    engine.scope(() => [...engine.read(initialWeights(engine, of, seed)[0]!.weight!)]);

  it('begin the same for one seed and otherwise for another', () => {
    expect(values(1)).toEqual(values(1));
    expect(values(1)).not.toEqual(values(2));
  });

  it.each([
    ['he-normal', 2 / 400],
    ['glorot-uniform', 2 / 700],
    ['fan-in-uniform', 1 / 1200],
  ] as const)('%s has its variance', (initialization, variance) => {
    const layers = [{ ...dense, outputs: 300, initialization }];
    const drawn = values(4, compile(modelSchema.parse({ input: [400], layers })));
    const mean = drawn.reduce((sum, value) => sum + value, 0) / drawn.length;
    const spread = drawn.reduce((sum, value) => sum + value ** 2, 0) / drawn.length;
    expect(Math.abs(mean)).toBeLessThan(5 * Math.sqrt(variance / drawn.length));
    expect(Math.abs(spread / variance - 1)).toBeLessThan(0.02);
  });
});

describe('evaluation', () => {
  it('drops nothing, and normalises by the running statistics', () => {
    const model = modelSchema.parse({
      input: [2],
      layers: [{ kind: 'batch-norm', name: 'n', affine: false, epsilon: 1e-3 }, { kind: 'dropout', rate: 0.9 }, dense],
    });
    const program = compile(model);
    engine.scope(() => {
      const identity = [{ weight: engine.tensor([1, 0, 0, 1], [2, 2]), bias: engine.tensor([0, 0], [2]) }];
      const statistics = [{ mean: engine.tensor([1, -1], [2]), variance: engine.tensor([4, 0.25], [2]) }];
      const x = engine.tensor([3, 0], [1, 2]);
      const { output } = forward(engine, program, (t) => identity[t]!, x, { kind: 'evaluation', statistics });
      const [first, second] = engine.read(output);
      expect(first).toBeCloseTo(2 / Math.sqrt(4.001), 12);
      expect(second).toBeCloseTo(1 / Math.sqrt(0.251), 12);
    });
  });

  it('dropout keeps the mean and drops its share, the same for one stream', () => {
    const program = compile(modelSchema.parse({ input: [5000], layers: [{ kind: 'dropout', rate: 0.3 }, { ...dense, outputs: 1, bias: false }] })); // prettier-ignore
    const total = (seed: number): number =>
      engine.scope(() => {
        const ones = engine.tensor(new Float64Array(5000).fill(1), [5000, 1]);
        const x = engine.tensor(new Float64Array(5000).fill(1), [1, 5000]);
        const mode: Mode = { kind: 'training', noise: (operation) => seededRandom(derivedSeed(seed, operation)) };
        return engine.read(forward(engine, program, () => ({ weight: ones }), x, mode).output)[0]!;
      });
    expect(Math.abs(total(1) / 5000 - 1)).toBeLessThan(0.05);
    expect(total(1)).toBe(total(1));
    expect(total(1)).not.toBe(total(2));
  });
});
