/** Small models that between them have every kind of layer. */
import type { ModelInput } from '../../shared/model.ts';

export const MODELS: Readonly<Record<string, ModelInput>> = {
  dense: { input: [5], layers: [{ kind: 'dense', name: 'a', outputs: 3 }] },
  'dense without bias, relu': {
    input: [4],
    layers: [
      { kind: 'dense', name: 'a', outputs: 6, bias: false },
      { kind: 'relu' },
      { kind: 'dense', name: 'b', outputs: 3 },
    ],
  },
  ...Object.fromEntries(
    (['tanh', 'sigmoid', 'gelu', 'softplus'] as const).map((kind) => [
      kind,
      {
        input: [4],
        layers: [
          { kind: 'dense', name: 'a', outputs: 5, initialization: 'glorot-uniform' },
          { kind },
          { kind: 'dense', name: 'b', outputs: 3 },
        ],
      } satisfies ModelInput,
    ]),
  ),
  'dense over positions, flatten': {
    input: [3, 2],
    layers: [
      { kind: 'dense', name: 'a', outputs: 4 },
      { kind: 'gelu' },
      { kind: 'layer-norm', name: 'n' },
      { kind: 'flatten' },
      { kind: 'dense', name: 'b', outputs: 2 },
    ],
  },
  'conv2d with strides and same padding': {
    input: [5, 6, 2],
    layers: [
      { kind: 'conv2d', name: 'a', outputs: 3, kernel: [3, 2], strides: [2, 2], padding: { kind: 'same' } },
      { kind: 'tanh' },
      { kind: 'conv2d', name: 'b', outputs: 2, kernel: [2, 2] },
      { kind: 'flatten' },
      { kind: 'dense', name: 'c', outputs: 2 },
    ],
  },
  'grouped and dilated conv2d': {
    input: [6, 5, 2],
    layers: [
      { kind: 'conv2d', name: 'a', outputs: 4, kernel: [2, 2], dilations: [2, 1], bias: false },
      { kind: 'softplus' },
      {
        kind: 'conv2d',
        name: 'b',
        outputs: 6,
        kernel: [3, 3],
        groups: 2,
        padding: { kind: 'explicit', rows: [1, 0], columns: [2, 1] },
      },
      { kind: 'flatten' },
      { kind: 'dense', name: 'c', outputs: 2 },
    ],
  },
  'conv2d with more padding than its kernel reaches over': {
    input: [3, 4, 2],
    layers: [
      {
        kind: 'conv2d',
        name: 'a',
        outputs: 2,
        kernel: [1, 2],
        padding: { kind: 'explicit', rows: [1, 2], columns: [2, 1] },
      },
      { kind: 'tanh' },
      {
        kind: 'conv2d',
        name: 'b',
        outputs: 2,
        kernel: [2, 1],
        padding: { kind: 'explicit', rows: [2, 0], columns: [0, 1] },
      },
      { kind: 'flatten' },
      { kind: 'dense', name: 'c', outputs: 2 },
    ],
  },
  'max pooling': {
    input: [6, 6, 1],
    layers: [
      { kind: 'conv2d', name: 'a', outputs: 2, kernel: [3, 3], padding: { kind: 'same' } },
      { kind: 'max-pooling', window: [3, 3], strides: [2, 2], padding: { kind: 'same' } },
      { kind: 'max-pooling', window: [2, 2] },
      { kind: 'flatten' },
      { kind: 'dense', name: 'b', outputs: 2 },
    ],
  },
  'average pooling': {
    input: [6, 6, 1],
    layers: [
      { kind: 'conv2d', name: 'a', outputs: 2, kernel: [3, 3], padding: { kind: 'same' } },
      { kind: 'average-pooling', window: [3, 2], strides: [2, 1], padding: { kind: 'same' } },
      { kind: 'flatten' },
      { kind: 'dense', name: 'b', outputs: 2 },
    ],
  },
  'batch norm': {
    input: [4],
    layers: [
      { kind: 'dense', name: 'a', outputs: 5 },
      { kind: 'batch-norm', name: 'n' },
      { kind: 'tanh' },
      { kind: 'dense', name: 'b', outputs: 2 },
    ],
  },
  'norms of images': {
    input: [4, 4, 2],
    layers: [
      { kind: 'conv2d', name: 'a', outputs: 3, kernel: [3, 3] },
      { kind: 'batch-norm', name: 'n' },
      { kind: 'layer-norm', name: 'm', affine: false },
      { kind: 'layer-norm', name: 'l' },
      { kind: 'flatten' },
      { kind: 'dense', name: 'b', outputs: 2 },
    ],
  },
  dropout: {
    input: [4],
    layers: [
      { kind: 'dense', name: 'a', outputs: 8 },
      { kind: 'dropout', rate: 0.4 },
      { kind: 'tanh' },
      { kind: 'dense', name: 'b', outputs: 2 },
    ],
  },
  'residual without parameters': {
    input: [4],
    layers: [
      { kind: 'dense', name: 'a', outputs: 5 },
      { kind: 'residual', layers: [{ kind: 'tanh' }] },
      { kind: 'dense', name: 'b', outputs: 2 },
    ],
  },
  'residual with parameters': {
    input: [4],
    layers: [
      { kind: 'dense', name: 'a', outputs: 5 },
      {
        kind: 'residual',
        layers: [{ kind: 'tanh' }, { kind: 'dense', name: 'b', outputs: 5 }, { kind: 'sigmoid' }],
      },
      { kind: 'tanh' },
      { kind: 'dense', name: 'c', outputs: 3 },
    ],
  },
  'residual with parameters in both branches': {
    input: [4],
    layers: [
      {
        kind: 'residual',
        layers: [{ kind: 'dense', name: 'a', outputs: 5 }, { kind: 'tanh' }, { kind: 'dense', name: 'b', outputs: 3 }],
        shortcut: [{ kind: 'dense', name: 's', outputs: 3 }, { kind: 'sigmoid' }, { kind: 'layer-norm', name: 'n' }],
      },
      { kind: 'gelu' },
      { kind: 'dense', name: 'c', outputs: 3 },
    ],
  },
  'residual of images with a shortcut': {
    input: [4, 4, 2],
    layers: [
      {
        kind: 'residual',
        layers: [
          { kind: 'conv2d', name: 'a', outputs: 3, kernel: [3, 3], strides: [2, 2], padding: { kind: 'same' } },
          { kind: 'batch-norm', name: 'n' },
          { kind: 'gelu' },
          { kind: 'conv2d', name: 'b', outputs: 3, kernel: [3, 3], padding: { kind: 'same' } },
        ],
        shortcut: [{ kind: 'conv2d', name: 's', outputs: 3, kernel: [1, 1], strides: [2, 2] }],
      },
      { kind: 'softplus' },
      { kind: 'average-pooling', window: [2, 2] },
      { kind: 'flatten' },
      { kind: 'dense', name: 'c', outputs: 2 },
    ],
  },
};
