/**
 * npm run bench:service: requests through the edge in workerd and straight to the worker, in one run in which they take turns, and the
 * memory of workerd under large bodies. Writes docs/results/service.json and, from it, docs/results/service.md.
 *
 * usage: npm run bench:service [-- --quick]: few requests, on the standard output only
 */
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import type { Agent } from 'node:http';
import * as z from 'zod';
import { startWorker } from '../../deploy/local/worker.ts';
import { encode, SAFETENSORS_CONTENT_TYPE } from '../../shared/safetensors.ts';
import { newSessionId, sessionSchema, type Session, type SessionDefinitionInput } from '../../shared/session.ts';
import { percentile } from '../percentile.ts';
import { provenance } from '../provenance.ts';
import { writeResults } from '../results-folder.ts';
import { renderService, type KindResult, type MemoryResult, type ServiceResults, type WayResult } from './report.ts';
import { openConnections, sendMany, type Measured, type Target } from './traffic.ts';
import { startEdgeInWorkerd, type EdgeProcess } from './workerd.ts';

const isQuick = process.argv.includes('--quick');
const ROUNDS = isQuick ? 2 : 10;
const SAMPLING_MILLISECONDS = 20;
const READINESS_MILLISECONDS = 50;
const LONGEST_START_MILLISECONDS = 10_000;

interface Kind {
  readonly name: 'replayed' | 'taken';
  readonly batch: number;
  readonly inputs: number;
  /** Requests of one round on one way. */
  readonly requests: number;
  readonly atATime: number;
}

const KINDS: readonly Kind[] = [
  { name: 'replayed', batch: 4, inputs: 40, requests: 200, atATime: 1 },
  { name: 'replayed', batch: 4, inputs: 40, requests: 400, atATime: 8 },
  { name: 'taken', batch: 4, inputs: 40, requests: 100, atATime: 1 },
  { name: 'replayed', batch: 64, inputs: 4000, requests: 50, atATime: 1 },
  { name: 'replayed', batch: 64, inputs: 4000, requests: 50, atATime: 8 },
  { name: 'replayed', batch: 400, inputs: 12_500, requests: 8, atATime: 1 },
  { name: 'replayed', batch: 400, inputs: 12_500, requests: 8, atATime: 4 },
];
const LARGE = { batch: 1600, inputs: 12_500, atATime: 6, rounds: isQuick ? 1 : 5 };

const WAYS = ['edge', 'worker'] as const;
type Way = (typeof WAYS)[number];

const workerSecret = randomBytes(32).toString('hex');
const adminKey = randomBytes(32).toString('hex');
/** What every request to the edge carries. */
const AUTHORIZATION = { authorization: `Bearer ${adminKey}` };

/** One dense layer with one output: a body is as large as its inputs, and a step is little work. */
function definition(inputs: number): SessionDefinitionInput {
  return {
    layers: [{ name: 'fc', kind: 'dense', inputs, outputs: 1 }],
    optimizer: { metric: { kind: 'identity' }, coupling: 'value', batchCoupling: 'diagonal' },
  };
}

function stepBody(batch: number, inputs: number): Uint8Array {
  const filled = (name: string, shape: readonly number[]) => ({
    name,
    shape,
    values: new Float32Array(shape.reduce((size, extent) => size * extent, 1)).fill(0.5),
  });
  return encode([
    filled('losses', [batch]),
    filled('layers.fc.input', [batch, inputs]),
    filled('layers.fc.output_grad', [batch, 1]),
  ]);
}

/** @param base of the edge's API, or of the worker's */
async function createSession(base: string, inputs: number): Promise<Session> {
  // The edge chooses the identifier; who calls a worker chooses it himself.
  const isEdge = base.endsWith('/v1');
  const answer = await fetch(isEdge ? `${base}/sessions` : `${base}/sessions/${newSessionId()}`, {
    method: isEdge ? 'POST' : 'PUT',
    headers: { 'content-type': 'application/json', ...(isEdge ? AUTHORIZATION : {}) },
    body: JSON.stringify(definition(inputs)),
  });
  return sessionSchema.parse(await answer.json());
}

function resultOf(rounds: readonly Measured[]): WayResult {
  const latencies = rounds.flatMap((round) => round.latencies);
  const rates = rounds.map((round) => round.latencies.length / round.seconds);
  return {
    median: percentile(latencies, 0.5),
    percentile99: percentile(latencies, 0.99),
    requestsPerSecond: percentile(rates, 0.5),
  };
}

