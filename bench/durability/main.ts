/**
 * npm run bench:durability: what it costs to store a step before it is answered, in a SQLite file and in a bucket, next to memory.
 * Writes docs/results/durability.json and, from it, docs/results/durability.md.
 *
 * usage: npm run bench:durability [-- --quick]: few steps, on the standard output only
 */
import { mkdtempSync, rmSync } from 'node:fs';
import type { Agent } from 'node:http';
import { tmpdir } from 'node:os';
import path from 'node:path';
import type { ServiceProcess } from '../../deploy/local/child.ts';
import { startWorker } from '../../deploy/local/worker.ts';
import { encode, SAFETENSORS_CONTENT_TYPE, type NamedTensor } from '../../shared/safetensors.ts';
import { newSessionId, type SessionDefinitionInput } from '../../shared/session.ts';
import { percentile } from '../percentile.ts';
import { provenance } from '../provenance.ts';
import { writeResults } from '../results-folder.ts';
import { openConnections, sendMany, type Target } from '../service/traffic.ts';
import { renderDurability, STORES, type DurabilityResults, type KindResult, type Store } from './report.ts';
import { startS3Server } from './s3-server.ts';

const isQuick = process.argv.includes('--quick');
const ROUNDS = isQuick ? 2 : 8;
const STORE_NAMES = Object.keys(STORES) as Store[];

interface Kind {
  readonly name: 'transport' | 'training';
  readonly definition: SessionDefinitionInput;
  readonly body: Uint8Array;
  readonly steps: number;
}

function filled(name: string, shape: readonly number[]): NamedTensor {
  return { name, shape, values: new Float32Array(shape.reduce((size, extent) => size * extent, 1)).fill(0.5) };
}

/** One dense layer with one output: a body is as large as its inputs, and a step is little work. */
function transport(batch: number, inputs: number, steps: number): Kind {
  return {
    name: 'transport',
    definition: {
      layers: [{ name: 'fc', kind: 'dense', inputs, outputs: 1 }],
      optimizer: { metric: { kind: 'identity' }, coupling: 'value', batchCoupling: 'diagonal' },
    },
    body: encode([
      filled('losses', [batch]),
      filled('layers.fc.input', [batch, inputs]),
      filled('layers.fc.output_grad', [batch, 1]),
    ]),
    steps,
  };
}

const BATCH = 128;
const PIXELS = 784;

function training(steps: number): Kind {
  const pixels = Float32Array.from({ length: BATCH * PIXELS }, (_, i) => Math.sin(i * i));
  const labels = Float32Array.from({ length: BATCH }, (_, i) => i % 10);
  return {
    name: 'training',
    definition: {
      mode: 'hosted',
      model: {
        input: [PIXELS],
        layers: [
          { kind: 'dense', name: 'fc1', outputs: 256 },
          { kind: 'relu' },
          { kind: 'dense', name: 'fc2', outputs: 256 },
          { kind: 'relu' },
          { kind: 'dense', name: 'fc3', outputs: 10 },
        ],
      },
      loss: { kind: 'softmax-cross-entropy' },
    },
    body: encode([
      { name: 'x', shape: [BATCH, PIXELS], values: pixels },
      { name: 'y', shape: [BATCH], values: labels },
    ]),
    steps,
  };
}

const KINDS: readonly Kind[] = [
  transport(4, 40, 60),
  transport(64, 400, 40),
  transport(64, 4000, 25),
  transport(200, 10_000, 8),
  training(12),
];

