/**
 * The step on layers of every kind against explicit Jacobians: engine × layer × metric × coupling × terminal curvature × batch
 * coupling. Every layer stands between two others, so that it is coupled to an earlier and to a later one.
 */
import { describe, expect, it } from 'vitest';
import {
  gram,
  gramDiagonal,
  secondMoment,
  timesChange,
  type PerSampleGradients,
} from '../../gpu-worker/optimizer/layers/per-sample-gradients.ts';
import { INITIAL_STATE, type OptimizerState } from '../../gpu-worker/optimizer/state.ts';
import { ddpStep, type StepBatch, type StepConfiguration } from '../../gpu-worker/optimizer/step.ts';
import { tensorsIn, type Engine, type Tensor } from '../../gpu-worker/tensor/engine.ts';
import { presentEngines } from '../../gpu-worker/tensor/index.ts';
import { layersTrainer } from '../../gpu-worker/training/layers-trainer.ts';
import type { ParameterChanges } from '../../clients/js/index.ts';
import { readInverses, readPolicy } from '../../clients/js/read-policy.ts';
import { ReplyTensors } from '../../clients/js/reply-tensors.ts';
import { encode, type NamedTensor } from '../../shared/safetensors.ts';
import { oracleJudgedEngine } from './engines.ts';
import { layersDefinitionSchema, type LayersDefinitionInput } from '../../shared/layers-definition.ts';
import { terminalWeights, type LossScale } from '../oracle/bellman.ts';
import {
  exactStep,
  outputExtent,
  parameterGradients,
  sampleSpaceStep,
  stagesOf,
  type Conv2dOracle,
  type CouplingOracle,
  type LayerBatchOracle,
  type LayerOracle,
  type MetricOracle,
  type StageOracle,
} from '../oracle/layers.ts';
import { columnVector, multiply, transpose, type Matrix } from '../oracle/matrix.ts';
import { gaussianMatrix, mulberry32 } from '../oracle/network.ts';
import { relativeError, type OptimizerInput, TOLERANCE } from './drive.ts';

type LayerInput = LayersDefinitionInput['layers'][number];
/** A layer without its name. */
type Unnamed<Input> = Input extends LayerInput ? Omit<Input, 'name'> : never;
type Conv2dInput = Extract<Unnamed<LayerInput>, { kind: 'conv2d' }>;

/** One layer as the product and as the oracle describe it. */
interface LayerCase {
  readonly title: string;
  readonly product: Unnamed<LayerInput>;
  readonly oracle: LayerOracle;
  /** Shapes of one sample's input and output; a generic layer has its parameters for an output. */
  readonly input: readonly number[] | null;
  readonly output: readonly number[];
  /** Shapes of the parameters, by name, in order. */
  readonly parameters: readonly (readonly [string, readonly number[]])[];
}

function dense(inputs: number, outputs: number, { bias = true, positions = 0 } = {}): LayerCase {
  const along = positions > 0 ? [positions] : [];
  return {
    title: `dense ${String(inputs)}-${String(outputs)}${bias ? '' : ' without bias'}${positions > 0 ? ` over ${String(positions)} positions` : ''}`,
    product: { kind: 'dense', inputs, outputs, bias, sequence: positions > 0 },
    oracle: { kind: 'dense', inputs, outputs, bias, positions: Math.max(1, positions) },
    input: [...along, inputs],
    output: [...along, outputs],
    parameters: [['weight', [inputs, outputs]], ...(bias ? [['bias', [outputs]] as const] : [])],
  };
}

function scaleShift(features: number, { shift = true, positions = 0 } = {}): LayerCase {
  const shape = [...(positions > 0 ? [positions] : []), features];
  return {
    title: `scale${shift ? ' and shift' : ''} of ${String(features)}${positions > 0 ? ` over ${String(positions)} positions` : ''}`,
    product: { kind: 'scale-shift', features, shift, sequence: positions > 0 },
    oracle: { kind: 'scale-shift', features, shift, positions: Math.max(1, positions) },
    input: shape,
    output: shape,
    parameters: [['scale', [features]], ...(shift ? [['shift', [features]] as const] : [])],
  };
}

function embedding(vocabulary: number, outputs: number, positions: number): LayerCase {
  return {
    title: `embedding of ${String(vocabulary)} at ${String(positions)} positions`,
    product: { kind: 'embedding', inputs: vocabulary, outputs },
    oracle: { kind: 'embedding', vocabulary, outputs, positions },
    input: [positions],
    output: [positions, outputs],
    parameters: [['weight', [vocabulary, outputs]]],
  };
}

