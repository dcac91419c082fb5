/**
 * npm run bench:engine: what a step costs on every tensor engine that is here, in one run in which they take turns. Writes
 * docs/results/engine.json and engine.md.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { presentEngines } from '../../gpu-worker/tensor/index.ts';
import { provenance } from '../provenance.ts';
import { engineContender } from './contender.ts';
import { denseProblem, operations, type Problem } from './problem.ts';
import { renderEngines, type ContenderResult, type EngineResults, type ProblemResult } from './report.ts';

const WIDTHS = [784, 256, 256, 10];
const BATCHES = [128, 512];
const REFRESH_EVERY = 10;
const ROUNDS = 7;
const PRODUCT_ORDER = 1024;
const FOLDER = new URL('../../docs/results/', import.meta.url);

// The float64 reference is there to be right, not fast.
const contenders = presentEngines()
  .filter((name) => name !== 'reference')
  .map(engineContender);

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? Number.NaN;
}

/** Rounds in which the contenders take turns: a round is a refresh and the steps up to the next; the first warms up. */
async function measure(problem: Problem): Promise<ProblemResult> {
  const entries = await Promise.all(
    contenders.map(async (contender) => ({
      contender,
      runner: await contender.prepare(problem),
      steps: [] as number[],
      refreshSteps: [] as number[],
      products: [] as number[],
    })),
  );
  for (let round = 0; round <= ROUNDS; round++) {
    for (const { contender, runner, steps, refreshSteps, products } of entries) {
      for (let step = 0; step < problem.refreshEvery; step++) {
        const milliseconds = await runner.step();
        if (round > 0) (step === 0 ? refreshSteps : steps).push(milliseconds);
        // Between the steps, so that whatever else the machine does meets both.
        const product = await contender.product(PRODUCT_ORDER);
        if (round > 0) products.push(product);
      }
    }
    process.stdout.write(`${problem.name}: round ${String(round)} of ${String(ROUNDS)}\n`);
  }
  const counted = operations(problem);
  for (const { runner } of entries) await runner.stop();
  return {
    name: problem.name,
    refreshEvery: problem.refreshEvery,
    rounds: ROUNDS,
    operations: counted,
    contenders: entries.map(({ contender: { name }, steps, refreshSteps, products }): ContenderResult => {
      const step = median(steps);
      const refreshStep = median(refreshSteps);
      const peak = (2 * PRODUCT_ORDER ** 3) / (median(products) / 1000);
      return {
        name,
        step,
        refreshStep,
        mean: (refreshStep + (problem.refreshEvery - 1) * step) / problem.refreshEvery,
        peak,
        peakShare: counted.step / (step / 1000) / peak,
      };
    }),
  };
}

const problems: ProblemResult[] = [];
for (const batch of BATCHES) problems.push(await measure(denseProblem(WIDTHS, batch, REFRESH_EVERY)));
const { machine, revision } = provenance('');
const results: EngineResults = {
  command: 'npm run bench:engine',
  machine,
  revision,
  productOrder: PRODUCT_ORDER,
  problems,
};
mkdirSync(FOLDER, { recursive: true });
writeFileSync(new URL('engine.json', FOLDER), `${JSON.stringify(results, null, 2)}\n`);
writeFileSync(new URL('engine.md', FOLDER), renderEngines(results));
process.stdout.write(`\n${renderEngines(results)}`);
