/**
 * npm run bench:quickstart: the quickstart's comparison over several seeds, and what a step costs. Writes docs/results/quickstart.json
 * and, from it, docs/results/quickstart.md and the README's table.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { DdpnoptClient } from '../../clients/js/index.ts';
import {
  bestRuns,
  COMPARISON,
  prepareComparison,
  runBaselines,
  runService,
  type TrainingRun,
} from '../../clients/train/digits-comparison.ts';
import { startStack } from '../../deploy/local/stack.ts';
import { provenance } from '../provenance.ts';
import { writeResults } from '../results-folder.ts';
import { measureStepTraffic, type StepTraffic } from './traffic.ts';
import { renderResults, withReadmeTable, type QuickstartResults, type SeedResult } from './report.ts';

const SEEDS = [0, 1, 2, 3, 4];
const README = new URL('../../README.md', import.meta.url);

const stack = await startStack({ engine: process.env['DDPNOPT_ENGINE'] });
const seeds: SeedResult[] = [];
let traffic: StepTraffic[];
try {
  const client = new DdpnoptClient({ url: stack.url });
  for (const seed of SEEDS) {
    process.stdout.write(`seed ${String(seed)}: DDPNOpt`);
    const setup = await prepareComparison(seed);
    const service = await runService(setup, client, {
      onEpoch: () => {
        process.stdout.write('.');
      },
    });
    const baselines: TrainingRun[] = await runBaselines(setup, ({ name, learningRate }) => {
      process.stdout.write(` ${name} ${String(learningRate)}`);
    });
    process.stdout.write('\n');
    seeds.push({ seed, runs: [service, ...bestRuns(baselines)] });
  }
  traffic = await measureStepTraffic(client, (text) => process.stdout.write(`${text}\n`));
} finally {
  await stack.stop();
}

const results: QuickstartResults = {
  command: 'npm run bench:quickstart',
  ...provenance(stack.engine),
  comparison: COMPARISON,
  seeds,
  traffic,
};
await writeResults('quickstart', results, new Map([['quickstart.md', renderResults(results)]]));
writeFileSync(README, withReadmeTable(readFileSync(README, 'utf8'), results));
process.stdout.write(`${renderResults(results)}\nWritten to docs/results/quickstart.json and quickstart.md.\n`);