function generic(parameters: number): LayerCase {
  return {
    title: `generic of ${String(parameters)}`,
    product: { kind: 'generic', parameters },
    oracle: { kind: 'generic', parameters },
    input: null,
    output: [parameters],
    parameters: [['parameters', [parameters]]],
  };
}

const NONE: Conv2dOracle['padding'] = [
  [0, 0],
  [0, 0],
];

/** @param padding zeros above, below; left, right: worked out by hand for `same` */
function conv2d(title: string, product: Omit<Conv2dInput, 'kind'>, padding = NONE): LayerCase {
  const { height, width, inputs, outputs, kernel, groups = 1, bias = true } = product;
  const oracle: Conv2dOracle = {
    kind: 'conv2d',
    height,
    width,
    inputs,
    outputs,
    kernel,
    strides: product.strides ?? [1, 1],
    dilations: product.dilations ?? [1, 1],
    padding,
    groups,
    bias,
  };
  return {
    title: `conv2d ${title}`,
    product: { kind: 'conv2d', ...product },
    oracle,
    input: [height, width, inputs],
    output: [...outputExtent(oracle), outputs],
    parameters: [['weight', [...kernel, inputs / groups, outputs]], ...(bias ? [['bias', [outputs]] as const] : [])],
  };
}

// prettier-ignore
const CASES: readonly LayerCase[] = [
  dense(3, 4),
  dense(3, 4, { bias: false }),
  dense(3, 4, { positions: 1 }),
  dense(3, 4, { positions: 5 }),
  dense(3, 4, { positions: 5, bias: false }),
  conv2d('1×1', { height: 3, width: 2, inputs: 3, outputs: 2, kernel: [1, 1] }),
  conv2d('3×3', { height: 5, width: 4, inputs: 2, outputs: 2, kernel: [3, 3] }),
  conv2d('3×3, same', { height: 4, width: 3, inputs: 1, outputs: 3, kernel: [3, 3], padding: { kind: 'same' } }, [[1, 1], [1, 1]]),
  conv2d('4×2, same: odd zeros behind', { height: 4, width: 3, inputs: 1, outputs: 2, kernel: [4, 2], padding: { kind: 'same' } }, [[1, 2], [0, 1]]),
  conv2d('3×1', { height: 4, width: 3, inputs: 2, outputs: 2, kernel: [3, 1] }),
  conv2d('1×2, stride 1×2', { height: 3, width: 5, inputs: 2, outputs: 2, kernel: [1, 2], strides: [1, 2] }),
  conv2d('3×3, stride 2, a row to spare', { height: 6, width: 5, inputs: 1, outputs: 2, kernel: [3, 3], strides: [2, 2] }),
  conv2d('3×3, stride 2, same', { height: 5, width: 4, inputs: 2, outputs: 1, kernel: [3, 3], strides: [2, 2], padding: { kind: 'same' } }, [[1, 1], [0, 1]]),
  conv2d('1×1, stride 3, same', { height: 5, width: 4, inputs: 2, outputs: 2, kernel: [1, 1], strides: [3, 3], padding: { kind: 'same' } }),
  conv2d('3×3, dilation 2', { height: 6, width: 5, inputs: 1, outputs: 2, kernel: [3, 3], dilations: [2, 2] }),
  conv2d('3×2, dilation 2, same', { height: 4, width: 3, inputs: 2, outputs: 2, kernel: [3, 2], dilations: [2, 2], padding: { kind: 'same' } }, [[2, 2], [1, 1]]),
  conv2d('2×2, stride 2×1, dilation 1×2', { height: 5, width: 4, inputs: 2, outputs: 2, kernel: [2, 2], strides: [2, 1], dilations: [1, 2] }),
  conv2d('2×2, stride 2, dilation 3, same', { height: 5, width: 6, inputs: 2, outputs: 1, kernel: [2, 2], strides: [2, 2], dilations: [3, 3], padding: { kind: 'same' } }, [[1, 2], [1, 1]]),
  conv2d('2×2, zeros above and right', { height: 3, width: 2, inputs: 2, outputs: 2, kernel: [2, 2], padding: { kind: 'explicit', rows: [2, 0], columns: [0, 1] } }, [[2, 0], [0, 1]]),
  conv2d('3×4 on 2×2, which only padding makes fit', { height: 2, width: 2, inputs: 1, outputs: 2, kernel: [3, 4], padding: { kind: 'explicit', rows: [0, 1], columns: [2, 0] } }, [[0, 1], [2, 0]]),
  conv2d('as large as the input', { height: 2, width: 3, inputs: 2, outputs: 2, kernel: [2, 3] }),
  conv2d('2×2 without bias', { height: 3, width: 3, inputs: 2, outputs: 3, kernel: [2, 2], bias: false }),
  conv2d('2×2, 2 groups', { height: 3, width: 3, inputs: 4, outputs: 4, kernel: [2, 2], groups: 2 }),
  conv2d('2×2, 2 groups of 2 to 3, stride 2, same, without bias', { height: 3, width: 4, inputs: 4, outputs: 6, kernel: [2, 2], groups: 2, strides: [2, 2], padding: { kind: 'same' }, bias: false }, [[0, 1], [0, 0]]),
  conv2d('3×3, depthwise', { height: 4, width: 4, inputs: 3, outputs: 3, kernel: [3, 3], groups: 3, padding: { kind: 'same' } }, [[1, 1], [1, 1]]),
  conv2d('2×2, depthwise, two outputs each', { height: 3, width: 3, inputs: 3, outputs: 6, kernel: [2, 2], groups: 3 }),
  embedding(4, 3, 5),
  embedding(5, 2, 1),
  scaleShift(4),
  scaleShift(4, { shift: false }),
  scaleShift(3, { positions: 5 }),
  scaleShift(3, { positions: 5, shift: false }),
  generic(1),
  generic(7),
  // Many inputs, few outputs and enough rows: without patches.
  conv2d('3×3, same, lowered', { height: 5, width: 4, inputs: 3, outputs: 1, kernel: [3, 3], padding: { kind: 'same' } }, [[1, 1], [1, 1]]),
  conv2d('2×3, dilation 2×1, stride 1×2, 2 groups, without bias, lowered', { height: 6, width: 5, inputs: 6, outputs: 2, kernel: [2, 3], dilations: [2, 1], strides: [1, 2], groups: 2, bias: false }),
];

