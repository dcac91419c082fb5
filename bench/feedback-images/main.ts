/**
 * npm run bench:feedback-images: the feedback of a net's first layer seen: what it reacts to, as images. Trains a dense net on MNIST
 * through the service, in layers mode over HTTP, and takes the singular vectors of K from the policies that the service hands out. Writes
 * docs/results/feedback-images.json, .md and .svg.
 *
 * usage: npm run bench:feedback-images [-- --quick]
 *   --quick   DIGITS, on the standard output only
 */
import { parseArgs } from 'node:util';
import { loadDigits, type LabelledData } from '../../clients/datasets/digits/digits.ts';
import { loadMnist } from '../../clients/datasets/mnist/mnist.ts';
import { DdpnoptClient, type LayerPolicy, type TrainingSession } from '../../clients/js/index.ts';
import { serviceStep } from '../../clients/train/feedback-step.ts';
import { MultilayerPerceptron } from '../../clients/train/multilayer-perceptron.ts';
import { seededRandom } from '../../clients/train/random.ts';
import { startStack } from '../../deploy/local/stack.ts';
import { parted, sampleOrder, select } from '../parts.ts';
import { provenance } from '../provenance.ts';
import { writeResults } from '../results-folder.ts';
import { renderFeedbackImages, renderFigure, type FeedbackImageResults, type Moment } from './report.ts';
import { feedbackSingularVectors, type Feedback } from './singular-vectors.ts';

const { values: options } = parseArgs({ options: { quick: { type: 'boolean', default: false } } });

const SEED = 0;
const HIDDEN = [64, 64] as const;
const BATCH = 128;
/** Images of each digit in the batch whose policy is looked at. */
const PER_DIGIT = options.quick ? 6 : 20;
const DIGITS = 10;
const LEADING = 5;
/** Steps before each look: before training, early, and after an epoch of 20,000 images. */
const LOOKS = options.quick ? [0, 8] : [0, 20, 156];
/** Of a stored vector: nothing of an image is lost. */
const DECIMALS = 4;

const train: LabelledData = options.quick ? parted(await loadDigits(), 0.2).train : (await loadMnist('mnist')).train;
const test: LabelledData = options.quick ? parted(await loadDigits(), 0.2).validation : (await loadMnist('mnist')).test;

/** As many of each digit, digit by digit. */
const probe = select(
  train,
  Uint32Array.from(
    Array.from({ length: DIGITS }, (_, digit) =>
      [...train.labels.keys()].filter((sample) => train.labels[sample] === digit).slice(0, PER_DIGIT),
    ).flat(),
  ),
);

const network = MultilayerPerceptron.initialise([train.features, ...HIDDEN, DIGITS], seededRandom(SEED));
const stack = await startStack({ engine: process.env['DDPNOPT_ENGINE'] });
const moments: Moment[] = [];
try {
  const session = await new DdpnoptClient({ url: stack.url }).createSession({
    layers: network.layers.map(({ name, inputs, outputs }) => ({ name, kind: 'dense', inputs, outputs })),
    policyEncoding: 'sample-factors',
  });
  const order = sampleOrder(train, BATCH, Math.ceil((Math.max(...LOOKS) * BATCH) / train.size), SEED);
  let step = 0;
  for (const look of LOOKS) {
    for (; step < look; step++) {
      await serviceStep(network, select(train, order.subarray(step * BATCH, (step + 1) * BATCH)), session);
    }
    moments.push(await seen(session, step));
    process.stdout.write(`after ${String(step)} steps: accuracy ${String(moments.at(-1)?.testAccuracy)}\n`);
  }
  await session.delete();
} finally {
  await stack.stop();
}

/** Looks at the first layer's policy for the probe. The step's change is not applied; that its batch enters the metric's averages is. */
async function seen(session: TrainingSession, steps: number): Promise<Moment> {
  const { policy, inputGradients } = await firstPolicy(session);
  const common = feedbackSingularVectors(policy, inputGradients, () => true, LEADING);
  const energy = common.values.reduce((sum, value) => sum + value ** 2, 0);
  const unit = network.layers[0]?.outputs ?? 0;
  return {
    steps,
    testAccuracy: network.evaluate(test).accuracy,
    common: common.leading.map(({ value, input, parameters }) => ({
      value: Number(value.toPrecision(DECIMALS)),
      share: value ** 2 / energy,
      input: stored(input),
      ...answerOf(parameters, unit),
      ...closestPair(input),
    })),
    digits: Array.from({ length: DIGITS }, (_, digit) => {
      const own = feedbackSingularVectors(policy, inputGradients, (sample) => probe.labels[sample] === digit, 1);
      return { value: leadingValue(own), input: stored(own.leading[0]?.input ?? new Float64Array()) };
    }),
  };
}

