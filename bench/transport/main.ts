/**
 * npm run bench:transport: how far steps with half-precision and int8 tensors are from the step in float32. Writes
 * docs/results/transport.json and, from it, docs/results/transport.md.
 */
import { DdpnoptClient, type StepInput, type StepReply, type TrainingSession } from '../../clients/js/index.ts';
import { miniBatches } from '../../clients/train/data.ts';
import { COMPARISON, prepareComparison } from '../../clients/train/digits-comparison.ts';
import { seededRandom } from '../../clients/train/random.ts';
import { startStack } from '../../deploy/local/stack.ts';
import { provenance } from '../provenance.ts';
import { writeResults } from '../results-folder.ts';
import {
  METRICS,
  renderTransport,
  VARIANTS,
  type TransportCell,
  type TransportResults,
  type Variant,
} from './report.ts';

const STEPS = 10;
const REPLIES = { F16: 'f16', BF16: 'bf16', I8: 'int8' } as const;

type Update = Extract<StepReply, { kind: 'update' }>;

async function updateOf(session: TrainingSession, input: StepInput, variant: Variant | null): Promise<Update> {
  const reply = await session.step(input, variant?.direction === 'sent' ? { sendAs: variant.dtype } : {});
  if (reply.kind !== 'update') throw new Error('no update');
  return reply;
}

/** ‖a − b‖ / ‖b‖. */
function relativeError(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let difference = 0;
  let size = 0;
  for (let i = 0; i < b.length; i++) {
    difference += ((a[i] ?? Number.NaN) - (b[i] ?? Number.NaN)) ** 2;
    size += (b[i] ?? Number.NaN) ** 2;
  }
  return Math.sqrt(difference / size);
}

async function measure(client: DdpnoptClient, metric: (typeof METRICS)[number]): Promise<TransportCell[]> {
  const { task, initial } = await prepareComparison(0);
  const network = initial.clone();
  const create = (variant: Variant | null): Promise<TrainingSession> =>
    client.createSession({
      layers: network.layers.map(({ name, inputs, outputs }) => ({ name, kind: 'dense' as const, inputs, outputs })),
      optimizer: { metric: { kind: metric }, coupling: 'value' },
      transport: {
        int8: variant?.direction === 'sent' && variant.dtype === 'I8',
        reply: variant?.direction === 'received' ? REPLIES[variant.dtype] : 'full',
      },
    });
  const reference = await create(null);
  const narrowed = await Promise.all(
    VARIANTS.map(async (variant) => ({ variant, session: await create(variant), error: 0, bytes: 0, fullBytes: 0 })),
  );
  let step = 0;
  for (const batch of miniBatches(task.train, COMPARISON.batchSize, seededRandom(1))) {
    if (step++ === STEPS) break;
    const pass = network.forward(batch);
    const gradients = network.backward(pass, batch.labels);
    const layers = network.layers.map(({ name }, t) => {
      const [input, outputGradient] = [pass.layers[t]?.input, gradients[t]];
      if (input === undefined || outputGradient === undefined) throw new RangeError(`no pass through layer ${name}`);
      return [name, { input, outputGradient }] as const;
    });
    const input: StepInput = { losses: pass.losses, layers: Object.fromEntries(layers) };
    const full = await updateOf(reference, input, null);
    for (const each of narrowed) {
      const { changes, bytesSent, bytesReceived } = await updateOf(each.session, input, each.variant);
      const isSent = each.variant.direction === 'sent';
      each.bytes = isSent ? bytesSent : bytesReceived;
      each.fullBytes = isSent ? full.bytesSent : full.bytesReceived;
      for (const { name } of network.layers) {
        const [actual, expected] = [changes.get(name)?.weight ?? [], full.changes.get(name)?.weight ?? []];
        each.error = Math.max(each.error, relativeError(actual, expected));
      }
    }
    for (const { name, weight, bias } of network.layers) {
      const change = full.changes.get(name);
      for (const [i, value] of weight.entries()) weight[i] = value + (change?.weight?.[i] ?? Number.NaN);
      for (const [i, value] of bias.entries()) bias[i] = value + (change?.bias?.[i] ?? Number.NaN);
    }
  }
  return narrowed.map(({ variant, error, bytes, fullBytes }) => ({ metric, variant, error, bytes, fullBytes }));
}

const stack = await startStack({ engine: process.env['DDPNOPT_ENGINE'] });
const cells: TransportCell[] = [];
try {
  const client = new DdpnoptClient({ url: stack.url });
  for (const metric of METRICS) cells.push(...(await measure(client, metric)));
} finally {
  await stack.stop();
}

const results: TransportResults = {
  command: 'npm run bench:transport',
  ...provenance(stack.engine),
  widths: COMPARISON.widths,
  batchSize: COMPARISON.batchSize,
  steps: STEPS,
  cells,
};
await writeResults('transport', results, new Map([['transport.md', renderTransport(results)]]));
process.stdout.write(renderTransport(results));
