/** The results as Markdown: a pure function of the stored JSON, which a test holds the page to. */
import { rateOf, type COMPARISON, type TrainingRun } from '../../clients/train/digits-comparison.ts';
import { markdownTable } from '../markdown.ts';
import type { Provenance } from '../provenance.ts';
import type { StepTraffic } from './traffic.ts';

export interface SeedResult {
  readonly seed: number;
  /** DDPNOpt, and each baseline at its best learning rate for this seed. */
  readonly runs: readonly TrainingRun[];
}

export interface QuickstartResults extends Provenance {
  readonly command: string;
  readonly comparison: Omit<typeof COMPARISON, 'widths' | 'sgdLearningRates' | 'adamLearningRates'> & {
    readonly widths: readonly number[];
    readonly sgdLearningRates: readonly number[];
    readonly adamLearningRates: readonly number[];
  };
  readonly seeds: readonly SeedResult[];
  readonly traffic: readonly StepTraffic[];
}

export function renderResults({
  command,
  machine,
  revision,
  engine,
  comparison,
  seeds,
  traffic,
}: QuickstartResults): string {
  const { comparedEpoch, epochs, widths, batchSize, sgdLearningRates, adamLearningRates } = comparison;
  const optimizers = seeds[0]?.runs.map(({ optimizer }) => optimizer) ?? [];
  const lossRows = optimizers.map((optimizer) => {
    const runs = seeds.flatMap((seed) => seed.runs.filter((run) => run.optimizer === optimizer));
    const at = (epoch: number, value: 'trainLoss' | 'testAccuracy'): number[] =>
      runs.map((run) => run.epochs[epoch - 1]?.[value] ?? Number.NaN);
    const rates = [...new Set(runs.toSorted((a, b) => (a.learningRate ?? 0) - (b.learningRate ?? 0)).map(rateOf))].join(
      ', ',
    );
    return [
      optimizer,
      rates,
      spread(at(comparedEpoch, 'trainLoss'), (value) => value.toFixed(4)),
      spread(at(epochs, 'trainLoss'), (value) => value.toFixed(4)),
      spread(at(epochs, 'testAccuracy'), (value) => (100 * value).toFixed(1)),
    ];
  });
  const trafficRows = traffic.map(({ batchSize: batch, bytesSent, bytesReceived, timeRatio }) => [
    String(batch),
    (bytesSent / 1000).toFixed(1),
    (bytesReceived / 1000).toFixed(1),
    timeRatio.toFixed(1),
  ]);
  return `# What the quickstart measures

Made by \`${command}\` at revision ${revision}; engine ${engine}; ${machine}.

## Loss and accuracy

DIGITS, network ${widths.join('-')}, batches of ${String(batchSize)}. DDPNOpt runs through the service with its defaults, untuned. SGD with momentum
(learning rates ${sgdLearningRates.join(', ')}) and Adam (${adamLearningRates.join(', ')}) run locally; of each the run with the smallest training loss
after ${String(comparedEpoch)} epochs counts, chosen per seed. All start from the same weights and see the same batches. Mean and, in brackets, the
range over seeds ${seeds.map(({ seed }) => String(seed)).join(', ')}; each seed has its own split into training and test images.

${markdownTable(
  [
    'optimizer',
    'learning rate',
    `training loss, epoch ${String(comparedEpoch)}`,
    `training loss, epoch ${String(epochs)}`,
    'test accuracy, %',
  ],
  lossRows,
)}

## What a step costs

The default step: policy reply, in float32. The time is that of one step through the service (HTTP, edge, worker, second forward
pass) over that of one local SGD step of the same client in plain loops, medians of alternating rounds on one shared machine.

${markdownTable(['batch', 'KB sent', 'KB received', 'time / local SGD step'], trafficRows)}
`;
}

function spread(values: readonly number[], format: (value: number) => string): string {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  return `${format(mean)} [${format(Math.min(...values))}, ${format(Math.max(...values))}]`;
}

/** The README's table: the run of the quickstart, which is that of the first seed. */
export function renderReadmeTable({ comparison, seeds }: QuickstartResults): string {
  const { comparedEpoch, epochs } = comparison;
  const rows = (seeds[0]?.runs ?? []).map((run) => {
    const loss = (epoch: number): string => (run.epochs[epoch - 1]?.trainLoss ?? Number.NaN).toFixed(4);
    const accuracy = 100 * (run.epochs[epochs - 1]?.testAccuracy ?? Number.NaN);
    return [run.optimizer, rateOf(run), loss(comparedEpoch), loss(epochs), `${accuracy.toFixed(1)} %`];
  });
  const header = [
    'optimizer',
    'learning rate',
    `loss, epoch ${String(comparedEpoch)}`,
    `loss, epoch ${String(epochs)}`,
    'test accuracy',
  ];
  return markdownTable(header, rows);
}

const README_TABLE = /(<!-- written by npm run bench:quickstart -->\n).*?(\n<!-- prettier-ignore-end -->)/s;

/** A README with its table made anew. */
export function withReadmeTable(readme: string, results: QuickstartResults): string {
  return readme.replace(
    README_TABLE,
    (_, begin: string, end: string) => `${begin}\n${renderReadmeTable(results)}\n${end}`,
  );
}
