/** What the passes through a layer leave on the device: its output and its gradient, not what led to them. */
import * as tf from '@tensorflow/tfjs-core';
import { describe, expect, it } from 'vitest';
import { initialWeights } from '../../gpu-worker/model/parameters.ts';
import { compile } from '../../gpu-worker/model/program.ts';
import { dropoutStream } from '../../gpu-worker/model/streams.ts';
import { backpropagate, forward } from '../../gpu-worker/model/trajectory.ts';
import type { Engine } from '../../gpu-worker/tensor/engine.ts';
import { loadEngine } from '../../gpu-worker/tensor/index.ts';
import { modelSchema, type ModelInput } from '../../shared/model.ts';
import { ACTIVATIONS } from '../../shared/model-layer.ts';

const engine: Engine = await loadEngine('wasm');
const B = 64;
const IMAGE: ModelInput['input'] = [24, 24, 4];

type LayerInput = ModelInput['layers'][number];
const conv: LayerInput = { kind: 'conv2d', name: 'c', outputs: 4, kernel: [3, 3], padding: { kind: 'same' } };

/** How many times the input's size a forward and a backward pass may leave; a reshaped view counts, though it shares its values. */
const LAYERS: readonly (readonly [string, LayerInput, number, number])[] = [
  ...ACTIVATIONS.map((kind) => [kind, { kind }, 1, 1] as const),
  ['layer norm', { kind: 'layer-norm', name: 'n', affine: false }, 2.25, 1],
  ['layer norm with scale and shift', { kind: 'layer-norm', name: 'n' }, 5.25, 4],
  ['batch norm', { kind: 'batch-norm', name: 'n', affine: false }, 2, 1],
  ['dropout', { kind: 'dropout', rate: 0.5 }, 2, 1],
  ['max pooling', { kind: 'max-pooling', window: [8, 8] }, 1 / 64, 1],
  [
    'overlapping max pooling',
    { kind: 'max-pooling', window: [3, 3], strides: [1, 1], padding: { kind: 'same' } },
    1,
    1,
  ],
  ['average pooling', { kind: 'average-pooling', window: [8, 8] }, 1 / 64, 1],
  ['a convolution', conv, 3, 3],
  [
    'a convolution of patches side by side',
    { kind: 'conv2d', name: 'c', outputs: 4, kernel: [8, 8], strides: [8, 8] },
    1,
    2,
  ],
  ['a residual block', { kind: 'residual', layers: [{ kind: 'gelu' }] }, 2, 2],
];

describe('bytes left by the passes through', () => {
  it.each(LAYERS)('%s', (_, layer, forwards, backwards) => {
    engine.scope(() => {
      const layers = [layer, { kind: 'flatten' }, { kind: 'dense', name: 'out', outputs: 1, bias: false }] as const;
      const program = compile(modelSchema.parse({ input: IMAGE, layers: [...layers] }));
      const weights = initialWeights(engine, program, 1);
      const size = B * IMAGE.reduce<number>((product, length) => product * length, 1);
      const x = engine.tensor(Float32Array.from({ length: size }, (_, i) => Math.sin(i)), [B, ...IMAGE]); // prettier-ignore
      const mode = { kind: 'training', noise: (operation: number) => dropoutStream(1, 0, operation) } as const;
      const ones = engine.tensor(new Float32Array(B).fill(1), [B, 1]);
      const held = (): number => tf.memory().numBytes / (4 * size);
      const before = held();
      const trajectory = forward(engine, program, (t) => weights[t]!, x, mode);
      const between = held();
      backpropagate(trajectory, ones);
      const after = held();
      // Flattening and the dense layer behind leave views of what they are given, and its gradient.
      const outputs = trajectory.inputs.at(-1)!.shape.reduce((product, length) => product * length, 1) / size;
      expect(between - before - 2 * outputs).toBeLessThan(forwards + 0.05);
      expect(after - between - 4 * outputs).toBeLessThan(backwards + 0.05);
    });
  });
});
