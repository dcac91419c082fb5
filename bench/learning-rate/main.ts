/**
 * npm run bench:learning-rate: what the leverage and the Levenberg–Marquardt rule are worth against a fixed learning rate, for
 * three metrics, on DIGITS. Writes docs/results/learning-rate.json and, from it, docs/results/learning-rate.md.
 */
import { DdpnoptClient } from '../../clients/js/index.ts';
import { COMPARISON, prepareComparison } from '../../clients/train/digits-comparison.ts';
import { trainWithService } from '../../clients/train/train.ts';
import { startStack } from '../../deploy/local/stack.ts';
import { provenance } from '../provenance.ts';
import { writeResults } from '../results-folder.ts';
import { METRICS, RATIO_LIMITS, renderLearningRates, RULES, type Cell, type LearningRateResults } from './report.ts';

const SEEDS = [0, 1, 2];
const VALUES = [0.01, 0.1, 1, 10, 100, 1000];
const EPOCHS = 5;

const stack = await startStack({ engine: process.env['DDPNOPT_ENGINE'] });
const cells: Cell[] = [];
try {
  const client = new DdpnoptClient({ url: stack.url });
  for (const metric of METRICS) {
    for (const rule of RULES) {
      for (const value of VALUES) {
        const runs: Run[] = [];
        for (const seed of SEEDS) runs.push(await train(client, metric, rule, value, seed));
        const accuracies = runs.map(({ accuracy }) => accuracy);
        cells.push({ metric, rule, value, accuracies, lastRates: runs.map(({ lastRate }) => lastRate) });
        process.stdout.write(`${metric} ${rule} ${String(value)}: ${accuracies.map((a) => a.toFixed(3)).join(' ')}\n`);
      }
    }
  }
} finally {
  await stack.stop();
}

interface Run {
  /** Test accuracy after the last epoch; 0 if the run diverged and a step was refused. */
  readonly accuracy: number;
  /** η of the last step. */
  readonly lastRate: number;
}

async function train(
  client: DdpnoptClient,
  metric: Cell['metric'],
  rule: Cell['rule'],
  value: number,
  seed: number,
): Promise<Run> {
  const { task, initial } = await prepareComparison(seed);
  const network = initial.clone();
  const learningRate =
    rule === 'textbook' || rule === 'unseen'
      ? ({ kind: 'levenberg-marquardt', initial: value, ...RATIO_LIMITS[rule] } as const)
      : { kind: rule, value };
  const session = await client.createSession({
    layers: network.layers.map(({ name, inputs, outputs }) => ({ name, kind: 'dense' as const, inputs, outputs })),
    optimizer: { metric: { kind: metric }, learningRate, coupling: 'gauss-newton-step' },
  });
  const lastRate = async (): Promise<number> => (await session.describe()).metrics?.learningRate ?? value;
  try {
    const epochs = await trainWithService(network, { ...task, epochs: EPOCHS }, session);
    return { accuracy: epochs.at(-1)?.testAccuracy ?? 0, lastRate: await lastRate() };
  } catch (error) {
    if (!(error instanceof Error) || error.name !== 'DdpnoptError') throw error;
    return { accuracy: 0, lastRate: await lastRate() };
  } finally {
    await session.delete();
  }
}

const results: LearningRateResults = {
  command: 'npm run bench:learning-rate',
  ...provenance(stack.engine),
  epochs: EPOCHS,
  widths: COMPARISON.widths,
  batchSize: COMPARISON.batchSize,
  seeds: SEEDS,
  values: VALUES,
  cells,
};
await writeResults('learning-rate', results, new Map([['learning-rate.md', renderLearningRates(results)]]));
process.stdout.write(`\n${renderLearningRates(results)}`);
