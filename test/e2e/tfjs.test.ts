/** The TensorFlow.js adapter: its steps are those of the plain client and of the service’s own passes, and it trains. */
import '@tensorflow/tfjs-backend-cpu';
import * as tf from '@tensorflow/tfjs-core';
import * as tfl from '@tensorflow/tfjs-layers';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { loadDigits } from '../../clients/datasets/digits/digits.ts';
import { DdpnoptClient } from '../../clients/js/index.ts';
import { trainWith, UnsupportedLayerError, type TfjsLoss } from '../../clients/js/tfjs/index.ts';
import { split, type MiniBatch } from '../../clients/train/data.ts';
import { serviceStep } from '../../clients/train/feedback-step.ts';
import { MultilayerPerceptron } from '../../clients/train/multilayer-perceptron.ts';
import { startStack, type LocalStack } from '../../deploy/local/stack.ts';
import type { LayersDefinitionInput } from '../../shared/layers-definition.ts';
import { seededRandom } from '../../shared/random.ts';
import { build, identity, inverse, multiply, transpose } from '../oracle/matrix.ts';

let stack: LocalStack;
let client: DdpnoptClient;
beforeAll(async () => {
  await tf.setBackend('cpu');
  stack = await startStack({ engine: 'reference' });
  client = new DdpnoptClient({ url: stack.url });
});
afterAll(() => stack.stop());

type Layers = ReturnType<typeof tfl.layers.dense>[];

/** A model whose initial weights are always the same. */
function sequential(make: () => unknown[]): tfl.Sequential {
  const model = tfl.sequential({ layers: make() as Layers });
  const random = seededRandom(7);
  for (const layer of model.layers) {
    const weights = layer.getWeights();
    if (weights.length === 0) continue;
    tf.tidy(() => {
      layer.setWeights(
        weights.map(({ shape, size }, index) => {
          // Variances stay positive.
          const offset = layer.getClassName() === 'BatchNormalization' && index === 3 ? 1 : 0;
          return tf.tensor(
            Float32Array.from({ length: size }, () => offset + 0.8 * (random() - 0.5)),
            shape,
          );
        }),
      );
    });
  }
  return model;
}

const valuesOf = (model: tfl.LayersModel): number[] => model.getWeights().flatMap((weight) => [...weight.dataSync()]);

function expectClose(actual: readonly number[], expected: readonly number[], tolerance: number): void {
  expect(actual).toHaveLength(expected.length);
  const scale = Math.max(...expected.map(Math.abs));
  const worst = Math.max(...actual.map((value, index) => Math.abs(value - expected[index]!)));
  expect(worst / scale).toBeLessThan(tolerance);
}

const uniform = (shape: number[], seed: number): tf.Tensor => tf.randomUniform(shape, -1, 1, 'float32', seed);