const BEFORE = dense(3, 2);
const AFTER = scaleShift(3);
/** Layers of every kind in one stack. */
const MIXED: readonly LayerCase[] = [CASES[26]!, CASES[22]!, CASES[3]!, AFTER, generic(4), BEFORE];

interface MetricCase {
  readonly product: NonNullable<OptimizerInput['metric']>;
  readonly oracle: MetricOracle;
}

const FACTORS = { decay: 0.8, damping: 0.03 };
const ADAPTIVE = { decay: 0.8, epsilon: 0.01 };
const METRICS: readonly MetricCase[] = [
  { product: { kind: 'identity' }, oracle: { kind: 'identity' } },
  { product: { kind: 'rmsprop', ...ADAPTIVE }, oracle: { kind: 'rmsprop', ...ADAPTIVE } },
  { product: { kind: 'adam', ...ADAPTIVE }, oracle: { kind: 'adam', ...ADAPTIVE } },
  { product: { kind: 'kronecker', ...FACTORS, refreshEvery: 1 }, oracle: { kind: 'kronecker', ...FACTORS } },
  { product: { kind: 'ekfac', ...FACTORS, refreshEvery: 1 }, oracle: { kind: 'ekfac', ...FACTORS } },
];

const ETA = 2;
const B = 4;
const LOSS_SCALE: LossScale = { floor: 0.5, ceiling: 100 };
const COUPLINGS = ['layerwise', 'value', 'gauss-newton-step'] as const satisfies readonly CouplingOracle[];

interface CurvatureCase {
  readonly title: string;
  readonly product: NonNullable<OptimizerInput['terminalCurvature']>;
  readonly columns: number;
  readonly batchCouplings: readonly ('full' | 'diagonal')[];
}

const CURVATURES: readonly CurvatureCase[] = [
  {
    title: 'gradient by the loss',
    product: { kind: 'gradient', lossScale: LOSS_SCALE },
    columns: 0,
    batchCouplings: ['full', 'diagonal'],
  },
  {
    title: 'three columns',
    product: { kind: 'gauss-newton', columns: 3 },
    columns: 3,
    // Without cross-sample terms there is one column.
    batchCouplings: ['full'],
  },
];

const SAMPLED_FISHER: CurvatureCase = {
  title: 'sampled Fisher',
  product: { kind: 'sampled-fisher' },
  columns: 1,
  batchCouplings: ['full'],
};

const sizeOf = (shape: readonly number[]): number => shape.reduce((product, length) => product * length, 1);

/** One batch of a stack: what the oracle and the product are given. */
interface RandomBatch {
  readonly losses: Float64Array;
  readonly layers: readonly LayerBatchOracle[];
}

