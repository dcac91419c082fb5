/** What one step costs: bytes on the wire, and time against the client's own forward and backward pass in the same run. */
import type { DdpnoptClient } from '../../clients/js/index.ts';
import { COMPARISON, prepareComparison } from '../../clients/train/digits-comparison.ts';
import { sgdWithMomentum } from '../../clients/train/baselines.ts';
import { miniBatches } from '../../clients/train/data.ts';
import { serviceStep } from '../../clients/train/feedback-step.ts';
import { seededRandom } from '../../clients/train/random.ts';
import { median } from '../median.ts';

export interface StepTraffic {
  readonly batchSize: number;
  readonly bytesSent: number;
  readonly bytesReceived: number;
  /** Median time of a step through the service over that of a local SGD step, rounds alternating. */
  readonly timeRatio: number;
}

const BATCH_SIZES = [16, 64, 256];
const ROUNDS = 40;

export async function measureStepTraffic(
  client: DdpnoptClient,
  report: (text: string) => void,
): Promise<StepTraffic[]> {
  const { task, initial } = await prepareComparison(0);
  const results: StepTraffic[] = [];
  for (const batchSize of BATCH_SIZES) {
    report(`step cost at batch ${String(batchSize)}`);
    const network = initial.clone();
    const local = initial.clone();
    const sgd = sgdWithMomentum(COMPARISON.sgdLearningRates[0]);
    const session = await client.createSession({
      layers: network.layers.map(({ name, inputs, outputs }) => ({ name, kind: 'dense' as const, inputs, outputs })),
    });
    const random = seededRandom(0);
    const times = { service: [] as number[], local: [] as number[] };
    let bytes = { bytesSent: 0, bytesReceived: 0 };
    while (times.service.length < ROUNDS) {
      for (const batch of miniBatches(task.train, batchSize, random)) {
        if (batch.size < batchSize) continue;
        const began = performance.now();
        bytes = await serviceStep(network, batch, session);
        const between = performance.now();
        sgd.step(local, batch);
        times.service.push(between - began);
        times.local.push(performance.now() - between);
      }
    }
    await session.delete();
    const { bytesSent, bytesReceived } = bytes;
    results.push({ batchSize, bytesSent, bytesReceived, timeRatio: median(times.service) / median(times.local) });
  }
  return results;
}