describe('mode layers', () => {
  const WIDTHS = [6, 5, 4, 3];
  it.each([
    { coupling: 'feedback', policyEncoding: 'sample-factors' },
    { coupling: 'feedback', policyEncoding: 'inverse-factors' },
    { coupling: 'value', policyEncoding: 'auto' },
    { coupling: 'gauss-newton-step', policyEncoding: 'auto' },
  ] as const)(
    'changes a model as the plain client does: $coupling, $policyEncoding',
    async ({ coupling, policyEncoding }) => {
      const network = MultilayerPerceptron.initialise(WIDTHS, seededRandom(1));
      const model = tfl.sequential({
        layers: network.layers.map(({ name, inputs, outputs }, t) =>
          tfl.layers.dense({ name, units: outputs, inputShape: [inputs], activation: t === 2 ? 'softmax' : 'relu' }),
        ),
      });
      for (const [t, { weight, bias, inputs, outputs }] of network.layers.entries()) {
        model.layers[t]!.setWeights([tf.tensor(weight.slice(), [inputs, outputs]), tf.tensor(bias.slice())]);
      }
      const optimizer: LayersDefinitionInput['optimizer'] = {
        coupling,
        learningRate: { kind: 'constant', value: 0.5 },
        weightDecay: { kind: 'running-cost', rate: 0.01 },
        metric: { kind: 'kronecker', refreshEvery: 2 },
      };
      const definition = { policyEncoding };
      const trainer = await trainWith(model, { tf, client, loss: 'softmax-cross-entropy', optimizer, definition });
      const session = await client.createSession({
        layers: network.layers.map(({ name, inputs, outputs }) => ({ name, kind: 'dense', inputs, outputs })),
        optimizer,
        ...definition,
      });
      const random = seededRandom(2);
      for (let step = 0; step < 4; step++) {
        const inputs = Float32Array.from({ length: 48 }, () => random() - 0.5);
        const labels = Uint8Array.from({ length: 8 }, () => Math.floor(3 * random()));
        const batch: MiniBatch = { size: 8, inputs, labels };
        const expected = await serviceStep(network, batch, session);
        const [x, y] = [tf.tensor(inputs, [8, 6]), tf.tensor(labels, [8], 'int32')];
        const before = tf.memory().numTensors;
        const logs = await trainer.trainOnBatch(x, y);
        expect(tf.memory().numTensors).toBe(before);
        expect(logs.loss).toBeCloseTo(expected.lossBefore, 5);
        if (coupling === 'feedback') expect(logs.lossAfter).toBeCloseTo(expected.lossAfter!, 4);
        else expect(logs.lossAfter).toBeNull();
        expectClose(
          valuesOf(model),
          network.layers.flatMap(({ weight, bias }) => [...weight, ...bias]),
          1e-4,
        );
      }
      await trainer.dispose();
      await session.delete();
    },
  );
});

