/**
 * npm run quickstart: starts the real worker and the real edge, trains a network of its own on DIGITS with one HTTP request per
 * mini-batch, and compares the result with SGD and Adam. Ctrl-C stops everything.
 */
import { DdpnoptClient } from '../../clients/js/index.ts';
import {
  bestRuns,
  COMPARISON,
  prepareComparison,
  rateOf,
  reportAt,
  runBaselines,
  runService,
  type TrainingRun,
} from '../../clients/train/digits-comparison.ts';
import { untilInterrupted } from '../../deploy/local/interrupt.ts';
import { describeEngine, startStack, type LocalStack } from '../../deploy/local/stack.ts';
import { lossBar, ProgressLine, table } from './terminal.ts';

const SEED = 0;
const INTERRUPTED = 130;

const line = new ProgressLine(process.stdout);
const abort = new AbortController();
void untilInterrupted().then(() => {
  abort.abort();
});

async function quickstart(signal: AbortSignal): Promise<void> {
  const setup = await prepareComparison(SEED);
  const { train, test, batchSize, epochs } = setup.task;
  line.print(
    `DIGITS: ${String(setup.data.size)} real images of 8×8 pixels, ${String(train.size)} to train on, ${String(test.size)} to test.\n` +
      `Network ${COMPARISON.widths.join('-')}, batches of ${String(batchSize)}, ${String(epochs)} epochs. ` +
      'Forward and backward run here; the optimizer is the service.\n',
  );
  line.draw(0, 'starting the worker and the edge …');
  const engine = process.env['DDPNOPT_ENGINE'];
  const stack = await startStack({ engine });
  try {
    signal.throwIfAborted();
    line.print(`Worker and edge are ready at ${stack.url}, ${describeEngine(stack, (engine ?? '') !== '')}\n`);
    const failed = stack.failed.then((reason) => {
      throw new Error(reason);
    });
    await Promise.race([compare(stack, signal), failed]);
  } finally {
    line.draw(1, 'stopping the worker and the edge …');
    await stack.stop();
    line.clear();
  }

  async function compare({ url }: LocalStack, stop: AbortSignal): Promise<void> {
    const client = new DdpnoptClient({ url });
    let bytes = 0;
    let steps = 0;
    let epochBegan = performance.now();
    let epochEnded = epochBegan;
    let epochSteps = 0;
    line.print('epoch   training loss   test accuracy   steps/s   KB/step');
    const untrained = setup.initial.evaluate(train).loss;
    line.print(`    0${untrained.toFixed(4).padStart(16)}${' '.repeat(36)}   ${lossBar(untrained)}`);
    const service = await runService(
      setup,
      client,
      {
        onStep: (progress) => {
          steps = progress.step;
          bytes += progress.bytes;
          epochSteps++;
          epochEnded = performance.now();
          line.draw(
            progress.step / progress.steps,
            `step ${String(progress.step)} of ${String(progress.steps)}   loss ${progress.loss.toFixed(4)}`,
          );
        },
        onEpoch: ({ epoch, trainLoss, testAccuracy }) => {
          const rate = epochSteps / ((epochEnded - epochBegan) / 1000);
          line.print(
            String(epoch).padStart(5) +
              trainLoss.toFixed(4).padStart(16) +
              percent(testAccuracy).padStart(16) +
              rate.toFixed(0).padStart(10) +
              (bytes / steps / 1000).toFixed(0).padStart(10) +
              `   ${lossBar(trainLoss)}`,
          );
          epochSteps = 0;
          epochBegan = performance.now();
        },
      },
      stop,
    );
    let count = 0;
    const total = COMPARISON.sgdLearningRates.length + COMPARISON.adamLearningRates.length;
    const baselines = await runBaselines(
      setup,
      ({ name, learningRate }) => {
        line.draw(count++ / total, `${name} at learning rate ${String(learningRate)}, here, for comparison`);
      },
      stop,
    );
    line.print(
      `\nThe same network from the same initial weights on the same batches:\n\n${summary(service, bestRuns(baselines))}`,
    );
    line.print(
      `\nBest of the learning rates ${COMPARISON.sgdLearningRates.join(', ')} for SGD and ${COMPARISON.adamLearningRates.join(', ')} for Adam, ` +
        `by training loss after ${String(COMPARISON.comparedEpoch)} epochs; DDPNOpt with its defaults.`,
    );
  }
}

function summary(service: TrainingRun, baselines: readonly TrainingRun[]): string {
  const { comparedEpoch, epochs } = COMPARISON;
  const row = (name: string, run: TrainingRun): string[] => [
    name,
    rateOf(run),
    reportAt(run, comparedEpoch).trainLoss.toFixed(4),
    reportAt(run, epochs).trainLoss.toFixed(4),
    percent(reportAt(run, epochs).testAccuracy),
  ];
  return table([
    [
      'optimizer',
      'learning rate',
      `loss, epoch ${String(comparedEpoch)}`,
      `loss, epoch ${String(epochs)}`,
      'test accuracy',
    ],
    row('DDPNOpt through the service', service),
    ...baselines.map((run) => row(`${run.optimizer}, here`, run)),
  ]);
}

function percent(share: number): string {
  return `${(100 * share).toFixed(1)} %`;
}

try {
  await quickstart(abort.signal);
} catch (error) {
  line.clear();
  if (abort.signal.aborted) {
    process.stderr.write('Interrupted; worker and edge are stopped.\n');
    process.exitCode = INTERRUPTED;
  } else {
    process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
    process.exitCode = 1;
  }
}
