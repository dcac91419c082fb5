/**
 * How long a step takes on the device that TensorFlow takes in this process, which is the CPU where CUDA_VISIBLE_DEVICES is -1.
 * Prints milliseconds by workload, as JSON.
 *
 * usage: node timing.ts
 */
import { loadEngine } from '../tensor/index.ts';
import { CYCLE, startTraining, WORKLOADS, type Workload } from './workload.ts';

const engine = await loadEngine('tensorflow');
const results = Object.fromEntries(WORKLOADS.map((workload) => [workload.name, millisecondsPerStep(workload)]));
process.stdout.write(JSON.stringify(results));

/** The mean over the cycle of refreshes, after one in which the graphs are made. */
function millisecondsPerStep(workload: Workload): number {
  const { trainer, body } = startTraining(engine, workload);
  const cycle = (): number => {
    const began = performance.now();
    for (let step = 0; step < CYCLE; step++) trainer.step(body);
    return (performance.now() - began) / CYCLE;
  };
  // The step after the first refresh is of another structure than those before.
  cycle();
  cycle();
  const time = cycle();
  trainer.close();
  return time;
}