describe('mode kernel', () => {
  const dense = () => [
    tfl.layers.dense({ units: 5, inputShape: [6], activation: 'tanh' }),
    tfl.layers.dense({ units: 4, activation: 'relu', useBias: false }),
    tfl.layers.dense({ units: 3 }),
  ];
  const convolutions = () => [
    tfl.layers.conv2d({ filters: 3, kernelSize: [3, 2], strides: [2, 1], padding: 'same', activation: 'tanh', inputShape: [5, 4, 2] }),
    tfl.layers.conv2d({ filters: 2, kernelSize: 2, useBias: false }),
    tfl.layers.flatten(),
    tfl.layers.dense({ units: 3 }),
  ]; // prettier-ignore
  const sequences = () => [
    tfl.layers.dense({ units: 4, inputShape: [3, 5], activation: 'tanh' }),
    tfl.layers.dense({ units: 2, useBias: false }),
    tfl.layers.flatten(),
    tfl.layers.dense({ units: 3 }),
  ];
  const MODELS = [
    { what: 'dense layers', make: dense, input: [6] },
    { what: 'convolutions', make: convolutions, input: [5, 4, 2] },
    { what: 'dense layers over sequences', make: sequences, input: [3, 5] },
  ];

  it.each([
    { coupling: 'feedback', ...MODELS[0]! },
    { coupling: 'value', ...MODELS[0]! },
    { coupling: 'feedback', ...MODELS[1]! },
    { coupling: 'feedback', ...MODELS[2]! },
  ] as const)(
    'with the identity as metric does what mode layers does: $coupling, $what',
    async ({ coupling, make, input }) => {
      const models = { kernel: sequential(make), layers: sequential(make) };
      const optimizer = { coupling, learningRate: { kind: 'constant', value: 0.5 } } as const;
      const options = { tf, client, loss: 'mse' } as const;
      const kernel = await trainWith(models.kernel, {
        ...options,
        mode: 'kernel',
        optimizer: { ...optimizer, metric: { kind: 'client' } },
      });
      const layers = await trainWith(models.layers, {
        ...options,
        optimizer: { ...optimizer, metric: { kind: 'identity' } },
      });
      for (let step = 0; step < 3; step++) {
        const [x, y] = [uniform([7, ...input], step), uniform([7, 3], 10 + step)];
        const before = tf.memory().numTensors;
        const ours = await kernel.trainOnBatch(x, y);
        expect(tf.memory().numTensors).toBe(before);
        const theirs = await layers.trainOnBatch(x, y);
        expect(ours.loss).toBeCloseTo(theirs.loss, 5);
        if (coupling === 'feedback') expect(ours.lossAfter).toBeCloseTo(theirs.lossAfter!, 4);
      }
      expectClose(valuesOf(models.kernel), valuesOf(models.layers), 1e-4);
      await kernel.dispose();
      await layers.dispose();
    },
  );

  it.each(MODELS)('makes of the same statistics the step that mode layers makes: $what', async ({ make, input }) => {
    const models = { kernel: sequential(make), layers: sequential(make) };
    const [x, y] = [uniform([7, ...input], 1), uniform([7, 3], 2)];
    const options = { tf, client, loss: 'mse' } as const;
    const rate = (value: number) => ({ learningRate: { kind: 'constant' as const, value } });
    // The first step brings the inverses of the batch's factors, and should change nothing else.
    const kernel = await trainWith(models.kernel, { ...options, mode: 'kernel', optimizer: rate(1e-12) });
    await kernel.trainOnBatch(x, y);
    await kernel.session.change({ optimizer: rate(0.5) });
    const layers = await trainWith(models.layers, { ...options, optimizer: rate(0.5) });
    const [ours, theirs] = [await kernel.trainOnBatch(x, y), await layers.trainOnBatch(x, y)];
    expect(ours.lossAfter).toBeCloseTo(theirs.lossAfter!, 4);
    expect(ours.lossAfter).toBeLessThan(ours.loss);
    expectClose(valuesOf(models.kernel), valuesOf(models.layers), 1e-4);
    await kernel.dispose();
    await layers.dispose();
  });

  it('with the service’s Kronecker factors sends statistics now and then, and changes by what inverses it holds', async () => {
    const model = sequential(() => [tfl.layers.dense({ units: 3, inputShape: [6], name: 'line' })]);
    const trainer = await trainWith(model, { tf, client, mode: 'kernel', loss: 'mse', statisticsEvery: 2 });
    const [B, n, c] = [7, 6, 3];
    const matrix = (tensor: tf.Tensor, rows: number, cols: number) => {
      const values = tensor.dataSync();
      return build(rows, cols, (i, j) => values[i * cols + j]!);
    };
    for (let step = 0; step < 4; step++) {
      const [x, y] = [uniform([B, n], step), uniform([B, c], 10 + step)];
      const held = trainer.session.inverses.get('line');
      expect(held === undefined).toBe(step === 0);
      const factor = (values: ArrayLike<number> | undefined, size: number) =>
        values === undefined ? identity(size) : build(size, size, (i, j) => values[i * size + j]!);
      const [A, Gamma] = [factor(held?.input, n + 1), factor(held?.outputGradient, c)];
      const [kernel, bias] = model.getWeights().map((weight) => weight.clone());
      await trainer.trainOnBatch(x, y);
      const { learningRate } = trainer.session.history.records.at(-1)!.metrics;
      // One layer: κ = (B/h + ηN)⁻¹ (1/h), δ = −η A⁻¹ aᵀ diag(κ) g Γ⁻¹.
      const inputs = matrix(x, B, n);
      const a = build(B, n + 1, (i, j) => (j < n ? inputs.data[i * n + j]! : 1));
      const outputs = matrix(tf.add(tf.matMul(x as tf.Tensor2D, kernel as tf.Tensor2D), bias!), B, c);
      const target = matrix(y, B, c);
      const g = build(B, c, (i, j) => outputs.data[i * c + j]! - target.data[i * c + j]!);
      const phi = Array.from({ length: B }, (_, i) =>
        g.data.slice(i * c, (i + 1) * c).reduce((sum, e) => sum + (e * e) / 2, 0),
      );
      const h = phi.map((loss) => Math.max(0.5, 0.5 / Math.max(loss, 0.005)));
      const [inputGram, outputGram] = [multiply(a, A, transpose(a)), multiply(g, Gamma, transpose(g))];
      const S = build(
        B,
        B,
        (i, j) => learningRate * inputGram.data[i * B + j]! * outputGram.data[i * B + j]! + (i === j ? B / h[i]! : 0),
      );
      const kappa = multiply(
        inverse(S),
        build(B, 1, (i) => 1 / h[i]!),
      );
      const weighted = build(B, c, (i, j) => kappa.data[i]! * g.data[i * c + j]!);
      const change = multiply(A, transpose(a), weighted, Gamma);
      const expected = [...kernel!.dataSync(), ...bias!.dataSync()].map(
        (value, index) => value - learningRate * change.data[index]!,
      );
      expectClose(valuesOf(model), expected, 1e-4);
    }
    const sent = trainer.history.records.map(({ bytesSent }) => bytesSent);
    expect(Math.min(sent[0]!, sent[2]!)).toBeGreaterThan(Math.max(sent[1]!, sent[3]!));
    await trainer.dispose();
  });

  it('takes layers with factors alone', async () => {
    const model = sequential(() => [
      tfl.layers.dense({ units: 2, inputShape: [3] }),
      tfl.layers.layerNormalization({ name: 'norm' }),
    ]);
    await expect(trainWith(model, { tf, client, mode: 'kernel', loss: 'mse' })).rejects.toThrow(
      /norm \(LayerNormalization\) is neither dense nor a convolution.*mode "layers"/,
    );
  });
});

