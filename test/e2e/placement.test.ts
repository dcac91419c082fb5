/**
 * Sessions on several workers: the same contract for an edge in workerd with a Durable Object and for one under Node with SQLite.
 * Workers are killed, drained and held up in the middle of steps, and what the client gets is compared with a run that nothing disturbs.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as after } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { checkpointSchema } from '../../shared/checkpoint.ts';
import { EDGE_RUNTIMES, startEdge, type EdgeRuntime } from '../../deploy/local/edge.ts';
import { startStack, type LocalStack } from '../../deploy/local/stack.ts';
import { startWorker } from '../../deploy/local/worker.ts';
import { SAFETENSORS_CONTENT_TYPE } from '../../shared/safetensors.ts';
import { seededRandom } from '../../shared/random.ts';
import {
  sessionDefinitionSchema,
  sessionSchema,
  type Session,
  type SessionDefinitionInput,
} from '../../shared/session.ts';
import { newWorkerId } from '../../shared/worker-report.ts';
import { MODEL, randomStep } from '../conformance/bodies.ts';
import { startS3Server } from '../../bench/durability/s3-server.ts';
import {
  leaseFor,
  persistentStep,
  SECRET,
  signedCall,
  startPlacedService,
  type PlacedService,
  type WorkerStore,
} from './placed-service.ts';
import {
  call,
  create,
  describeSession,
  expectProblem,
  getStep,
  json,
  LAYERS,
  newSession,
  persistent,
  putStep,
  rawRequest,
  stepBody,
} from './support.ts';

const LAYERED: SessionDefinitionInput = { layers: LAYERS };
const HOSTED: SessionDefinitionInput = { mode: 'hosted', model: MODEL, loss: { kind: 'softmax-cross-entropy' } };

function bodiesOf(definition: SessionDefinitionInput, seed: number, count: number): Uint8Array<ArrayBuffer>[] {
  const random = seededRandom(seed);
  const complete = sessionDefinitionSchema.parse(definition);
  return Array.from({ length: count }, (_, n) => randomStep(complete, random, n));
}

const text = ({ bytes }: { readonly bytes: Uint8Array }): string => Buffer.from(bytes).toString('base64');

let undisturbed: LocalStack;
beforeAll(async () => {
  undisturbed = await startStack({ engine: 'reference', edge: 'node' });
});
afterAll(() => undisturbed.stop());

/** The replies of a run that nothing disturbs. */
async function unbrokenRun(definition: SessionDefinitionInput, bodies: readonly Uint8Array<ArrayBuffer>[]) {
  const { id } = await newSession(undisturbed.url, definition);
  const replies: string[] = [];
  for (const [n, body] of bodies.entries()) replies.push(text(await putStep(undisturbed.url, id, n, body)));
  return replies;
}

const STORES: Record<'bucket' | 'folder', () => Promise<WorkerStore>> = {
  bucket: async () => {
    const server = await startS3Server();
    onTestFinished(() => server.stop());
    return server;
  },
  folder: () => {
    const storage = mkdtempSync(join(tmpdir(), 'ddpnopt-'));
    onTestFinished(() => {
      rmSync(storage, { recursive: true, force: true });
    });
    return Promise.resolve({ storage, settings: {} });
  },
};

async function start(
  runtime: EdgeRuntime,
  store: keyof typeof STORES,
  count: number,
  heartbeat?: number,
): Promise<PlacedService> {
  const { storage, settings } = await STORES[store]();
  const service = await startPlacedService(runtime, { storage, settings }, count, heartbeat);
  onTestFinished(() => service.stop());
  return service;
}

/** Milliseconds, where a worker is to count as lost soon. */
const BRIEF_HEARTBEAT = 1000;