async function measure(edge: EdgeProcess, workerUrl: string, kind: Kind): Promise<KindResult> {
  const { name, batch, inputs, requests, atATime } = kind;
  const body = stepBody(batch, inputs);
  const agents: Record<Way, Agent> = { edge: openConnections(atATime), worker: openConnections(atATime) };
  const bases: Record<Way, string> = { edge: `${edge.url}/v1`, worker: workerUrl };
  const begin = async (way: Way): Promise<{ session: Session; taken: number }> => ({
    session: await createSession(bases[way], inputs),
    taken: 0,
  });
  const sessions = { edge: await begin('edge'), worker: await begin('worker') };
  const targets = (way: Way, count: number): Target[] => {
    const each = sessions[way];
    const next = (): number => (name === 'taken' ? each.taken++ : 0);
    return Array.from({ length: count }, () => ({
      url: `${bases[way]}/sessions/${each.session.id}/steps/${String(next())}`,
      method: 'PUT',
      body,
      headers: { 'content-type': SAFETENSORS_CONTENT_TYPE, ...(way === 'edge' ? AUTHORIZATION : {}) },
    }));
  };
  const measured: Record<Way, Measured[]> = { edge: [], worker: [] };
  // The first takes the step, opens the connections, and has the code compiled.
  for (const way of WAYS) await sendMany(targets(way, Math.min(requests, 20)), 1, agents[way]);
  for (let round = 0; round < ROUNDS; round++) {
    for (const way of round % 2 === 0 ? WAYS : WAYS.toReversed()) {
      measured[way].push(await sendMany(targets(way, requests), atATime, agents[way]));
    }
  }
  for (const agent of Object.values(agents)) agent.destroy();
  for (const way of WAYS)
    await fetch(`${bases[way]}/sessions/${sessions[way].session.id}`, {
      method: 'DELETE',
      headers: way === 'edge' ? AUTHORIZATION : {},
    });
  process.stdout.write(`${name}, ${String(body.length)} bytes, ${String(atATime)} at a time: measured\n`);
  return {
    name,
    bodyBytes: body.length,
    requests: ROUNDS * requests,
    atATime,
    edge: resultOf(measured.edge),
    worker: resultOf(measured.worker),
  };
}

/** workerd's memory while it forwards large bodies, each the first step of its session and then the same again. */
async function measureMemory(edge: EdgeProcess): Promise<MemoryResult> {
  const { batch, inputs, atATime, rounds } = LARGE;
  const body = stepBody(batch, inputs);
  const sessions = await Promise.all(Array.from({ length: atATime }, () => createSession(`${edge.url}/v1`, inputs)));
  const agent = openConnections(atATime);
  const targets = sessions.map(({ id }): Target => ({
    url: `${edge.url}/v1/sessions/${id}/steps/0`,
    method: 'PUT',
    body,
    headers: { 'content-type': SAFETENSORS_CONTENT_TYPE, ...AUTHORIZATION },
  }));
  const before = await edge.residentBytes();
  let largest = before;
  let sampling = Promise.resolve();
  const sampler = setInterval(() => {
    sampling = edge.residentBytes().then((bytes) => {
      largest = Math.max(largest, bytes);
    });
  }, SAMPLING_MILLISECONDS);
  for (let round = 0; round < rounds; round++) await sendMany(targets, atATime, agent);
  clearInterval(sampler);
  await sampling;
  agent.destroy();
  process.stdout.write('memory: measured\n');
  return { bodyBytes: body.length, atATime, rounds, before, largest, after: await edge.residentBytes() };
}

/** Waits until the edge has a worker. @throws Error in the edge's words if it gets none in time */
async function ready(edge: EdgeProcess): Promise<void> {
  const until = performance.now() + LONGEST_START_MILLISECONDS;
  for (;;) {
    const answer = await fetch(new URL('/readyz', edge.url));
    const said = await answer.text();
    if (answer.ok) return;
    if (performance.now() > until) throw new Error(said);
    await new Promise((resolve) => setTimeout(resolve, READINESS_MILLISECONDS));
  }
}

const edge = await startEdgeInWorkerd({ workerSecret, adminKey });
try {
  // As they are deployed: the one behind the edge is called with signatures. The other one is called as it is.
  const placed = await startWorker({
    port: 0,
    settings: { DDPNOPT_WORKER_SECRET: workerSecret, DDPNOPT_EDGE_URL: edge.url },
  });
  const alone = await startWorker({ port: 0 });
  try {
    await ready(edge);
    const kinds: KindResult[] = [];
    for (const kind of KINDS) kinds.push(await measure(edge, alone.ready.url, kind));
    const memory = await measureMemory(edge);
    const { machine, revision } = provenance('');
    const manifest = z.object({ version: z.string() });
    const file = new URL('../../node_modules/workerd/package.json', import.meta.url);
    const { version } = manifest.parse(JSON.parse(readFileSync(file, 'utf8')));
    const results: ServiceResults = {
      command: 'npm run bench:service',
      machine,
      revision,
      workerd: version,
      rounds: ROUNDS,
      kinds,
      memory,
    };
    if (!isQuick) {
      await writeResults('service', results, new Map([['service.md', renderService(results)]]));
    }
    process.stdout.write(`\n${renderService(results)}`);
  } finally {
    await Promise.all([placed.stop(), alone.stop()]);
  }
} finally {
  await edge.stop();
}