interface Case {
  readonly name: string;
  readonly make: () => unknown[];
  readonly input: number[];
  readonly outputs: number;
  readonly loss: TfjsLoss;
}

const CASES: Case[] = [
  {
    name: 'a convolutional net',
    make: () => [
      tfl.layers.conv2d({ name: 'conv', filters: 3, kernelSize: 3, strides: 2, padding: 'same', activation: 'relu', inputShape: [7, 6, 2] }),
      tfl.layers.maxPooling2d({ poolSize: 2 }),
      tfl.layers.flatten(),
      tfl.layers.dense({ name: 'hidden', units: 5, activation: 'tanh' }),
      tfl.layers.dense({ name: 'out', units: 3 }),
      tfl.layers.softmax(),
    ],
    input: [7, 6, 2],
    outputs: 3,
    loss: 'softmax-cross-entropy',
  },
  {
    name: 'layer normalisation, over a sequence',
    make: () => [
      tfl.layers.dense({ name: 'tokens', units: 4, inputShape: [3, 5], useBias: false }),
      tfl.layers.layerNormalization({ name: 'norm' }),
      tfl.layers.activation({ activation: 'sigmoid' }),
      tfl.layers.flatten(),
      tfl.layers.dense({ name: 'out', units: 2 }),
    ],
    input: [3, 5],
    outputs: 2,
    loss: 'mse',
  },
  {
    name: 'layer normalisation, of images',
    make: () => [
      tfl.layers.conv2d({ name: 'conv', filters: 3, kernelSize: 2, inputShape: [4, 3, 2] }),
      tfl.layers.layerNormalization({ name: 'norm' }),
      tfl.layers.flatten(),
      tfl.layers.dense({ name: 'out', units: 2 }),
    ],
    input: [4, 3, 2],
    outputs: 2,
    loss: 'mse',
  },
  {
    name: 'batch normalisation, of images and of features',
    make: () => [
      tfl.layers.conv2d({ name: 'conv', filters: 3, kernelSize: 2, inputShape: [5, 4, 2], useBias: false }),
      tfl.layers.batchNormalization({ name: 'images', momentum: 0.8, epsilon: 1e-3 }),
      tfl.layers.reLU(),
      tfl.layers.flatten(),
      tfl.layers.dense({ name: 'hidden', units: 4 }),
      tfl.layers.batchNormalization({ name: 'features', momentum: 0.9 }),
      tfl.layers.activation({ activation: 'tanh' }),
      tfl.layers.dense({ name: 'out', units: 3 }),
    ],
    input: [5, 4, 2],
    outputs: 3,
    loss: 'softmax-cross-entropy',
  },
  {
    name: 'binary outputs behind a sigmoid',
    make: () => [
      tfl.layers.dense({ name: 'a', units: 4, inputShape: [5], activation: 'softplus' }),
      tfl.layers.dense({ name: 'b', units: 2, activation: 'sigmoid' }),
    ],
    input: [5],
    outputs: 2,
    loss: 'logistic',
  },
]; // prettier-ignore