/** Numbers that float32 holds exactly, so that both engines see the batch that the oracle sees. */
function randomBatch(cases: readonly LayerCase[], columns: number, seed: number, batch = B): RandomBatch {
  const random = mulberry32(seed);
  const values = (shape: readonly number[]): Float64Array =>
    gaussianMatrix(random, 1, sizeOf(shape)).data.map((value) => Math.fround(value));
  const many = (count: number, make: () => Float64Array): Float64Array[] => Array.from({ length: count }, make);
  const layers = cases.map(({ oracle, input, output }): LayerBatchOracle => {
    const randomInput = (): Float64Array =>
      oracle.kind === 'embedding'
        ? // Squared, so that tokens repeat and are not equally frequent.
          Float64Array.from({ length: oracle.positions }, () => Math.floor(random() ** 2 * oracle.vocabulary))
        : values(input!);
    return {
      inputs: input === null ? [] : many(batch, randomInput),
      lossGradients: many(batch, () => values(output)),
      columnGradients: columns === 0 ? null : many(batch * columns, () => values(output)),
    };
  });
  // One loss below 1/(2·ceiling) and one above 1/(2·floor), so that both ends of the loss scale are met.
  const losses = Float64Array.from({ length: batch }, (_, i) => Math.fround([0.004, 0.1, 0.4, 1.7][i % 4]!));
  return { losses, layers };
}

function configurationOf(cases: readonly LayerCase[], optimizer: OptimizerInput): StepConfiguration {
  const definition = layersDefinitionSchema.parse({
    layers: cases.map(({ product }, t) => ({ name: `layer${String(t)}`, ...product })),
    optimizer,
    reply: 'update',
  });
  return { layers: definition.layers, optimizer: definition.optimizer, reply: 'update' };
}

/** The parameters that the layers of a stack have, for those that look at them. */
function parameterValues(t: number, name: string, size: number): Float64Array {
  const seed = 1000 * t + name.length;
  return gaussianMatrix(mulberry32(seed), 1, size).data.map((value) => Math.fround(value));
}

function upload(engine: Engine, cases: readonly LayerCase[], { losses, layers }: RandomBatch): StepBatch {
  const stack = (rows: readonly Float64Array[], shape: readonly number[]): Tensor =>
    engine.tensor(
      rows.flatMap((row) => [...row]),
      [rows.length, ...shape],
    );
  return {
    losses: engine.tensor(losses, [losses.length]),
    previousLosses: null,
    layers: layers.map(({ inputs, lossGradients, columnGradients }, t) => ({
      input: cases[t]!.input === null ? null : stack(inputs, cases[t]!.input),
      lossGradient: stack(lossGradients, cases[t]!.output),
      columnGradient: columnGradients === null ? null : stack(columnGradients, cases[t]!.output),
      parameters: Object.fromEntries(
        cases[t]!.parameters.map(([name, shape]) => [
          name,
          engine.tensor(parameterValues(t, name, sizeOf(shape)), shape),
        ]),
      ),
    })),
  };
}

/** The changes of every layer's parameters, one after the other, as the oracle orders them; and the next state. */
function productStep(
  engine: Engine,
  cases: readonly LayerCase[],
  optimizer: OptimizerInput,
  state: OptimizerState,
  batch: RandomBatch,
): { readonly changes: readonly Matrix[]; readonly state: OptimizerState } {
  return engine.scope(() => {
    const configuration = configurationOf(cases, optimizer);
    const result = ddpStep(engine, configuration, state, upload(engine, cases, batch));
    const { reply } = result;
    if (reply.kind !== 'update') throw new Error('no update');
    const changes = cases.map(({ parameters }, t) => {
      const tensors = new Map<string, Tensor>(Object.entries(reply.changes[t]!));
      expect([...tensors].map(([name, { shape }]) => [name, shape])).toEqual(parameters);
      return columnVector([...tensors.values()].flatMap((tensor) => [...engine.read(tensor)]));
    });
    return { changes, state: result.state };
  });
}

/** The changes after several batches. */
function changesAfter(
  engine: Engine,
  cases: readonly LayerCase[],
  optimizer: OptimizerInput,
  batches: readonly RandomBatch[],
): readonly Matrix[] {
  return engine.scope(() => {
    let state = INITIAL_STATE;
    let changes: readonly Matrix[] = [];
    for (const batch of batches) ({ state, changes } = productStep(engine, cases, optimizer, state, batch));
    return changes;
  });
}

