/** The bytes that a session's state is said to take, against the tensors that it holds while it trains. */
import { describe, expect, it } from 'vitest';
import { randomStepBody } from '../../bench/scaling/step-body.ts';
import { INITIAL_STATE, type OptimizerState } from '../../gpu-worker/optimizer/state.ts';
import { ddpStep } from '../../gpu-worker/optimizer/step.ts';
import { tensorsIn, type Engine } from '../../gpu-worker/tensor/engine.ts';
import { createReferenceEngine } from '../../gpu-worker/tensor/reference.ts';
import { decodeHostedStep } from '../../gpu-worker/training/hosted-codec.ts';
import { hostedConfiguration, hostedStep, initialHostedState } from '../../gpu-worker/training/hosted-step.ts';
import { decodeStep } from '../../gpu-worker/training/layers-codec.ts';
import {
  hostedDefinitionSchema,
  type HostedDefinition,
  type HostedDefinitionInput,
} from '../../shared/hosted-definition.ts';
import {
  layersDefinitionSchema,
  replyForm,
  type LayersDefinition,
  type LayersDefinitionInput,
} from '../../shared/layers-definition.ts';
import type { ModelInput } from '../../shared/model.ts';
import { stateBytes } from '../../shared/session.ts';
import { elementCount } from '../../shared/shape.ts';

type OptimizerInput = NonNullable<HostedDefinitionInput['optimizer']>;

const SIZES = { batch: 3, positions: 2 };
const STEPS = 5;

const LAYERS: LayersDefinitionInput['layers'] = [
  { name: 'dense', kind: 'dense', inputs: 5, outputs: 4 },
  { name: 'unbiased', kind: 'dense', inputs: 3, outputs: 2, bias: false },
  { name: 'sequence', kind: 'dense', inputs: 3, outputs: 5, sequence: true },
  { name: 'convolution', kind: 'conv2d', height: 4, width: 4, inputs: 2, outputs: 4, kernel: [2, 3] },
  { name: 'grouped', kind: 'conv2d', height: 4, width: 4, inputs: 4, outputs: 6, kernel: [3, 3], groups: 2, bias: false },
  { name: 'norm', kind: 'scale-shift', features: 6 },
  { name: 'scale', kind: 'scale-shift', features: 4, shift: false, sequence: true },
  { name: 'words', kind: 'embedding', inputs: 7, outputs: 3 },
  { name: 'other', kind: 'generic', parameters: 11 },
]; // prettier-ignore

const MODEL: ModelInput = {
  input: [6, 6, 2],
  layers: [
    { kind: 'conv2d', name: 'convolution', outputs: 4, kernel: [3, 3], groups: 2 },
    { kind: 'batch-norm', name: 'norm' },
    { kind: 'residual', layers: [{ kind: 'relu' }, { kind: 'batch-norm', name: 'plain', affine: false }] },
    { kind: 'flatten' },
    { kind: 'layer-norm', name: 'features' },
    { kind: 'dense', name: 'hidden', outputs: 5, bias: false },
    { kind: 'tanh' },
    { kind: 'dense', name: 'out', outputs: 3 },
  ],
};

const OPTIMIZERS: readonly OptimizerInput[] = [
  { metric: { kind: 'identity' } },
  { metric: { kind: 'rmsprop' } },
  { metric: { kind: 'adam' } },
  { metric: { kind: 'kronecker', refreshEvery: 2, statisticsEvery: 2 } },
  { metric: { kind: 'kronecker', firstInputFactor: { kind: 'frozen', batches: 2, rank: 2 } } },
  { metric: { kind: 'ekfac', refreshEvery: 2 } },
  { momentum: 0.5 },
  { lookahead: { steps: 3 } },
  { momentum: 0.5, lookahead: { steps: 3 } },
  { learningRate: { kind: 'levenberg-marquardt', every: 2 } },
  { learningRate: { kind: 'leverage' } },
  { terminalCurvature: { kind: 'gauss-newton', columns: 3 } },
  { weightDecay: { kind: 'running-cost', rate: 0.1 } },
  { batchCoupling: 'diagonal' },
];

/** Bytes in float32 of a state's tensors. */
function heldBytes(engine: Engine, state: unknown): number {
  return [...tensorsIn(state, engine.isTensor)].reduce((sum, { shape }) => sum + 4 * elementCount(shape), 0);
}

/** After each of some steps. */
function layersStates(engine: Engine, definition: LayersDefinition): OptimizerState[] {
  const configuration = { layers: definition.layers, optimizer: definition.optimizer, reply: replyForm(definition) };
  let state = INITIAL_STATE;
  return Array.from({ length: STEPS }, (_, step) => {
    const body = randomStepBody(definition, SIZES, step);
    ({ state } = ddpStep(engine, configuration, state, decodeStep(body, definition, 'float64', []).upload(engine)));
    return state;
  });
}

function hostedStates(engine: Engine, definition: HostedDefinition): unknown[] {
  const configuration = hostedConfiguration(definition);
  let state = initialHostedState(engine, configuration);
  return Array.from({ length: STEPS }, (_, step) => {
    const { upload, truth } = decodeHostedStep(randomStepBody(definition, SIZES, step), definition, 'float64');
    ({ state } = hostedStep(engine, configuration, state, { input: upload(engine), truth }));
    return state;
  });
}

describe('a state is as large as the formula says when it is largest', () => {
  it.each(OPTIMIZERS)('layers, %j', (optimizer) => {
    const definition = layersDefinitionSchema.parse({
      layers: LAYERS,
      optimizer: { coupling: 'value', learningRate: { kind: 'constant', value: 0.01 }, ...optimizer },
    });
    const engine = createReferenceEngine();
    const held = layersStates(engine, definition).map((state) => heldBytes(engine, state));
    expect(Math.max(...held)).toBe(stateBytes(definition));
  });

  it.each(OPTIMIZERS)('hosted, %j', (optimizer) => {
    const definition = hostedDefinitionSchema.parse({
      mode: 'hosted',
      model: MODEL,
      loss: { kind: 'softmax-cross-entropy' },
      optimizer: { coupling: 'value', learningRate: { kind: 'constant', value: 0.01 }, ...optimizer },
    });
    const engine = createReferenceEngine();
    const held = hostedStates(engine, definition).map((state) => heldBytes(engine, state));
    expect(Math.max(...held)).toBe(stateBytes(definition));
  });
});