describe('both modes', () => {
  const truth = ({ loss, outputs }: Case, batch: number, seed: number): tf.Tensor => {
    const random = seededRandom(seed);
    if (loss !== 'softmax-cross-entropy') {
      return tf.tensor(
        Float32Array.from({ length: batch * outputs }, () => Math.round(random())),
        [batch, outputs],
      );
    }
    return tf.oneHot(tf.tensor(Int32Array.from({ length: batch }, () => Math.floor(outputs * random()))), outputs);
  };

  it.each(CASES)('train $name alike', async (each) => {
    const models = { layers: sequential(each.make), hosted: sequential(each.make) };
    const options = {
      tf,
      client,
      loss: each.loss,
      optimizer: { learningRate: { kind: 'constant', value: 1 } },
    } as const;
    const layers = await trainWith(models.layers, options);
    const hosted = await trainWith(models.hosted, { ...options, mode: 'hosted' });
    for (let step = 0; step < 3; step++) {
      const [x, y] = [uniform([6, ...each.input], step), truth(each, 6, step)];
      const [ours, theirs] = [await layers.trainOnBatch(x, y), await hosted.trainOnBatch(x, y)];
      expect(ours.loss).toBeCloseTo(theirs.loss, 4);
      expect(ours.lossAfter).toBeCloseTo(theirs.lossAfter!, 3);
    }
    const unchanged = valuesOf(models.hosted);
    await hosted.pull();
    expect(valuesOf(models.hosted)).not.toEqual(unchanged);
    expectClose(valuesOf(models.layers), valuesOf(models.hosted), 2e-4);
    const [x, y] = [uniform([9, ...each.input], 9), truth(each, 9, 9)];
    const evaluation = await hosted.evaluate(x, y, { batchSize: 4 });
    expect((await layers.evaluate(x, y, { batchSize: 4 })).loss).toBeCloseTo(evaluation.loss, 3);
    await layers.dispose();
    await hosted.dispose();
  });
});

describe('mode hosted', () => {
  it('begins with the model’s weights, and the trained ones make the model answer as the service does', async () => {
    const model = sequential(() => [
      tfl.layers.conv2d({ filters: 3, kernelSize: 3, inputShape: [6, 6, 1], useBias: false }),
      tfl.layers.batchNormalization({ momentum: 0.8, epsilon: 1e-3 }),
      tfl.layers.reLU(),
      tfl.layers.dropout({ rate: 0.25 }),
      tfl.layers.averagePooling2d({ poolSize: 2, strides: 2, padding: 'same' }),
      tfl.layers.flatten(),
      tfl.layers.dense({ units: 3, name: 'out/1' }),
    ]);
    const trainer = await trainWith(model, { tf, client, mode: 'hosted', loss: 'softmax-cross-entropy', seed: 3 });
    const x = uniform([8, 6, 6, 1], 1);
    const y = tf.tensor(Int32Array.of(0, 1, 2, 0, 1, 2, 0, 1));
    const expectAlike = async () => {
      const { outputs } = await trainer.session.predict({ x: Float32Array.from(x.dataSync()) });
      expectClose([...(model.predict(x) as tf.Tensor).dataSync()], [...outputs], 1e-4);
    };
    await expectAlike();
    const { history, epoch } = await trainer.fit(x, y, { batchSize: 4, epochs: 3 });
    expect(epoch).toEqual([0, 1, 2]);
    expect(history.loss).toHaveLength(3);
    await expectAlike();
    expect(trainer.history.columns.step).toEqual([0, 1, 2, 3, 4, 5]);
    await trainer.dispose();
    // Neither the session that the weights were put into nor its checkpoints are left.
    await expect(trainer.session.describe()).rejects.toMatchObject({ code: 'session_not_found' });
  });
});