async function measure(workers: ReadonlyMap<Store, ServiceProcess>, kind: Kind): Promise<KindResult> {
  const { name, definition, body, steps } = kind;
  const agents = new Map<Store, Agent>();
  const sessions = new Map<Store, string>();
  const taken = new Map<Store, number>();
  for (const [store, { ready }] of workers) {
    const url = `${ready.url}/sessions/${newSessionId()}`;
    const headers = { 'content-type': 'application/json' };
    const answer = await fetch(url, { method: 'PUT', headers, body: JSON.stringify(definition) });
    if (!answer.ok) throw new Error(await answer.text());
    await answer.body?.cancel();
    sessions.set(store, url);
    agents.set(store, openConnections(1));
  }
  const take = async (store: Store, count: number): Promise<readonly number[]> => {
    const [url, agent, first] = [sessions.get(store), agents.get(store), taken.get(store) ?? 0];
    if (url === undefined || agent === undefined) throw new Error(`no worker keeps its sessions in ${store}`);
    const targets = Array.from({ length: count }, (_, index): Target => ({
      url: `${url}/steps/${String(first + index)}`,
      method: 'PUT',
      body,
      headers: { 'content-type': SAFETENSORS_CONTENT_TYPE },
    }));
    taken.set(store, first + count);
    return (await sendMany(targets, 1, agent)).latencies;
  };
  // The first steps open the connection, and have the code compiled.
  for (const store of STORE_NAMES) await take(store, Math.min(steps, 10));
  const latencies = new Map<Store, (readonly number[])[]>(STORE_NAMES.map((store) => [store, []]));
  for (let round = 0; round < ROUNDS; round++) {
    for (const store of round % 2 === 0 ? STORE_NAMES : STORE_NAMES.toReversed()) {
      latencies.get(store)?.push(await take(store, steps));
    }
  }
  for (const [store, url] of sessions) {
    await fetch(url, { method: 'DELETE' });
    agents.get(store)?.destroy();
  }
  const medians = (store: Store): number[] => (latencies.get(store) ?? []).map((round) => percentile(round, 0.5));
  const memory = medians('memory');
  const resultOf = (store: Store) => {
    const all = (latencies.get(store) ?? []).flat();
    const ratios = medians(store).map((median, round) => median / (memory[round] ?? Number.NaN));
    return { median: percentile(all, 0.5), percentile99: percentile(all, 0.99), ratio: percentile(ratios, 0.5) };
  };
  process.stdout.write(`${name}, ${String(body.length)} bytes: measured\n`);
  const results = STORE_NAMES.map((store) => [store, resultOf(store)] as const);
  return { name, bodyBytes: body.length, steps, stores: Object.fromEntries(results) as KindResult['stores'] };
}

const folder = mkdtempSync(path.join(tmpdir(), 'ddpnopt-durability-'));
const bucket = await startS3Server();
const started: ServiceProcess[] = [];
try {
  const start = async (storage?: string, settings: Readonly<Record<string, string>> = {}): Promise<ServiceProcess> => {
    const worker = await startWorker({ port: 0, engine: process.env['DDPNOPT_ENGINE'], storage, settings });
    started.push(worker);
    return worker;
  };
  const memory = await start();
  const workers = new Map<Store, ServiceProcess>([
    ['memory', memory],
    ['folder', await start(path.join(folder, 'process'))],
    ['power', await start(path.join(folder, 'power'), { DDPNOPT_STORAGE_SURVIVES: 'power' })],
    ['bucket', await start(bucket.storage, bucket.settings)],
    ['applied', await start(`${bucket.storage}-applied`, { ...bucket.settings, DDPNOPT_ACKNOWLEDGE: 'applied' })],
  ]);
  const kinds: KindResult[] = [];
  for (const kind of KINDS) kinds.push(await measure(workers, kind));
  const results: DurabilityResults = {
    command: 'npm run bench:durability',
    ...provenance(memory.ready.engine ?? 'unknown'),
    rounds: ROUNDS,
    kinds,
  };
  if (!isQuick) {
    await writeResults('durability', results, new Map([['durability.md', renderDurability(results)]]));
  }
  process.stdout.write(`\n${renderDurability(results)}`);
} finally {
  await Promise.all([...started.map((worker) => worker.stop()), bucket.stop()]);
  rmSync(folder, { recursive: true });
}
