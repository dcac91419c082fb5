/**
 * A trainer that is saved and restored goes on bit for bit: after every step, with every metric, layer and option that has a state,
 * in both modes and on every engine. A file that was changed or cut anywhere is refused.
 */
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Engine } from '../../gpu-worker/tensor/engine.ts';
import { loadEngine, presentEngines } from '../../gpu-worker/tensor/index.ts';
import { Trainers, type SavedCheckpoint } from '../../gpu-worker/training/trainers.ts';
import { ProblemError } from '../../shared/errors.ts';
import type { LayersDefinitionInput } from '../../shared/layers-definition.ts';
import { seededRandom } from '../../shared/random.ts';
import { encode, readHeader, readValues, type NamedTensor } from '../../shared/safetensors.ts';
import {
  newSessionId,
  sessionDefinitionSchema,
  type SessionDefinition,
  type SessionDefinitionInput,
  type SessionId,
} from '../../shared/session.ts';
import { MODELS } from '../model/models.ts';
import { MODEL, randomStep } from './bodies.ts';
import { oracleJudgedEngine } from './engines.ts';

const STEPS = 6;
const CREATED_AT = '2030-01-01T00:00:00.000Z';

type LayerInput = LayersDefinitionInput['layers'][number];
type OptimizerInput = NonNullable<LayersDefinitionInput['optimizer']>;

const LAYERS: readonly LayerInput[] = [
  { name: 'dense', kind: 'dense', inputs: 5, outputs: 4 },
  { name: 'sequence', kind: 'dense', inputs: 4, outputs: 3, sequence: true },
  { name: 'conv', kind: 'conv2d', height: 5, width: 4, inputs: 2, outputs: 4, kernel: [3, 2], groups: 2 },
  { name: 'norm', kind: 'scale-shift', features: 4, sequence: true },
  { name: 'scale.only', kind: 'scale-shift', features: 4, shift: false },
  { name: 'embedding', kind: 'embedding', inputs: 7, outputs: 3 },
  { name: 'generic', kind: 'generic', parameters: 5 },
];
const METRICS: Readonly<Record<string, NonNullable<OptimizerInput['metric']>>> = {
  identity: { kind: 'identity' },
  rmsprop: { kind: 'rmsprop' },
  adam: { kind: 'adam' },
  kronecker: { kind: 'kronecker', refreshEvery: 3, statisticsEvery: 2, damping: 0.1 },
  'kronecker, frozen and truncated': {
    kind: 'kronecker',
    refreshEvery: 2,
    damping: 0.1,
    firstInputFactor: { kind: 'frozen', batches: 3, rank: 3 },
  },
  'kronecker, refreshed after the answer': {
    kind: 'kronecker',
    refreshEvery: 2,
    refreshLag: 2,
    damping: 0.1,
    firstInputFactor: { kind: 'frozen', batches: 2, rank: 3 },
  },
  ekfac: { kind: 'ekfac', refreshEvery: 3, damping: 0.1 },
};
const UPDATE: OptimizerInput = { coupling: 'gauss-newton-step' };
const OPTIONS: Readonly<Record<string, OptimizerInput>> = {
  'momentum and lookahead': { ...UPDATE, momentum: 0.5, lookahead: { steps: 3 } },
  'the leverage rule': { ...UPDATE, learningRate: { kind: 'leverage' } },
  'the Levenberg–Marquardt rule': { ...UPDATE, learningRate: { kind: 'levenberg-marquardt', every: 1 } },
  'weight decay': { ...UPDATE, weightDecay: { kind: 'running-cost', rate: 0.1 }, momentum: 0.3 },
};
const HOSTED: Readonly<Record<string, OptimizerInput>> = {
  feedback: {},
  lookahead: { lookahead: { steps: 3 } },
  'the Levenberg–Marquardt rule': { learningRate: { kind: 'levenberg-marquardt', every: 2 } },
  'momentum, ekfac': { ...UPDATE, momentum: 0.5, metric: { kind: 'ekfac', refreshEvery: 3 } },
  'drawn labels': { ...UPDATE, terminalCurvature: { kind: 'sampled-fisher' } },
};

interface Case {
  readonly title: string;
  readonly definition: SessionDefinitionInput;
}

const cases: readonly Case[] = [
  ...Object.entries(METRICS).map(([title, metric]) => ({
    title: `layers: ${title}`,
    definition: { layers: [...LAYERS], optimizer: { ...UPDATE, metric } },
  })),
  ...Object.entries(OPTIONS).map(([title, optimizer]) => ({
    title: `layers: ${title}`,
    definition: { layers: [...LAYERS], optimizer },
  })),
  { title: 'layers: policies', definition: { layers: LAYERS.slice(0, 1) } },
  { title: 'kernel: the client’s metric', definition: { mode: 'kernel', layers: [{ name: 'a' }, { name: 'b' }] } },
  {
    title: 'kernel: factors and the Levenberg–Marquardt rule',
    definition: {
      mode: 'kernel',
      layers: [{ name: 'a', factors: { inputs: 4, outputs: 3 } }, { name: 'b' }],
      optimizer: {
        metric: { kind: 'kronecker', refreshEvery: 2 },
        coupling: 'value',
        learningRate: { kind: 'levenberg-marquardt', every: 1 },
      },
    },
  },
  {
    title: 'kernel: groups, and a first input factor that is frozen',
    definition: {
      mode: 'kernel',
      layers: [
        { name: 'a', factors: { inputs: 4, outputs: 3 } },
        { name: 'b', factors: { inputs: 3, outputs: 2, groups: 2 } },
      ],
      optimizer: {
        metric: { kind: 'kronecker', refreshEvery: 2, firstInputFactor: { kind: 'frozen', batches: 3, rank: 2 } },
        coupling: 'value',
      },
    },
  },
  ...Object.entries(HOSTED).map(([title, optimizer]) => ({
    title: `hosted: ${title}`,
    definition: {
      mode: 'hosted' as const,
      model: MODEL,
      loss: { kind: 'softmax-cross-entropy' as const },
      optimizer,
      seed: 5,
    },
  })),
  {
    title: 'hosted: convolutions in groups',
    definition: { mode: 'hosted', model: MODELS['grouped and dilated conv2d']!, loss: { kind: 'mse' } },
  },
];