/** What a client that forms Jᵀκ makes of the last batch's policies, where nothing has changed before (s = 0). */
function inverseFactorChanges(
  engine: Engine,
  cases: readonly LayerCase[],
  optimizer: OptimizerInput,
  batches: readonly RandomBatch[],
): readonly Matrix[] {
  const definition = layersDefinitionSchema.parse({
    layers: configurationOf(cases, { ...optimizer, coupling: 'value' }).layers,
    optimizer: { ...optimizer, coupling: 'feedback' },
    policyEncoding: 'inverse-factors',
  });
  const trainer = layersTrainer(engine, definition);
  const [body] = batches.map((batch) => trainer.step(bodyOf(cases, batch)).answer.body).reverse();
  trainer.close();
  const reply = new ReplyTensors(body!);
  return cases.map(({ oracle, parameters }, t) => {
    const { inputs, lossGradients } = batches.at(-1)!.layers[t]!;
    const layer = definition.layers[t]!;
    const policy = readPolicy(reply, layer, readInverses(reply, layer, 1) ?? undefined, null);
    const kappa = columnVector(policy.coefficients(null));
    const weighted = multiply(transpose(parameterGradients(oracle, inputs, lossGradients)), kappa).data;
    let offset = 0;
    const gradient = parameters.map(([name, shape]) => {
      offset += sizeOf(shape);
      return [name, weighted.slice(offset - sizeOf(shape), offset)];
    });
    const change = policy.changeFrom(Object.fromEntries(gradient) as ParameterChanges);
    return columnVector(Object.values(change).flatMap((values) => [...values]));
  });
}

function bodyOf(cases: readonly LayerCase[], { losses, layers }: RandomBatch): Uint8Array {
  const stack = (name: string, rows: readonly Float64Array[], shape: readonly number[]): NamedTensor => ({
    name,
    shape: [rows.length, ...shape],
    values: Float64Array.from(rows.flatMap((row) => [...row])),
  });
  const tensors = layers.flatMap(({ inputs, lossGradients }, t) => {
    const { input, output } = cases[t]!;
    const prefix = `layers.layer${String(t)}`;
    return input === null
      ? [stack(`${prefix}.param_grad`, lossGradients, output)]
      : [stack(`${prefix}.input`, inputs, input), stack(`${prefix}.output_grad`, lossGradients, output)];
  });
  return encode([{ name: 'losses', shape: [losses.length], values: losses }, ...tensors]);
}

function optimizerFor(metric: MetricCase, curvature: CurvatureCase): OptimizerInput {
  return {
    learningRate: { kind: 'constant', value: ETA },
    metric: metric.product,
    terminalCurvature: curvature.product,
  };
}

/** What the oracle knows of a stack after two batches; the same for every engine, coupling and batch coupling. */
interface Scenario {
  readonly stack: readonly LayerCase[];
  readonly batches: readonly RandomBatch[];
  readonly stages: readonly StageOracle[];
  readonly h: Float64Array;
}

const scenarios = new Map<string, Scenario>();

function scenario(stack: readonly LayerCase[], metric: MetricCase, curvature: CurvatureCase, seed: number): Scenario {
  const key = [seed, metric.oracle.kind, curvature.title].join();
  const known = scenarios.get(key);
  if (known !== undefined) return known;
  const batches = [0, 500].map((offset) => randomBatch(stack, curvature.columns, seed + offset));
  const weights = (losses: Float64Array): Float64Array =>
    terminalWeights(losses, curvature.columns === 0 ? LOSS_SCALE : undefined);
  const made: Scenario = {
    stack,
    batches,
    stages: stagesOf(
      stack.map(({ oracle }) => oracle),
      batches.map(({ losses, layers }) => ({ layers, h: weights(losses) })),
      metric.oracle,
      ETA,
    ),
    h: weights(batches.at(-1)!.losses),
  };
  scenarios.set(key, made);
  return made;
}

const expectations = new Map<string, readonly Matrix[]>();

function expectedChanges(
  { stages, h }: Scenario,
  coupling: CouplingOracle,
  batchCoupling: 'full' | 'diagonal',
  key: string,
): readonly Matrix[] {
  const known = expectations.get(key);
  if (known !== undefined) return known;
  const changes =
    batchCoupling === 'full' ? exactStep(stages, h, coupling) : sampleSpaceStep(stages, h, coupling, 'diagonal');
  expectations.set(key, changes);
  return changes;
}

const COMBINATIONS = METRICS.flatMap((metric) =>
  CURVATURES.map((curvature) => ({ metric, curvature, title: `${metric.oracle.kind}, ${curvature.title}` })),
);
const STACKS = [
  ...CASES.map((layer) => ({ title: layer.title, stack: [BEFORE, layer, AFTER] })),
  { title: 'a stack of all kinds', stack: MIXED },
  { title: 'a stack of all kinds, the other way round', stack: MIXED.toReversed() },
].map((stack, index) => ({ ...stack, seed: 1 + index }));

