/** Sessions whose memory is measured: one of every kind of state, with a few MB of it. */
import { perceptron } from '../peers/networks.ts';
import { hostedDefinitionSchema, type HostedDefinitionInput } from '../../shared/hosted-definition.ts';
import { layersDefinitionSchema, type LayersDefinitionInput } from '../../shared/layers-definition.ts';
import type { BodySizes, Trained } from './step-body.ts';

export interface SessionCase {
  readonly name: string;
  readonly definition: Trained;
  readonly sizes: BodySizes;
}

type Optimizer = NonNullable<HostedDefinitionInput['optimizer']>;
type Layers = LayersDefinitionInput['layers'];

const learningRate = { kind: 'constant', value: 1e-3 } as const;
const IDENTITY = { metric: { kind: 'identity' } } as const;

function dense(width: number): Layers {
  return [{ name: 'dense', kind: 'dense', inputs: width, outputs: width }];
}

function inLayers(name: string, layers: Layers, optimizer: Optimizer, batch = 4): SessionCase {
  const input = { mode: 'layers', layers, optimizer: { coupling: 'value', learningRate, ...optimizer } } as const;
  return { name, definition: layersDefinitionSchema.parse(input), sizes: { batch, positions: 8 } };
}

function hosted(name: string, optimizer: Optimizer): SessionCase {
  const input = {
    mode: 'hosted',
    model: perceptron([1024, 1024, 10]),
    loss: { kind: 'softmax-cross-entropy' },
    optimizer: { learningRate, ...IDENTITY, ...optimizer },
  } as const;
  return { name, definition: hostedDefinitionSchema.parse(input), sizes: { batch: 4, positions: 1 } };
}

const norms = Array.from({ length: 12 }, (_, index) => {
  return { name: `norm${String(index)}`, kind: 'scale-shift', features: 16_384 } as const;
});

export const SESSION_CASES: readonly SessionCase[] = [
  inLayers('kronecker', dense(512), { metric: { kind: 'kronecker' } }),
  inLayers('kronecker, frozen first factor, 64 eigenvectors', dense(512), {
    metric: { kind: 'kronecker', firstInputFactor: { kind: 'frozen', batches: 2, rank: 64 } },
  }),
  inLayers('ekfac', dense(384), { metric: { kind: 'ekfac' } }),
  inLayers('rmsprop', dense(1024), { metric: { kind: 'rmsprop' } }),
  inLayers('adam', dense(1024), { metric: { kind: 'adam' } }),
  inLayers('momentum', dense(1024), { ...IDENTITY, momentum: 0.5 }),
  inLayers('lookahead', dense(1024), { ...IDENTITY, lookahead: { steps: 100 } }),
  inLayers(
    'kronecker, a convolution',
    [{ name: 'convolution', kind: 'conv2d', height: 5, width: 5, inputs: 64, outputs: 256, kernel: [3, 3] }],
    {},
  ),
  inLayers('kronecker, an embedding', [{ name: 'words', kind: 'embedding', inputs: 600, outputs: 64 }], {}),
  inLayers('kronecker, twelve scales and shifts', norms, {}),
  inLayers('kronecker, a generic layer', [{ name: 'other', kind: 'generic', parameters: 500_000 }], {}),
  hosted('hosted weights', {}),
  hosted('hosted weights, levenberg-marquardt', { learningRate: { kind: 'levenberg-marquardt', initial: 1e-3, every: 1 } }),
  hosted('hosted weights, lookahead', { lookahead: { steps: 100 } }),
]; // prettier-ignore