/** The tests of a runtime are the life of one service, from its first worker to its last. */
describe.each(EDGE_RUNTIMES)('an edge in %s', (runtime) => {
  let folder: string;
  let service: PlacedService;
  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), 'ddpnopt-'));
    service = await startPlacedService(runtime, { storage: folder, settings: {} }, 0);
  });
  afterAll(async () => {
    await service.stop();
    rmSync(folder, { recursive: true, force: true });
  });

  it('without a worker: unavailable, until one comes', async () => {
    const { url, addWorker } = service;
    expectProblem(await create(url, LAYERED), { status: 503, code: 'worker_unavailable' });
    expectProblem(await call(url, 'GET', '/readyz'), { status: 503, code: 'worker_unavailable' });
    await addWorker();
    const { id } = await newSession(url, LAYERED);
    expect((await call(url, 'DELETE', `/v1/sessions/${id}`)).status).toBe(204);
    await addWorker();
  });

  it('the API from end to end', async () => {
    const { url, workers, known } = service;
    expect((await call(url, 'GET', '/readyz')).status).toBe(200);
    expect((await call(url, 'GET', '/docs/swagger-ui.css')).headers.get('content-type')).toContain('text/css');

    const sessions: Session[] = [];
    for (const definition of [LAYERED, HOSTED, LAYERED, HOSTED]) sessions.push(await newSession(url, definition));
    // Both get some.
    for (const { ready } of workers) {
      const health = (await (await fetch(`${ready.url}/healthz`)).json()) as { readonly sessions: number };
      expect(health.sessions).toBeGreaterThan(0);
    }
    expect(await known()).toMatchObject([
      { isUsable: true, isDraining: false, engine: 'reference' },
      { isUsable: true, isDraining: false, engine: 'reference' },
    ]);
    for (const [index, { id, mode }] of sessions.entries()) {
      const definition = mode === 'hosted' ? HOSTED : LAYERED;
      const bodies = bodiesOf(definition, index, 3);
      const replies = await unbrokenRun(definition, bodies);
      for (const [n, body] of bodies.entries()) expect(text(await putStep(url, id, n, body))).toBe(replies[n]);
      expect(text(await getStep(url, id, 2))).toBe(replies[2]);
      expect(await describeSession(url, id)).toMatchObject({ nextStep: 3, durableStep: 3 });
      expectProblem(await putStep(url, id, 5, bodies[0]!), { status: 412, code: 'step_out_of_order' });
      expectProblem(await putStep(url, id, 2, bodies[0]!), { status: 422, code: 'step_conflict' });
    }
    const hosted = sessions[1]!;
    expect((await call(url, 'GET', `/v1/sessions/${hosted.id}/weights`)).status).toBe(200);

    // Whichever worker is asked has every checkpoint.
    for (const { id } of sessions) {
      const made = await call(url, 'POST', `/v1/sessions/${id}/checkpoints`);
      expect(made.status).toBe(201);
      const checkpoint = checkpointSchema.parse(json(made));
      for (const { ready } of workers) {
        const path = `/checkpoints/${checkpoint.id}`;
        expect((await signedCall(ready.url, 'GET', path)).bytes).toHaveLength(checkpoint.bytes);
      }
      expect(json(await call(url, 'GET', `/v1/sessions/${id}/checkpoints`))).toEqual({ checkpoints: [checkpoint] });
      const resumed = await create(url, { fromCheckpoint: checkpoint.id });
      const { id: copy } = sessionSchema.parse(json(resumed));
      expect(await describeSession(url, copy)).toMatchObject({ nextStep: 3 });
      expect((await call(url, 'DELETE', `/v1/sessions/${copy}`)).status).toBe(204);
      expect((await call(url, 'DELETE', `/v1/checkpoints/${checkpoint.id}`)).status).toBe(204);
    }
    for (const { id } of sessions) {
      expect((await call(url, 'DELETE', `/v1/sessions/${id}`)).status).toBe(204);
      expectProblem(await call(url, 'GET', `/v1/sessions/${id}`), { status: 404, code: 'session_not_found' });
    }
  });

  it('a client that breaks off in the middle of a body does not move its session', async () => {
    const { url, owner } = service;
    const wide = [{ name: 'wide', kind: 'dense', inputs: 16_000, outputs: 4 } as const];
    const { id } = await newSession(url, { layers: wide, optimizer: { metric: { kind: 'identity' } } });
    const before = await owner();
    const body = stepBody(1, wide, 50);
    for (const then of ['end', 'destroy'] as const) {
      const headers = { 'content-type': SAFETENSORS_CONTENT_TYPE, 'content-length': String(body.length) };
      const sent = [body.subarray(0, 1_000_000)];
      await rawRequest(url, { method: 'PUT', path: `/v1/sessions/${id}/steps/0`, headers, body: sent, then });
    }
    expect((await putStep(url, id, 0, body)).status).toBe(200);
    expect(await owner()).toBe(before);
    await call(url, 'DELETE', `/v1/sessions/${id}`);
  });

  it('a worker that is told to stop: its sessions go on elsewhere, and none is given to it', async () => {
    const { url, owner, workers, known } = service;
    const bodies = bodiesOf(LAYERED, 12, 8);
    const replies = await unbrokenRun(LAYERED, bodies);
    const { id } = await newSession(url, LAYERED);
    for (let n = 0; n < 4; n++) expect(text(await persistentStep(url, id, n, bodies[n]!))).toBe(replies[n]);
    const first = await owner();
    const stopped = first.stop();
    for (let n = 4; n < 8; n++) expect(text(await persistentStep(url, id, n, bodies[n]!))).toBe(replies[n]);
    await stopped;
    expect(first.errors()).not.toContain('storage_failed');
    expect((await known()).map((worker) => worker.url)).toEqual(
      workers.filter((worker) => worker !== first).map(({ ready }) => ready.url),
    );
    expect((await call(url, 'DELETE', `/v1/sessions/${id}`)).status).toBe(204);
    const { id: other } = await newSession(url, LAYERED);
    expect((await call(url, 'DELETE', `/v1/sessions/${other}`)).status).toBe(204);
  });

  it('its memory of workers and sessions survives it', async () => {
    const { url, addWorker, owner, restartEdge, known } = service;
    const { id } = await newSession(url, LAYERED);
    const [body, next] = bodiesOf(LAYERED, 14, 2);
    expect((await persistentStep(url, id, 0, body!)).status).toBe(200);
    const last = await owner();
    await last.kill();
    await restartEdge('kept');
    expect((await known()).map((worker) => worker.url)).toEqual([last.ready.url]);
    expectProblem(await putStep(url, id, 1, next!), { status: 503, code: 'worker_unavailable' });
    // Another one on the same store finds the session.
    await addWorker();
    expect((await persistentStep(url, id, 1, next!)).status).toBe(200);
  });
});

