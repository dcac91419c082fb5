/** ddpnopt train, estimate and bench: what training does, what it would take, and how long its steps take. */
import { loadBreastCancer } from '../datasets/breast-cancer/breast-cancer.ts';
import { loadDigits, type LabelledData } from '../datasets/digits/digits.ts';
import { loadMnist } from '../datasets/mnist/mnist.ts';
import { loadWine } from '../datasets/wine/wine.ts';
import { estimateSchema, type Estimate } from '../../shared/estimate.ts';
import { seededRandom, type Random } from '../../shared/random.ts';
import { complete } from '../js/transport.ts';
import { split, standardisation } from '../train/data.ts';
import { COMPARISON } from '../train/digits-comparison.ts';
import { MultilayerPerceptron } from '../train/multilayer-perceptron.ts';
import { hostedPerceptron, trainHosted } from '../train/train-hosted.ts';
import { trainWithService, type EpochReport } from '../train/train.ts';
import { byteSize, numberOf, parsedFile, wholeNumberOf } from './arguments.ts';
import { benchCommand } from './bench.ts';
import { argumentOf, CommandError, textOf, UsageError, type Command, type LocalContext } from './command.ts';
import { table } from './table.ts';

/** What can be trained on, and the perceptron for it. */
const DATA = {
  digits: { widths: COMPARISON.widths, epochs: COMPARISON.epochs },
  wine: { widths: [13, 16, 3], epochs: 20 },
  'breast-cancer': { widths: [30, 16, 2], epochs: 10 },
  mnist: { widths: [784, 32, 32, 10], epochs: 2 },
  'fashion-mnist': { widths: [784, 32, 32, 10], epochs: 2 },
} as const;
type DataName = keyof typeof DATA;

interface Data {
  readonly train: LabelledData;
  readonly test: LabelledData;
}

function dataNameOf(context: LocalContext): DataName {
  const given = textOf(context, 'data') ?? 'digits';
  const known = (Object.keys(DATA) as DataName[]).find((name) => name === given);
  if (known === undefined) throw new UsageError(`--data is "${given}"; ${Object.keys(DATA).join(', ')} are the sets`);
  return known;
}

/** @throws CommandError if the files are missing or damaged */
async function load(name: DataName, folder: string | undefined, random: Random): Promise<Data> {
  switch (name) {
    case 'digits':
      return split(await loadDigits(), COMPARISON.testFraction, random);
    case 'wine':
      return standardisedSplit(await loadWine(), random);
    case 'breast-cancer':
      return standardisedSplit(await loadBreastCancer(), random);
    case 'mnist':
    case 'fashion-mnist':
      try {
        return await loadMnist(name, folder);
      } catch (cause) {
        throw new CommandError(`${cause instanceof Error ? cause.message : String(cause)} --folder names it here.`, {
          cause,
        });
      }
  }
}

/** Measurements in units of their own, as their training part varies. */
function standardisedSplit(data: LabelledData, random: Random): Data {
  const { train, test } = split(data, COMPARISON.testFraction, random);
  const apply = standardisation(train);
  return { train: apply(train), test: apply(test) };
}

const rowOf = ({ epoch, trainLoss, testAccuracy }: EpochReport): string[] => [
  String(epoch),
  trainLoss.toFixed(4),
  `${(100 * testAccuracy).toFixed(1)} %`,
];