describe.each(presentEngines())('engine %s', async (name) => {
  const engine = await oracleJudgedEngine(name);
  const tolerance = TOLERANCE[engine.precision];

  function expectEqual(actual: readonly Matrix[], expected: readonly Matrix[], within = tolerance): void {
    expect(actual).toHaveLength(expected.length);
    for (const [t, change] of actual.entries()) expect(relativeError(change, expected[t]!)).toBeLessThan(within);
  }

  describe.each(STACKS)('$title', ({ stack, seed }) => {
    it.each(METRICS.filter(({ oracle }) => oracle.kind !== 'ekfac'))(
      '$oracle.kind: so is what a client makes of a policy of inverse factors',
      (metric) => {
        const curvature = CURVATURES[0]!;
        const known = scenario(stack, metric, curvature, seed);
        const changes = inverseFactorChanges(engine, stack, optimizerFor(metric, curvature), known.batches);
        const key = [seed, `${metric.oracle.kind}, ${curvature.title}`, 'value', 'full'].join();
        expectEqual(changes, expectedChanges(known, 'value', 'full', key));
      },
    );

    it.each(COMBINATIONS)('$title: the update is that of explicit Jacobians', ({ metric, curvature, title }) => {
      const known = scenario(stack, metric, curvature, seed);
      const [first, second] = known.batches;
      engine.scope(() => {
        const optimizer = optimizerFor(metric, curvature);
        // The state does not depend on the coupling, so the couplings share the first step.
        const { state } = productStep(engine, stack, { ...optimizer, coupling: 'value' }, INITIAL_STATE, first!);
        for (const batchCoupling of curvature.batchCouplings) {
          for (const coupling of COUPLINGS) {
            const options: OptimizerInput = { ...optimizer, coupling, batchCoupling };
            const { changes } = productStep(engine, stack, options, state, second!);
            const key = [seed, title, coupling, batchCoupling].join();
            expectEqual(changes, expectedChanges(known, coupling, batchCoupling, key));
          }
        }
      });
    });
  });

  describe.each([false, true])('weight decay as a running cost, biases %s', (biases) => {
    it.each(COMBINATIONS)('$title: the update is that of explicit Jacobians', ({ metric, curvature }) => {
      const rate = 0.2;
      const known = scenario(MIXED, metric, curvature, 95);
      const stages = known.stages.map((stage, t) => ({
        ...stage,
        costGradient: columnVector(
          MIXED[t]!.parameters.flatMap(([name, shape]) => {
            const decays = biases || name === 'weight' || name === 'parameters';
            return [...parameterValues(t, name, sizeOf(shape)).map((value) => (decays ? rate * value : 0))];
          }),
        ),
      }));
      const weightDecay = { kind: 'running-cost', rate, biases } as const;
      for (const coupling of COUPLINGS) {
        const optimizer = { ...optimizerFor(metric, curvature), coupling, weightDecay };
        expectEqual(changesAfter(engine, MIXED, optimizer, known.batches), exactStep(stages, known.h, coupling));
      }
    });
  });

  it.each(METRICS.map((metric) => ({ metric, title: metric.oracle.kind })))(
    '$title, one column of its own per sample: the update is that of explicit Jacobians',
    ({ metric }) => {
      const known = scenario(MIXED, metric, SAMPLED_FISHER, 90);
      const optimizer = { ...optimizerFor(metric, SAMPLED_FISHER), coupling: 'gauss-newton-step' } as const;
      expectEqual(
        changesAfter(engine, MIXED, optimizer, known.batches),
        exactStep(known.stages, known.h, 'gauss-newton-step'),
      );
    },
  );

  describe.each(COMBINATIONS)('$title', ({ metric, curvature }) => {
    const optimizer: OptimizerInput = { ...optimizerFor(metric, curvature), coupling: 'gauss-newton-step' };

    /** The same numbers, seen as activations of two stacks whose layers differ in kind. */
    function expectAlike(
      one: readonly LayerCase[],
      other: readonly LayerCase[],
      batches: readonly RandomBatch[],
    ): void {
      expectEqual(changesAfter(engine, one, optimizer, batches), changesAfter(engine, other, optimizer, batches));
    }

    function batchesOf(stack: readonly LayerCase[]): readonly RandomBatch[] {
      return [70, 71].map((seed) => randomBatch(stack, curvature.columns, seed));
    }

    const square: Omit<Conv2dInput, 'kind'> = { height: 3, width: 3, inputs: 4, outputs: 2, kernel: [2, 2] };

    it('a convolution in one group is one without groups', () => {
      const one = [BEFORE, conv2d('in one group', { ...square, groups: 1 }), AFTER];
      const other = [BEFORE, conv2d('without groups', square), AFTER];
      expectAlike(one, other, batchesOf(one));
    });

    it('a convolution in two groups is two convolutions side by side', () => {
      const grouped = conv2d('in two groups', { ...square, groups: 2 });
      const half = conv2d('of half the channels', { ...square, inputs: 2, outputs: 1 });
      const batches = batchesOf([grouped]);
      const [whole] = changesAfter(engine, [grouped], optimizer, batches);
      const halves = changesAfter(
        engine,
        [half, half],
        optimizer,
        batches.map(({ losses, layers: [layer] }) => ({
          losses,
          layers: [0, 1].map((group) => channels(layer!, group)),
        })),
      );
      // Channel by channel, kernel before bias.
      const ofGroup = (group: number): Matrix => columnVector(whole!.data.filter((_, index) => index % 2 === group));
      expectEqual([ofGroup(0), ofGroup(1)], halves);
    });

    it('a 1×1 convolution is a dense layer over its positions', () => {
      const convolution = conv2d('1×1', { height: 3, width: 2, inputs: 3, outputs: 4, kernel: [1, 1] });
      const one = [BEFORE, convolution, AFTER];
      expectAlike(one, [BEFORE, dense(3, 4, { positions: 6 }), AFTER], batchesOf(one));
    });

    it('a convolution as large as its input is a dense layer', () => {
      const convolution = conv2d('2×3 on 2×3', { height: 2, width: 3, inputs: 2, outputs: 4, kernel: [2, 3] });
      const one = [BEFORE, convolution, AFTER];
      expectAlike(one, [BEFORE, dense(12, 4), AFTER], batchesOf(one));
    });

    it('a dense layer over one position is one without positions', () => {
      const one = [BEFORE, dense(3, 4, { positions: 1 }), AFTER];
      expectAlike(one, [BEFORE, dense(3, 4), AFTER], batchesOf(one));
    });

    it('an embedding is a dense layer without bias over one-hot inputs', () => {
      const one = [BEFORE, embedding(4, 3, 5), AFTER];
      const batches = batchesOf(one);
      const oneHot = batches.map(({ losses, layers }) => ({
        losses,
        layers: layers.with(1, {
          ...layers[1]!,
          inputs: layers[1]!.inputs.map((tokens) =>
            Float64Array.from([...tokens].flatMap((token) => [0, 1, 2, 3].map((entry) => (entry === token ? 1 : 0)))),
          ),
        }),
      }));
      const other = [BEFORE, dense(4, 3, { bias: false, positions: 5 }), AFTER];
      expectEqual(changesAfter(engine, one, optimizer, batches), changesAfter(engine, other, optimizer, oneHot));
    });

    it('leaves no tensor behind over repeated steps', () => {
      const batch = randomBatch(MIXED, curvature.columns, 80);
      const before = engine.liveTensors;
      let state = INITIAL_STATE;
      const held = Array.from({ length: 6 }, () => {
        const next = productStep(engine, MIXED, optimizer, state, batch).state;
        const kept = tensorsIn(next, engine.isTensor);
        engine.dispose([...tensorsIn(state, engine.isTensor)].filter((tensor) => !kept.has(tensor)));
        state = next;
        expect(engine.liveTensors - before).toBe(kept.size);
        return kept.size;
      });
      expect(new Set(held).size).toBe(1);
      engine.dispose(tensorsIn(state, engine.isTensor));
      expect(engine.liveTensors).toBe(before);
    });
  });

  it('adds up a gradient of 300,000 parameters without losing digits', () => {
    const [rows, parameters] = [2, 300_000];
    const random = mulberry32(50);
    const values = gaussianMatrix(random, rows, parameters).data.map((value) => Math.fround(value));
    const change = values.slice(0, parameters).map(Math.abs);
    const sums = (term: (value: number, j: number) => number): Matrix =>
      columnVector(
        Array.from({ length: rows }, (_, i) =>
          values.subarray(i * parameters, (i + 1) * parameters).reduce((sum, value, j) => sum + term(value, j), 0),
        ),
      );
    engine.scope(() => {
      const gradients: PerSampleGradients = {
        kind: 'explicit',
        gradients: engine.tensor(values, [rows, parameters, 1]),
      };
      const diagonal = columnVector(engine.read(gramDiagonal(engine, gradients, null)));
      expect(
        relativeError(
          diagonal,
          sums((value) => value ** 2),
        ),
      ).toBeLessThan(tolerance / 10);
      const changed = timesChange(engine, gradients, engine.tensor(change, [1, parameters]));
      // The first row meets its own absolute values and nearly cancels: what counts is the size of what is added up.
      const size = sums((value, j) => Math.abs(value * change[j]!));
      const error = sums((value, j) => value * change[j]!).data.map((sum, i) => sum - engine.read(changed)[i]!);
      expect(Math.max(...error.map((value, i) => Math.abs(value) / size.data[i]!))).toBeLessThan(tolerance / 10);
    });
  });

  // Beyond the bytes that explicit gradients may take at a time; in the plain loops of float64 that would last too long.
  if (engine.precision === 'float32')
    describe('explicit gradients of 69 MiB, made in two blocks', () => {
      const [samples, columns, n, c] = [4, 2, 1024, 2200];
      const rows = samples * columns;
      const random = mulberry32(60);
      const values = (shape: readonly number[]): Float64Array =>
        gaussianMatrix(random, 1, sizeOf(shape)).data.map((value) => Math.fround(value));
      const inputs = new Map([1, 2].map((positions) => [positions, values([samples, positions, n])]));
      const outputs = new Map([1, 2].map((positions) => [positions, values([rows, positions, c])]));
      const weights = values([n, c]).map((value) => value * value);
      const rowWeights = values([rows]).map((value) => value * value);

      /** The gradients at so many positions, whole and as two halves of the outputs, each of which is small enough. */
      function gradients(positions: number) {
        const input = engine.tensor(inputs.get(positions)!, [samples, positions, n]);
        const output = engine.tensor(outputs.get(positions)!, [rows, positions, c]);
        const part = (begin: number, size: number): PerSampleGradients => ({
          kind: 'positions',
          input,
          output: engine.slice(output, 2, begin, size),
        });
        return { input, output, whole: part(0, c), halves: [part(0, c / 2), part(c / 2, c / 2)] as const };
      }

      const w = (): Tensor => engine.tensor(weights, [n, c]);
      const halfWeights = (half: number): Tensor => engine.slice(w(), 1, (half * c) / 2, c / 2);

      function expectSame(compute: () => { readonly actual: Tensor; readonly expected: Tensor }): void {
        const { actual, expected } = engine.scope(() => {
          const tensors = compute();
          expect(tensors.actual.shape).toEqual(tensors.expected.shape);
          return { actual: engine.read(tensors.actual), expected: engine.read(tensors.expected) };
        });
        expect(relativeError(columnVector(actual), columnVector(expected))).toBeLessThan(1e-5);
      }

      it('with two positions: as in halves that are made in one piece', () => {
        const ofHalves = (
          term: (half: PerSampleGradients, index: number) => Tensor,
          join: (left: Tensor, right: Tensor) => Tensor,
        ): Tensor => {
          const { halves } = gradients(2);
          return join(term(halves[0], 0), term(halves[1], 1));
        };
        const whole = (): PerSampleGradients => gradients(2).whole;
        expectSame(() => ({
          actual: gram(engine, whole(), null),
          expected: ofHalves((half) => gram(engine, half, null), engine.add),
        }));
        expectSame(() => ({
          actual: gram(engine, whole(), w()),
          expected: ofHalves((half, index) => gram(engine, half, halfWeights(index)), engine.add),
        }));
        expectSame(() => ({
          actual: gramDiagonal(engine, whole(), w()),
          expected: ofHalves((half, index) => gramDiagonal(engine, half, halfWeights(index)), engine.add),
        }));
        expectSame(() => {
          const h = engine.tensor(rowWeights, [rows]);
          return {
            actual: secondMoment(engine, whole(), h, samples),
            expected: ofHalves(
              (half) => secondMoment(engine, half, h, samples),
              (left, right) => engine.concat([left, right], 1),
            ),
          };
        });
      });

      it('with one position: as in the closed form for outer products', () => {
        const both = (): { readonly whole: PerSampleGradients; readonly outer: PerSampleGradients } => {
          const { input, output, whole } = gradients(1);
          const [a, g] = [engine.reshape(input, [samples, n]), engine.reshape(output, [rows, c])];
          return { whole, outer: { kind: 'outer', input: a, output: g } };
        };
        expectSame(() => {
          const { whole, outer } = both();
          return { actual: gram(engine, whole, null), expected: gram(engine, outer, null) };
        });
        expectSame(() => {
          const { whole, outer } = both();
          return { actual: gramDiagonal(engine, whole, w()), expected: gramDiagonal(engine, outer, w()) };
        });
        expectSame(() => {
          const { whole, outer } = both();
          const h = engine.tensor(rowWeights, [rows]);
          return { actual: secondMoment(engine, whole, h, samples), expected: secondMoment(engine, outer, h, samples) };
        });
      });
    });
});

/** One of two groups of channels of a batch. */
function channels({ inputs, lossGradients, columnGradients }: LayerBatchOracle, group: number): LayerBatchOracle {
  // Four input channels and two output channels in two groups.
  const every = (rows: readonly Float64Array[], count: number): Float64Array[] =>
    rows.map((row) => row.filter((_, index) => Math.floor((index % count) / (count / 2)) === group));
  return {
    inputs: every(inputs, 4),
    lossGradients: every(lossGradients, 2),
    columnGradients: columnGradients === null ? null : every(columnGradients, 2),
  };
}