function save(trainers: Trainers, id: SessionId, definition: SessionDefinition): SavedCheckpoint {
  return trainers.save(id, { definition, metrics: null, createdAt: CREATED_AT });
}

/** Every state with its operations one by one; as graphs, which take their time to make, the first of either mode. */
const asGraphs = cases.filter(({ title }) => title === 'layers: kronecker' || title === 'hosted: feedback');
const runs = presentEngines().flatMap((name) => [
  { name, load: () => oracleJudgedEngine(name), cases },
  ...(name === 'tensorflow' ? [{ name: 'tensorflow as graphs', load: () => loadEngine(name), cases: asGraphs }] : []),
]);

describe.each(runs)('$name', ({ load, cases }) => {
  it.each(cases)('$title', async ({ definition: input }) => {
    const definition = sessionDefinitionSchema.parse(input);
    const engine = await load();
    const before = engine.liveTensors;
    const trainers = new Trainers(engine);
    const [unbroken, restored] = [newSessionId(), newSessionId()];
    const random = seededRandom(11);
    trainers.open(unbroken, definition);
    for (let n = 0; n < STEPS; n++) {
      const { bytes, digest, step } = save(trainers, unbroken, definition);
      expect(step).toBe(n);
      expect(trainers.restore(restored, bytes)).toMatchObject({ definition, step: n, metrics: null, digest });
      // What is restored is saved again as the same bytes.
      expect(Buffer.compare(save(trainers, restored, definition).bytes, bytes)).toBe(0);
      const body = randomStep(definition, random, n);
      const expected = trainers.step(unbroken, body.slice());
      const actual = trainers.step(restored, body);
      expect(actual.metrics).toEqual(expected.metrics);
      expect(Buffer.compare(actual.answer.body, expected.answer.body)).toBe(0);
      trainers.close(restored);
    }
    trainers.close(unbroken);
    expect(engine.liveTensors).toBe(before);
  });
});

describe('a file', () => {
  const definition = sessionDefinitionSchema.parse({ layers: LAYERS.slice(0, 1), optimizer: UPDATE });
  async function made(): Promise<{ trainers: Trainers; engine: Engine; bytes: Uint8Array<ArrayBuffer> }> {
    const engine = await loadEngine('reference');
    const trainers = new Trainers(engine);
    const id = newSessionId();
    trainers.open(id, definition);
    trainers.step(id, randomStep(definition, seededRandom(1)));
    const { bytes } = save(trainers, id, definition);
    trainers.close(id);
    return { trainers, engine, bytes };
  }

  function refusal(trainers: Trainers, file: Uint8Array): ProblemError {
    try {
      trainers.inspect(file);
    } catch (error) {
      if (error instanceof ProblemError) return error;
      throw error;
    }
    throw new Error('the file was taken');
  }

  it('that one byte was changed of, or that was cut, is refused and leaves no tensor', async () => {
    const { trainers, engine, bytes } = await made();
    const { liveTensors } = engine;
    const { step } = trainers.inspect(bytes);
    expect(step).toBe(1);
    fc.assert(
      fc.property(fc.nat(bytes.length - 1), fc.integer({ min: 1, max: 255 }), fc.boolean(), (at, mask, isCut) => {
        const damaged = isCut ? bytes.slice(0, at) : bytes.slice();
        if (!isCut) damaged[at]! ^= mask;
        const { status, details } = refusal(trainers, damaged);
        expect(status).toBe(422);
        expect(details.detail).not.toBe('');
      }),
      { seed: 3, numRuns: 300 },
    );
    expect(engine.liveTensors).toBe(liveTensors);
  });

  it('of something else is refused by name', async () => {
    const { trainers, bytes } = await made();
    const header = readHeader(bytes);
    const { metadata } = header;
    const tensors = header.entries.map((entry): NamedTensor => ({
      name: entry.name,
      shape: entry.shape,
      values: readValues(bytes, header, entry),
    }));
    const with_ = (changed: Record<string, string>) => encode(tensors, { ...metadata, ...changed });
    expect(refusal(trainers, encode(tensors)).details).toMatchObject({ param: '__metadata__.format' });
    expect(refusal(trainers, with_({ version: '2' })).details).toMatchObject({ param: '__metadata__.version' });
    expect(refusal(trainers, with_({ digest: 'ff' })).details).toMatchObject({ param: '__metadata__.digest' });
    expect(refusal(trainers, with_({ manifest: '{}' })).details).toMatchObject({ param: '__metadata__.digest' });
  });
});