const train: Command = {
  name: 'train',
  summary:
    'Train a perceptron through the service, on handwritten digits unless told otherwise, which shows that all of it works',
  arguments: [],
  options: {
    data: {
      type: 'string',
      value: 'SET',
      description:
        'digits, wine or breast-cancer, which come along; mnist or fashion-mnist, in a folder of yours; digits unless given',
    },
    folder: {
      type: 'string',
      value: 'FOLDER',
      description: 'of the IDX files of mnist or fashion-mnist, compressed or not',
    },
    epochs: {
      type: 'string',
      value: 'N',
      description: `${Object.entries(DATA)
        .map(([name, { epochs }]) => `${String(epochs)} with ${name}`)
        .join(', ')}, unless given`,
    },
    batch: {
      type: 'string',
      value: 'N',
      description: `samples of a step; ${String(COMPARISON.batchSize)} unless given`,
    },
    'learning-rate': {
      type: 'string',
      value: 'X',
      description: 'a constant η of the service’s optimizer; its default, a rule, unless given',
    },
    hosted: {
      type: 'boolean',
      description: 'the service holds perceptron and data set, and takes the steps of an epoch in one call',
    },
    seed: {
      type: 'string',
      value: 'N',
      description: 'of the split, the weights and the order of the batches; 1 unless given',
    },
  },
  examples: [
    'ddpnopt train',
    'ddpnopt train --data wine',
    'ddpnopt train --data mnist --folder ~/mnist',
    'ddpnopt train --hosted --epochs 5',
    'ddpnopt train --url https://ddpnopt.example.com --epochs 3 --learning-rate 3',
  ],
  run: async (context) => {
    const { client, progress, signal } = context;
    const name = dataNameOf(context);
    const { widths } = DATA[name];
    const epochs = wholeNumberOf(context, 'epochs', DATA[name].epochs);
    const batchSize = wholeNumberOf(context, 'batch', COMPARISON.batchSize);
    const random = seededRandom(wholeNumberOf(context, 'seed', 1));
    const rate = textOf(context, 'learning-rate');
    const value = numberOf(context, 'learning-rate', 0, 0);
    const { train: training, test } = await load(name, textOf(context, 'folder'), random);
    const optimizer = rate === undefined ? {} : { optimizer: { learningRate: { kind: 'constant' as const, value } } };
    const observer = {
      onEpoch: (report: EpochReport): void => {
        const [epoch = '', loss = '', accuracy = ''] = rowOf(report);
        progress(`epoch ${epoch} of ${String(epochs)}: loss ${loss}, test accuracy ${accuracy}`);
      },
    };
    const task = { train: training, test, batchSize, epochs };
    if (context.options['hosted'] === true) {
      const seed = Math.floor(2 ** 32 * random());
      const loss = { kind: 'softmax-cross-entropy' } as const;
      const session = await client.createHostedSession({ model: hostedPerceptron(widths), loss, seed, ...optimizer });
      try {
        return reported(await trainHosted(session, { ...task, seed }, observer, signal));
      } finally {
        await session.delete();
      }
    }
    const network = MultilayerPerceptron.initialise(widths, random);
    const session = await client.createSession({
      layers: network.layers.map(({ name, inputs, outputs }) => ({ name, kind: 'dense' as const, inputs, outputs })),
      ...optimizer,
    });
    try {
      const seed = Math.floor(2 ** 32 * random());
      return reported(await trainWithService(network, { ...task, seed }, session, observer, signal));
    } finally {
      await session.delete();
    }
  },
};

function reported(reports: readonly EpochReport[]): { readonly document: object; readonly text: string } {
  return { document: { epochs: reports }, text: table(['EPOCH', 'LOSS', 'TEST ACCURACY'], reports.map(rowOf)) };
}

const millions = (operations: number): string => `${(operations / 1e6).toFixed(1)} million`;

function inWords({ request, reply, memory, operations, problems }: Estimate): string {
  const rows = [
    ['request', byteSize(request.bytes)],
    ...(request.statisticsBytes === null
      ? []
      : [['request with factor statistics', byteSize(request.statisticsBytes)]]),
    ['reply', byteSize(reply.bytes)],
    ['reply with new inverses', byteSize(reply.refreshedBytes)],
    ['state on the worker', byteSize(memory.stateBytes)],
    ...(memory.stepBytes === null ? [] : [['a step’s memory beside it', byteSize(memory.stepBytes)]]),
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
    const content = JSON.stringify({ session: await parsedFile(argumentOf(context, 'FILE')), batch });
    const body = { contentType: 'application/json', content, isRepeatable: true };
    const answer = await context.service.request('POST', 'v1/estimates', {}, body);
    const document = await complete(async () => estimateSchema.parse(await answer.json()));
    return { document, text: inWords(document) };
  },
};

export const TRAINING_COMMANDS: readonly Command[] = [train, estimate, benchCommand];