// Runs meet the third pair, an edge under Node and a folder, in placed-runs.test.ts.
describe.each([
  { runtime: 'workerd', store: 'folder' },
  { runtime: 'node', store: 'bucket' },
] as const)('an edge in $runtime, workers on one $store', ({ runtime, store }) => {
  it('kill -9 in the middle of steps: the session goes on elsewhere, with the same bytes', async () => {
    const { url, owner, addWorker } = await start(runtime, store, 2);
    const STEPS = 16;
    const random = seededRandom(3);
    const bodies = bodiesOf(HOSTED, 11, STEPS);
    const replies = await unbrokenRun(HOSTED, bodies);
    const { id } = await newSession(url, HOSTED);
    for (const [n, body] of bodies.entries()) {
      const victim = n % 8 === 5 ? await owner() : null;
      const step = persistentStep(url, id, n, body);
      if (victim !== null) {
        await after(4 * random());
        await victim.kill();
        await addWorker();
      }
      expect(text(await step)).toBe(replies[n]);
      expect(text(await persistent(() => getStep(url, id, n)))).toBe(replies[n]);
    }
    expect(await describeSession(url, id)).toMatchObject({ nextStep: STEPS, durableStep: STEPS });
  });

  it('a worker that hangs and wakes up after its session has moved can neither apply nor acknowledge a step', async () => {
    const { url, owner, workers, known, addWorker } = await start(runtime, store, 2, BRIEF_HEARTBEAT);
    const bodies = bodiesOf(LAYERED, 13, 12);
    const replies = await unbrokenRun(LAYERED, bodies);
    const { id } = await newSession(url, LAYERED);
    for (let n = 0; n < 4; n++) expect(text(await persistentStep(url, id, n, bodies[n]!))).toBe(replies[n]);
    const first = await owner();
    const firstId = (await known()).find((worker) => worker.url === first.ready.url)!.id;
    process.kill(first.pid, 'SIGSTOP');
    // Sent to the worker that hangs; its lease ends, and the session moves.
    for (let n = 4; n < 8; n++) expect(text(await persistentStep(url, id, n, bodies[n]!))).toBe(replies[n]);
    process.kill(first.pid, 'SIGCONT');

    // In the epoch that it knows it computes the step, and is refused by the store.
    const lease = await leaseFor(id, firstId, 1);
    const late = await signedCall(first.ready.url, 'PUT', `/sessions/${id}/steps/4`, { lease, body: bodies[5]! });
    expect(json(late)).toMatchObject({ code: 'session_moved', status: 503 });
    const again = await signedCall(first.ready.url, 'PUT', `/sessions/${id}/steps/4`, { lease, body: bodies[4]! });
    expect(json(again)).toMatchObject({ code: 'session_moved', status: 503 });

    expect(await describeSession(url, id)).toMatchObject({ nextStep: 8 });
    for (let n = 8; n < 10; n++) expect(text(await persistentStep(url, id, n, bodies[n]!))).toBe(replies[n]);
    // Nothing that it wrote is found by who comes next, either.
    await addWorker();
    await Promise.all(workers.slice(0, 2).map((worker) => worker.kill()));
    for (let n = 10; n < 12; n++) expect(text(await persistentStep(url, id, n, bodies[n]!))).toBe(replies[n]);
  });
});

