/** ddpnopt train and ddpnopt estimate: what training does, and what it would take. */
import { readFile } from 'node:fs/promises';
import { loadDigits } from '../datasets/digits/digits.ts';
import { estimateSchema, type Estimate } from '../../shared/estimate.ts';
import { seededRandom } from '../../shared/random.ts';
import { complete } from '../js/transport.ts';
import { split } from '../train/data.ts';
import { COMPARISON } from '../train/digits-comparison.ts';
import { MultilayerPerceptron } from '../train/multilayer-perceptron.ts';
import { trainWithService, type EpochReport } from '../train/train.ts';
import { argumentOf, textOf, UsageError, type Command, type CommandContext } from './command.ts';
import { table } from './table.ts';

/** A number that an option gives. @throws UsageError if it is none, or below the smallest */
function numberOf(context: CommandContext, name: string, otherwise: number, smallest: number): number {
  const text = textOf(context, name);
  const value = text === undefined ? otherwise : Number(text);
  if (text === '' || !(value >= smallest) || !Number.isFinite(value)) {
    throw new UsageError(`--${name} is "${String(text)}"; a number of at least ${String(smallest)} was expected`);
  }
  return value;
}

function wholeNumberOf(context: CommandContext, name: string, otherwise: number): number {
  const value = numberOf(context, name, otherwise, 1);
  if (!Number.isInteger(value)) throw new UsageError(`--${name} is ${String(value)}; a whole number was expected`);
  return value;
}

const rowOf = ({ epoch, trainLoss, testAccuracy }: EpochReport): string[] => [
  String(epoch),
  trainLoss.toFixed(4),
  `${(100 * testAccuracy).toFixed(1)} %`,
];

const train: Command = {
  name: 'train',
  summary: 'Train a perceptron on handwritten digits (DIGITS) through the service, which shows that all of it works',
  arguments: [],
  options: {
    epochs: { type: 'string', value: 'N', description: `${String(COMPARISON.epochs)} unless given` },
    batch: {
      type: 'string',
      value: 'N',
      description: `samples of a step; ${String(COMPARISON.batchSize)} unless given`,
    },
    'learning-rate': {
      type: 'string',
      value: 'X',
      description: 'of the service’s optimizer; its default unless given',
    },
    seed: {
      type: 'string',
      value: 'N',
      description: 'of the split, the weights and the order of the batches; 1 unless given',
    },
  },
  examples: ['ddpnopt train', 'ddpnopt train --url https://ddpnopt.example.com --epochs 3 --learning-rate 3'],
  run: async (context) => {
    const { client, progress } = context;
    const epochs = wholeNumberOf(context, 'epochs', COMPARISON.epochs);
    const batchSize = wholeNumberOf(context, 'batch', COMPARISON.batchSize);
    const random = seededRandom(wholeNumberOf(context, 'seed', 1));
    const rate = textOf(context, 'learning-rate');
    const value = numberOf(context, 'learning-rate', 0, 0);
    const { train: training, test } = split(await loadDigits(), COMPARISON.testFraction, random);
    const network = MultilayerPerceptron.initialise(COMPARISON.widths, random);
    const session = await client.createSession({
      layers: network.layers.map(({ name, inputs, outputs }) => ({ name, kind: 'dense' as const, inputs, outputs })),
      ...(rate === undefined ? {} : { optimizer: { learningRate: { kind: 'constant' as const, value } } }),
    });
    try {
      const task = { train: training, test, batchSize, epochs, seed: Math.floor(2 ** 32 * random()) };
      const reports = await trainWithService(network, task, session, {
        onEpoch: (report) => {
          const [epoch = '', loss = '', accuracy = ''] = rowOf(report);
          progress(`epoch ${epoch} of ${String(epochs)}: loss ${loss}, test accuracy ${accuracy}`);
        },
      });
      return { document: { epochs: reports }, text: table(['EPOCH', 'LOSS', 'TEST ACCURACY'], reports.map(rowOf)) };
    } finally {
      await session.delete();
    }
  },
};

const UNITS = ['bytes', 'KB', 'MB', 'GB'] as const;

function size(bytes: number): string {
  const unit = Math.min(UNITS.length - 1, Math.floor(Math.log10(Math.max(1, bytes)) / 3));
  return `${unit === 0 ? String(bytes) : (bytes / 1000 ** unit).toFixed(1)} ${UNITS[unit] ?? ''}`;
}

const millions = (operations: number): string => `${(operations / 1e6).toFixed(1)} million`;

function inWords({ request, reply, memory, operations, problems }: Estimate): string {
  const rows = [
    ['request', size(request.bytes)],
    ...(request.statisticsBytes === null ? [] : [['request with factor statistics', size(request.statisticsBytes)]]),
    ['reply', size(reply.bytes)],
    ['reply with new inverses', size(reply.refreshedBytes)],
    ['state on the worker', size(memory.stateBytes)],
    ...(memory.stepBytes === null ? [] : [['a step’s memory beside it', size(memory.stepBytes)]]),
    ['multiply-adds of the passes', millions(operations.passes)],
    ['of the tangent kernels', millions(operations.tangentKernels)],
    ['of the systems', millions(operations.systems)],
    ['of a refresh', millions(operations.refresh)],
  ];
  const refusals = problems.flatMap(({ detail, remedy }) => ['', `It would be refused: ${detail}`, remedy]);
  return [table(['OF A STEP', 'AT MOST'], rows), ...refusals].join('\n');
}

const estimate: Command = {
  name: 'estimate',
  summary: 'Say what a session and its steps take, without creating it: bytes, memory, operations',
  arguments: ['FILE'],
  options: { batch: { type: 'string', value: 'N', description: 'samples of a step; 64 unless given' } },
  examples: ['ddpnopt estimate session.json --batch 256'],
  run: async (context) => {
    const batch = wholeNumberOf(context, 'batch', COMPARISON.batchSize);
    // What is wrong with it the service says.
    const content = JSON.stringify({ session: await documentIn(argumentOf(context, 'FILE')), batch });
    const body = { contentType: 'application/json', content, isRepeatable: true };
    const answer = await context.service.request('POST', 'v1/estimates', {}, body);
    const document = await complete(async () => estimateSchema.parse(await answer.json()));
    return { document, text: inWords(document) };
  },
};

/** @throws UsageError if there is no JSON */
async function documentIn(file: string): Promise<unknown> {
  try {
    return JSON.parse(await readFile(file, 'utf8')) as unknown;
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new UsageError(`${file} cannot be read as the document that creates a session: ${reason}`, { cause });
  }
}

export const TRAINING_COMMANDS: readonly Command[] = [train, estimate];