describe('learns DIGITS', () => {
  it.each(['layers', 'hosted'] as const)(
    'in mode %s: more than nine in ten of the test images after one epoch',
    async (mode) => {
      const { train, test } = split(await loadDigits(), 0.2, seededRandom(1));
      const x = (data: typeof train) => tf.tensor(data.inputs, [data.size, 64]);
      const y = (data: typeof train) => tf.tensor(data.labels, [data.size], 'int32');
      const model = sequential(() => [
        tfl.layers.dense({ units: 32, activation: 'relu', inputShape: [64] }),
        tfl.layers.dense({ units: 10, activation: 'softmax' }),
      ]);
      model.compile({ loss: 'sparseCategoricalCrossentropy', optimizer: 'sgd', metrics: ['accuracy'] });
      const trainer =
        mode === 'hosted' ? await trainWith(model, { tf, client, mode }) : await trainWith(model, { tf, client });
      const seen: unknown[] = [];
      const { history } = await trainer.fit(x(train), y(train), {
        validationData: [x(test), y(test)],
        callbacks: {
          onEpochEnd: (epoch, logs) => void seen.push([epoch, logs]),
          onBatchEnd: (batch) => void seen.push(batch),
        },
      });
      const steps = Math.ceil(train.size / 64);
      expect(seen.slice(0, -1)).toEqual(Array.from({ length: steps }, (_, batch) => batch));
      expect(seen.at(-1)).toEqual([
        0,
        { loss: history.loss[0], val_loss: history.val_loss![0], val_acc: history.val_acc![0] },
      ]);
      expect(history.val_acc![0]).toBeGreaterThan(0.92);
      // The model itself is trained: TensorFlow.js’s own evaluation agrees.
      const [loss, accuracy] = model.evaluate(x(test), tf.cast(y(test), 'float32')) as tf.Scalar[];
      expect(loss!.dataSync()[0]).toBeCloseTo(history.val_loss![0]!, 3);
      expect(accuracy!.dataSync()[0]).toBeCloseTo(history.val_acc![0]!, 5);
      await trainer.dispose();
    },
  );

  it('in the same order for the same seed, stops when told to, and keeps what it has learnt', async () => {
    const make = () => sequential(() => [tfl.layers.dense({ units: 2, inputShape: [3] }), tfl.layers.dropout({ rate: 0.5 }), tfl.layers.dense({ units: 2 })]); // prettier-ignore
    const [x, y] = [uniform([10, 3], 1), uniform([10, 2], 2)];
    const run = async (seed: number, stopAfter = Infinity) => {
      const model = make();
      const trainer = await trainWith(model, { tf, client, loss: 'mse' });
      const abort = new AbortController();
      const onBatchEnd = (batch: number) => { if (batch === stopAfter) abort.abort(new Error('enough')); }; // prettier-ignore
      const done = trainer.fit(x, y, {
        batchSize: 4,
        epochs: 2,
        seed,
        callbacks: { onBatchEnd },
        signal: abort.signal,
      });
      if (stopAfter < Infinity) await expect(done).rejects.toThrow('enough');
      else await done;
      const { nextStep } = trainer.session;
      await trainer.dispose();
      return { nextStep, weights: valuesOf(model) };
    };
    const first = await run(1);
    expect(await run(1)).toEqual(first);
    expect((await run(2)).weights).not.toEqual(first.weights);
    expect(await run(1, 1)).toMatchObject({ nextStep: 2 });
  });
});