it('a lost worker’s session that nobody asks for is taken over, so that it expires in order; also by a directory that has lost its memory', async () => {
  const { url, owner, workers, known, restartEdge } = await start('node', 'folder', 2, BRIEF_HEARTBEAT);
  const { id } = await newSession(url, LAYERED);
  const lost = await owner();
  await lost.kill();
  const heir = workers.find((worker) => worker !== lost)!;
  const sessions = async () =>
    ((await (await fetch(`${heir.ready.url}/healthz`)).json()) as { sessions: number }).sessions;
  await expect.poll(sessions).toBe(1);

  // The directory begins anew with the first epoch, and learns from the worker that there have been others.
  await restartEdge('lost');
  await expect.poll(async () => (await known()).map((worker) => worker.url)).toEqual([heir.ready.url]);
  expect(await describeSession(url, id)).toMatchObject({ nextStep: 0 });
  expect((await persistentStep(url, id, 0, bodiesOf(LAYERED, 16, 1)[0]!)).status).toBe(200);
});

describe('who may call whom', () => {
  it('a worker with a secret answers nobody but the edge, and of sessions only with a lease of its own', async () => {
    const { url, workers, known } = await start('node', 'folder', 1);
    const { id } = await newSession(url, LAYERED);
    const worker = workers[0]!.ready.url;
    const { id: workerId } = (await known())[0]!;
    const path = `/sessions/${id}`;
    const lease = await leaseFor(id, workerId, 1);
    const refused = { code: 'call_refused', status: 401 };
    expect(json(await call(worker, 'GET', path))).toMatchObject(refused);
    expect(json(await signedCall(worker, 'GET', path))).toMatchObject(refused);
    expect(json(await signedCall(worker, 'GET', path, { lease: `${lease}0` }))).toMatchObject(refused);
    expect(json(await signedCall(worker, 'GET', path.replace('ses_', 'ses_0'), { lease }))).toMatchObject(refused);
    expect(json(await signedCall(worker, 'GET', path, { lease: await leaseFor(id, newWorkerId(), 1) }))).toMatchObject({
      code: 'session_moved',
    });
    expect((await signedCall(worker, 'GET', path, { lease })).status).toBe(200);
    // Anybody may ask whether it is alive.
    expect((await call(worker, 'GET', '/healthz')).status).toBe(200);
    // At the edge, too, only who has the secret registers.
    expect(json(await call(url, 'GET', '/workers'))).toMatchObject(refused);
    expect(json(await call(url, 'DELETE', `/workers/${workerId}`))).toMatchObject(refused);
    expect(json(await call(url, 'PUT', `/workers/${workerId}`, { body: '{}' }))).toMatchObject(refused);
    expect(await known()).toHaveLength(1);
  });

  it.each(EDGE_RUNTIMES)('an edge in %s signs its calls to a worker that has not registered', async (runtime) => {
    const worker = await startWorker({ port: 0, engine: 'reference', settings: { DDPNOPT_WORKER_SECRET: SECRET } });
    onTestFinished(() => worker.kill());
    const edge = async (secret: string) => {
      const settings = { DDPNOPT_WORKER_SECRET: secret };
      const process = await startEdge({ port: 0, workerUrl: worker.ready.url, runtime, settings });
      onTestFinished(() => process.kill());
      return process.ready.url;
    };
    const [right, wrong] = await Promise.all([edge(SECRET), edge(`${SECRET}!`)]);
    const { id } = await newSession(right, LAYERED);
    expect((await putStep(right, id, 0, bodiesOf(LAYERED, 15, 1)[0]!)).status).toBe(200);
    expectProblem(await call(wrong, 'GET', `/v1/sessions/${id}`), {
      status: 502,
      code: 'worker_protocol',
      mentions: ['its signature is not that of this call'],
    });
    expectProblem(await call(right, 'GET', '/workers'), { status: 404, code: 'route_not_found' });
  });

  it('without a secret a worker binds no address that others reach, and nobody registers', async () => {
    const options = { port: 0, engine: 'reference' };
    for (const settings of [{ DDPNOPT_WORKER_HOST: '0.0.0.0' }, { DDPNOPT_EDGE_URL: 'http://127.0.0.1:9' }]) {
      await expect(startWorker({ ...options, settings })).rejects.toThrow(/takes DDPNOPT_WORKER_SECRET/);
    }
    const short = { DDPNOPT_WORKER_SECRET: 'short' };
    await expect(startWorker({ ...options, settings: short })).rejects.toThrow(/at least 16 characters/);
    await expect(startEdge({ port: 0, workerUrl: '', runtime: 'node' })).rejects.toThrow(/takes DDPNOPT_WORKER_SECRET/);
  });
});
