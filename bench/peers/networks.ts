/** The networks that benchmarks train, declared once for the service and for its peers. */
import type { ModelInput } from '../../shared/model.ts';

type LayerInput = ModelInput['layers'][number];

/** Dense layers with rectifiers between them. */
export function perceptron([input = 0, ...widths]: readonly number[]): ModelInput {
  const layers = widths.flatMap((outputs, t): LayerInput[] => {
    const dense = { kind: 'dense', name: `dense${String(t + 1)}`, outputs } as const;
    return t < widths.length - 1 ? [dense, { kind: 'relu' }] : [dense];
  });
  return { input: [input], layers };
}

function convolutions(first: number): LayerInput[] {
  const layers = [first, first + 1].flatMap((index): LayerInput[] => [
    {
      kind: 'conv2d',
      name: `convolution${String(index)}`,
      outputs: 32,
      kernel: [3, 3],
      padding: { kind: 'same' },
    },
    { kind: 'relu' },
  ]);
  return [...layers, { kind: 'max-pooling', window: [2, 2] }];
}

export const NETWORKS = {
  'mlp-256': perceptron([784, 256, 256, 10]),
  'mlp-1024': perceptron([784, 1024, 1024, 1024, 1024, 10]),
  'cnn-32': {
    input: [28, 28, 1],
    layers: [
      ...convolutions(1),
      ...convolutions(3),
      { kind: 'flatten' },
      { kind: 'dense', name: 'dense1', outputs: 128 },
      { kind: 'relu' },
      { kind: 'dense', name: 'dense2', outputs: 10 },
    ],
  },
} as const satisfies Record<string, ModelInput>;
