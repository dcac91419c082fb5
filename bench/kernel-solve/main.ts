/**
 * npm run bench:kernel-solve: what POST /v1/kernel/solve takes at the edge, up to the limit beyond which a worker solves, and on the
 * worker. Writes docs/results/kernel-solve.json and, from it, docs/results/kernel-solve.md.
 */
import { DdpnoptClient, type KernelBatchInput } from '../../clients/js/index.ts';
import { startStack } from '../../deploy/local/stack.ts';
import { provenance } from '../provenance.ts';
import { writeResults } from '../results-folder.ts';
import { renderKernelSolve, type KernelSolveResults, type SolveTime } from './report.ts';
import { median } from '../median.ts';

/** S·B³ up to which the edge solves: LIMITS.edgeSolveWork. */
const EDGE_SOLVE_WORK = 2 * 128 ** 3;
const STAGES = [1, 4, 16];
const REPETITIONS = 101;
const WARM_UP = 20;

/** N = I in every stage. A factorisation and two solves take the same operations whatever the numbers. */
function identities(B: number, stages: number): KernelBatchInput {
  const gram = Float32Array.from({ length: B * B }, (_, index) => (index % (B + 1) === 0 ? 1 : 0));
  return { losses: new Float32Array(B).fill(0.5), grams: Array.from({ length: stages }, () => gram) };
}

/** Medians in milliseconds of alternating rounds. */
async function measure(client: DdpnoptClient, inputs: readonly KernelBatchInput[]): Promise<number[]> {
  const times = inputs.map((): number[] => []);
  for (let round = -WARM_UP; round < REPETITIONS; round++) {
    for (const [index, input] of inputs.entries()) {
      const begin = performance.now();
      await client.solveKernels(input);
      if (round >= 0) times[index]?.push(performance.now() - begin);
    }
  }
  return times.map(median);
}

const stack = await startStack({ engine: process.env['DDPNOPT_ENGINE'] });
const times: SolveTime[] = [];
try {
  const client = new DdpnoptClient({ url: stack.url });
  for (const stages of STAGES) {
    const largest = Math.floor(Math.cbrt(EDGE_SOLVE_WORK / stages));
    const batches = [Math.floor(largest / 4), Math.floor(largest / 2), largest, largest + 1];
    const [smallest = Number.NaN, ...medians] = await measure(client, [1, ...batches].map((B) => identities(B, stages))); // prettier-ignore
    for (const [index, batch] of batches.entries()) {
      const milliseconds = medians[index] ?? Number.NaN;
      times.push({ stages, batch, where: batch > largest ? 'worker' : 'edge', milliseconds, smallest });
    }
    process.stdout.write(`${String(stages)} stages: ${medians.map((time) => time.toFixed(2)).join(' ')} ms\n`);
  }
} finally {
  await stack.stop();
}

const results: KernelSolveResults = {
  command: 'npm run bench:kernel-solve',
  ...provenance(stack.engine),
  repetitions: REPETITIONS,
  limit: EDGE_SOLVE_WORK,
  times,
};
await writeResults('kernel-solve', results, new Map([['kernel-solve.md', renderKernelSolve(results)]]));
process.stdout.write(`\n${renderKernelSolve(results)}`);