describe('refuses by name', () => {
  const dense = () => tfl.layers.dense({ units: 2, inputShape: [3], name: 'first' });
  const begin = (model: tfl.LayersModel, mode: 'layers' | 'hosted') => {
    const options = { tf, client, loss: 'mse' } as const;
    return mode === 'hosted' ? trainWith(model, { ...options, mode }) : trainWith(model, options);
  };
  const frozen = () => {
    const layer = tfl.layers.dense({ units: 2, name: 'kept' });
    layer.trainable = false;
    return layer;
  };

  it.each([
    { what: 'a layer with parameters that it does not know', mode: 'layers', layers: () => [tfl.layers.embedding({ inputDim: 5, outputDim: 2, inputLength: 3, name: 'words' })], message: /words \(Embedding\) has parameters/ },
    { what: 'noise', mode: 'layers', layers: () => [dense(), tfl.layers.gaussianNoise({ stddev: 1, name: 'noise' })], message: /noise \(GaussianNoise\) draws noise/ },
    { what: 'a penalty', mode: 'layers', layers: () => [tfl.layers.dense({ units: 2, inputShape: [3], name: 'bound', kernelRegularizer: 'l1l2' })], message: /bound \(Dense\) has a kernelRegularizer.*weightDecay/ },
    { what: 'a dilated convolution', mode: 'layers', layers: () => [tfl.layers.conv2d({ filters: 2, kernelSize: 2, dilationRate: 2, inputShape: [5, 5, 1], name: 'wide' }), tfl.layers.flatten()], message: /wide \(Conv2D\) is dilated.*hosted/ },
    { what: 'an activation it does not know', mode: 'layers', layers: () => [tfl.layers.dense({ units: 2, inputShape: [3], name: 'soft', activation: 'softsign' })], message: /soft \(Dense\) has the activation softsign; within a layer linear, relu/ },
    { what: 'an activation it does not know', mode: 'hosted', layers: () => [tfl.layers.dense({ units: 2, inputShape: [3], name: 'odd', activation: 'selu' })], message: /no equal of layer odd \(Dense\) with activation selu; train in mode "layers"/ },
    { what: 'a layer it does not have', mode: 'hosted', layers: () => [dense(), tfl.layers.leakyReLU({ name: 'leaky' })], message: /no equal of layer leaky \(LeakyReLU\)/ },
    { what: 'a frozen layer', mode: 'hosted', layers: () => [dense(), frozen()], message: /kept \(Dense\) is frozen/ },
  ] as const)('$what, in mode $mode', async ({ mode, layers, message }) => {
    const failure = begin(sequential(layers as () => unknown[]), mode).catch((error: unknown) => error);
    expect(await failure).toBeInstanceOf(UnsupportedLayerError);
    expect((await failure as Error).message).toMatch(message);
  }); // prettier-ignore

  it('branches', async () => {
    const input = tfl.input({ shape: [3] });
    const one = tfl.layers.dense({ units: 2, name: 'one' }).apply(input) as tfl.SymbolicTensor;
    const two = tfl.layers.dense({ units: 2, name: 'two' }).apply(input) as tfl.SymbolicTensor;
    const sum = tfl.layers.add({ name: 'sum' }).apply([one, two]) as tfl.SymbolicTensor;
    await expect(begin(tfl.model({ inputs: input, outputs: sum }), 'layers')).rejects.toThrow(
      /layer two \(Dense\) is not the one successor/,
    );
  });

  it('truth that does not fit', async () => {
    const trainer = await trainWith(sequential(() => [dense()]), { tf, client, loss: 'softmax-cross-entropy' });
    const x = uniform([2, 3], 1);
    await expect(trainer.trainOnBatch(x, tf.tensor([0, 5]))).rejects.toThrow(/y has 5; labels from 0 to 1/);
    await expect(trainer.trainOnBatch(x, tf.tensor([[0.5, 0.5], [0, 1]]))).rejects.toThrow(/row 0 of y is no class one-hot/);
    await expect(trainer.fit(x, tf.tensor([0]))).rejects.toThrow(/x has 2 samples, y 1/);
    await expect(trainWith(sequential(() => [dense()]), { tf, client })).rejects.toThrow(/not compiled/);
    await trainer.dispose();
  }); // prettier-ignore

  it('a frozen layer is kept as it is in mode layers', async () => {
    const model = sequential(() => [dense(), frozen(), tfl.layers.dense({ units: 1 })]);
    const before = model.layers[1]!.getWeights().map((weight) => [...weight.dataSync()]);
    const trainer = await begin(model, 'layers');
    const first = model.layers[0]!.getWeights()[0]!.dataSync().slice();
    await trainer.trainOnBatch(uniform([4, 3], 1), uniform([4, 1], 2));
    expect(model.layers[1]!.getWeights().map((weight) => [...weight.dataSync()])).toEqual(before);
    expect(model.layers[0]!.getWeights()[0]!.dataSync()).not.toEqual(first);
    await trainer.dispose();
  });
});