async function firstPolicy(
  session: TrainingSession,
): Promise<{ readonly policy: LayerPolicy; readonly inputGradients: Float64Array }> {
  const pass = network.forward(probe);
  const gradients = network.backward(pass, probe.labels);
  const layers = network.layers.map(({ name }, t) => {
    const [input, outputGradient] = [pass.layers[t]?.input, gradients[t]];
    if (input === undefined || outputGradient === undefined) throw new Error(`a pass without ${name}`);
    return [name, { input, outputGradient }] as const;
  });
  const reply = await session.step({ losses: pass.losses, layers: Object.fromEntries(layers) });
  const [first] = network.layers;
  const gradient = gradients[0];
  if (first === undefined || gradient === undefined) throw new Error('a net without layers');
  const policy = reply.kind === 'policy' ? reply.policies.get(first.name) : undefined;
  if (policy === undefined) throw new Error('a reply without the first layer’s policy');
  const { inputs, outputs, weight } = first;
  const inputGradients = Float64Array.from({ length: probe.size * inputs }, (_, index) => {
    const [sample, pixel] = [Math.floor(index / inputs), index % inputs];
    let sum = 0;
    for (let j = 0; j < outputs; j++) sum += (gradient[sample * outputs + j] ?? 0) * (weight[pixel * outputs + j] ?? 0);
    return sum;
  });
  return { policy, inputGradients };
}

function leadingValue({ values }: Feedback): number {
  return Number((values[0] ?? 0).toPrecision(DECIMALS));
}

function stored(vector: ArrayLike<number>): number[] {
  return Array.from(vector, (value) => Number(value.toFixed(DECIMALS)));
}

/** The weights of the hidden unit that answers most, and its share of the answer. */
function answerOf(parameters: Float64Array, units: number): { readonly unitShare: number; readonly unit: number[] } {
  const columns = Array.from({ length: units }, (_, unit) =>
    Float64Array.from({ length: train.features }, (__, pixel) => parameters[pixel * units + unit] ?? 0),
  );
  const squares = columns.map((column) => column.reduce((sum, value) => sum + value ** 2, 0));
  const most = squares.indexOf(Math.max(...squares));
  return { unitShare: squares[most] ?? 0, unit: stored(columns[most] ?? []) };
}

/** The two digits whose mean images differ most nearly in that direction. */
function closestPair(direction: Float64Array): { readonly pair: readonly [number, number]; readonly cosine: number } {
  const means = Array.from({ length: DIGITS }, (_, digit) => meanImage(digit));
  let best: { pair: readonly [number, number]; cosine: number } = { pair: [0, 1], cosine: 0 };
  for (const [a, left] of means.entries()) {
    for (const [b, right] of means.entries()) {
      const difference = left.map((value, pixel) => value - (right[pixel] ?? 0));
      const inner = difference.reduce((sum, value, pixel) => sum + value * (direction[pixel] ?? 0), 0);
      const cosine = inner / Math.hypot(...difference);
      if (cosine > best.cosine) best = { pair: [a, b], cosine };
    }
  }
  return best;
}

function meanImage(digit: number): number[] {
  const samples = [...probe.labels.keys()].filter((sample) => probe.labels[sample] === digit);
  return Array.from(
    { length: probe.features },
    (_, pixel) =>
      samples.reduce((sum, sample) => sum + (probe.inputs[sample * probe.features + pixel] ?? 0), 0) / samples.length,
  );
}

const results: FeedbackImageResults = {
  command: 'npm run bench:feedback-images',
  ...provenance(stack.engine),
  dataSet: options.quick ? 'DIGITS' : 'MNIST',
  widths: [train.features, ...HIDDEN, DIGITS],
  batch: BATCH,
  probeSize: probe.size,
  side: Math.round(Math.sqrt(train.features)),
  means: Array.from({ length: DIGITS }, (_, digit) => stored(meanImage(digit))),
  moments,
};
if (!options.quick) {
  const files = new Map([
    ['feedback-images.md', renderFeedbackImages(results)],
    ['feedback-images.svg', renderFigure(results)],
  ]);
  await writeResults('feedback-images', results, files);
}
process.stdout.write(`\n${renderFeedbackImages(results)}`);
