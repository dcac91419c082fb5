/** Requests that wait in the queue: cancelled, or left by their clients, at the worker and through the edge. */
import { request as httpRequest } from 'node:http';
import { connect } from 'node:net';
import { afterAll, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest';
import { DdpnoptClient, DdpnoptError } from '../../clients/js/index.ts';
import type { ServiceProcess } from '../../deploy/local/child.ts';
import { startEdge } from '../../deploy/local/edge.ts';
import { encode, SAFETENSORS_CONTENT_TYPE } from '../../shared/safetensors.ts';
import { newSessionId, type SessionDefinitionInput } from '../../shared/session.ts';
import { startHeldWorker, type HeldWorker } from './held-worker.ts';
import {
  BATCH,
  call,
  describeSession,
  expectProblem,
  getStep,
  json,
  LAYERS,
  newSession,
  putStep,
  stepBody,
  type Answer,
} from './support.ts';

const HOSTED: SessionDefinitionInput = {
  mode: 'hosted',
  model: { input: [2], layers: [{ kind: 'dense', name: 'a', outputs: 1 }] },
  loss: { kind: 'mse' },
};
const SAMPLES = encode([{ name: 'x', shape: [1, 2], values: Float32Array.of(1, 2) }]);

let worker: HeldWorker;
let edge: ServiceProcess;
beforeAll(async () => {
  worker = await startHeldWorker();
  edge = await startEdge({ port: 0, workerUrl: worker.url });
});
afterAll(async () => {
  await edge.stop();
  await worker.stop();
  expect(worker.defects).toEqual([]);
});

let id: string;
let neighbour: string;
let hosted: string;
/** Lets the device go on, on which a step of another session is being computed. */
let release: () => void;
beforeEach(async () => {
  const { url } = edge.ready;
  const sessions = [
    await newSession(url),
    await newSession(url),
    await newSession(url),
    await newSession(url, HOSTED),
  ] as const;
  const [busy] = sessions;
  [, { id }, { id: neighbour }, { id: hosted }] = sessions;
  release = worker.hold();
  worker.computed.length = 0;
  const computing = putStep(url, busy.id, 0, stepBody(9));
  await eventually(() => {
    expect(worker.computed).toEqual(['step']);
  });
  return async () => {
    release();
    expect((await computing).status).toBe(200);
    for (const session of sessions) await call(url, 'DELETE', `/v1/sessions/${session.id}`);
  };
});

/** Starts step 0 of the session on a device that was free, and holds it there. */
async function computing<Request>(send: () => Request): Promise<{ request: Request }> {
  release();
  await open(0);
  release = worker.hold();
  const request = send();
  await eventually(() => {
    expect(worker.computed).toEqual(['step', 'step']);
  });
  return { request };
}

function eventually(check: () => void): Promise<void> {
  return vi.waitFor(check, { interval: 5, timeout: 60_000 });
}
const queued = (count: number): Promise<void> =>
  eventually(() => {
    expect(worker.queue.length).toBe(count);
  });
/** Requests at the worker, with that of the other session. */
const open = (count: number): Promise<void> =>
  eventually(() => {
    expect(worker.open.size).toBe(count);
  });

/** What a session that was never disturbed replies to its first step. */
async function undisturbedReply(seed: number): Promise<Uint8Array> {
  const { id: undisturbed } = await newSession(edge.ready.url);
  const { bytes } = await putStep(edge.ready.url, undisturbed, 0, stepBody(seed));
  await call(edge.ready.url, 'DELETE', `/v1/sessions/${undisturbed}`);
  return bytes;
}

async function expectFirstReply(answer: Answer, seed: number): Promise<void> {
  expect(answer.status).toBe(200);
  expect(Buffer.compare(answer.bytes, await undisturbedReply(seed))).toBe(0);
}

describe('DELETE …/steps/{n}', () => {
  const cancel = (n: number | string): Promise<Answer> =>
    call(edge.ready.url, 'DELETE', `/v1/sessions/${id}/steps/${n}`);
  const CANCELLED = { status: 409, code: 'step_cancelled', param: 'n', mentions: ['Step 0'] } as const;

  it('takes a step that waits out of the queue; the session is as it was', async () => {
    const step = putStep(edge.ready.url, id, 0, stepBody(1));
    await queued(1);
    expect(await cancel(0)).toMatchObject({ status: 204, bytes: new Uint8Array(0) });
    expect(worker.queue.length).toBe(0);
    expectProblem(await step, CANCELLED);
    expect(await describeSession(edge.ready.url, id)).toMatchObject({ nextStep: 0, metrics: null });
    release();
    await open(0);
    expect(worker.computed).toEqual(['step']);
    await expectFirstReply(await putStep(edge.ready.url, id, 0, stepBody(1)), 1);
  });

  it('answers everybody who waits for it, whatever they sent', async () => {
    const steps = [1, 1, 1, 2, 3].map((seed) => putStep(edge.ready.url, id, 0, stepBody(seed)));
    await queued(3);
    await open(6);
    expect((await cancel(0)).status).toBe(204);
    for (const step of steps) expectProblem(await step, CANCELLED);
    expect(worker.queue.length).toBe(0);
    release();
    await expectFirstReply(await putStep(edge.ready.url, id, 0, stepBody(2)), 2);
  });

  it('reaches a step whose body is still on its way', async () => {
    const body = stepBody(1);
    const headers = { 'content-type': SAFETENSORS_CONTENT_TYPE, 'content-length': body.length };
    const path = `/v1/sessions/${id}/steps/0`;
    const upload = httpRequest(new URL(path, edge.ready.url), { method: 'PUT', headers });
    const status = new Promise((resolve) =>
      upload.once('response', ({ statusCode }) => {
        resolve(statusCode);
      }),
    );
    upload.write(body.subarray(0, -8));
    await open(2);
    expect((await cancel(0)).status).toBe(204);
    upload.end(body.subarray(-8));
    expect(await status).toBe(409);
    expect(worker.queue.length).toBe(0);
    expect((await describeSession(edge.ready.url, id)).nextStep).toBe(0);
  });

  it('leaves what else waits where it is', async () => {
    const { url } = edge.ready;
    const first = putStep(url, id, 0, stepBody(1));
    await queued(1);
    const theirs = putStep(url, neighbour, 0, stepBody(2));
    await queued(2);
    expect((await cancel(0)).status).toBe(204);
    expectProblem(await first, CANCELLED);
    expect(worker.queue.length).toBe(1);
    release();
    await expectFirstReply(await theirs, 2);
  });

  it('is answered alike when nothing waits, any number of times', async () => {
    for (let i = 0; i < 3; i++) expect((await cancel(0)).status).toBe(204);
    release();
    await expectFirstReply(await putStep(edge.ready.url, id, 0, stepBody(1)), 1);
  });

  it('refuses a step that is being computed, which is then applied', async () => {
    const { request: step } = await computing(() => putStep(edge.ready.url, id, 0, stepBody(1)));
    const expected = { status: 409, code: 'step_in_progress', param: 'n', mentions: ['Step 0'] } as const;
    for (let i = 0; i < 2; i++) expectProblem(await cancel(0), expected);
    release();
    await expectFirstReply(await step, 1);
    expect((await describeSession(edge.ready.url, id)).nextStep).toBe(1);
  });

  it('refuses a step that is applied, and one that cannot wait yet', async () => {
    release();
    const { bytes } = await putStep(edge.ready.url, id, 0, stepBody(1));
    const applied = { status: 409, code: 'step_applied', param: 'n', mentions: ['Step 0'] } as const;
    for (let i = 0; i < 2; i++) expectProblem(await cancel(0), applied);
    const ahead = expectProblem(await cancel(2), { status: 412, code: 'step_out_of_order', param: 'n' });
    expect(ahead.expectedStep).toBe(1);
    expectProblem(await cancel('x'), { status: 422, code: 'invalid_parameter', param: 'n' });
    // Step 0 stays applied, and its reply kept.
    expect(Buffer.compare((await getStep(edge.ready.url, id, 0)).bytes, bytes)).toBe(0);
    expect((await cancel(1)).status).toBe(204);
  });

  it('does not know a session that does not exist', async () => {
    const answer = await call(edge.ready.url, 'DELETE', '/v1/sessions/ses_0/steps/0');
    expectProblem(answer, { status: 404, code: 'session_not_found', param: 'id' });
  });
});

describe.each(['worker', 'edge'] as const)('a client of the %s that goes away', (where) => {
  /** A request whose client breaks off the connection when it is told to. */
  function abandonable(
    method: string,
    path: string,
    body = new Uint8Array(0),
    type: string = SAFETENSORS_CONTENT_TYPE,
  ): () => void {
    const { hostname, port, pathname } =
      where === 'edge' ? new URL(`/v1${path}`, edge.ready.url) : new URL(path, worker.url);
    const headers = { host: hostname, 'content-type': type, 'content-length': body.length };
    const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`);
    const socket = connect(Number(port), hostname);
    socket.write(`${method} ${pathname} HTTP/1.1\r\n${lines.join('')}\r\n`);
    socket.write(body);
    return () => {
      // workerd takes a connection that only stops sending for one that still wants its answer.
      if (where === 'edge') socket.resetAndDestroy();
      else socket.destroy();
    };
  }
  const put = (seed: number) => abandonable('PUT', `/sessions/${id}/steps/0`, stepBody(seed));

  it('takes its waiting step with it; sent again it is applied', async () => {
    const leave = put(1);
    await queued(1);
    leave();
    await queued(0);
    await open(1);
    expect((await describeSession(edge.ready.url, id)).nextStep).toBe(0);
    release();
    await open(0);
    expect(worker.computed).toEqual(['step']);
    await expectFirstReply(await putStep(edge.ready.url, id, 0, stepBody(1)), 1);
  });

  it('does not take it from others that wait for the same step', async () => {
    const leave = put(1);
    await queued(1);
    const copies = [1, 2].map(() => putStep(edge.ready.url, id, 0, stepBody(1)));
    await open(4);
    leave();
    await open(3);
    expect(worker.queue.length).toBe(1);
    release();
    for (const copy of copies) await expectFirstReply(await copy, 1);
    expect(worker.computed.filter((kind) => kind === 'step')).toHaveLength(2 + copies.length);
    expect((await describeSession(edge.ready.url, id)).nextStep).toBe(1);
  });

  it('leaves its step to be computed once that has begun, and gets the reply when it asks again', async () => {
    const { request: leave } = await computing(() => put(1));
    leave();
    await open(0);
    // A copy that comes meanwhile is answered from the one that is computed.
    const copy = putStep(edge.ready.url, id, 0, stepBody(1));
    await open(1);
    release();
    const answer = await copy;
    expect(worker.computed).toEqual(['step', 'step']);
    expect(Buffer.compare((await getStep(edge.ready.url, id, 0)).bytes, answer.bytes)).toBe(0);
    expect((await describeSession(edge.ready.url, id)).nextStep).toBe(1);
    await expectFirstReply(answer, 1);
  });

  it('leaves no prediction and no weights to be computed', async () => {
    const requests = [
      abandonable('POST', `/sessions/${hosted}/predictions`, SAMPLES),
      abandonable('GET', `/sessions/${hosted}/weights`),
    ];
    await queued(2);
    for (const leave of requests) leave();
    await queued(0);
    await open(1);
    release();
    await open(0);
    expect(worker.computed).toEqual(['step']);
  });

  it('leaves no session to be created', async () => {
    const sessions = async (): Promise<unknown> => json(await call(edge.ready.url, 'GET', '/v1/sessions'));
    const before = await sessions();
    const order = new TextEncoder().encode(JSON.stringify({ layers: LAYERS }));
    const [method, path] = where === 'edge' ? ['POST', '/sessions'] : ['PUT', `/sessions/${newSessionId()}`];
    const leave = abandonable(method, path, order, 'application/json');
    await queued(1);
    leave();
    await queued(0);
    await open(1);
    expect(await sessions()).toEqual(before);
    release();
    await open(0);
  });

  it('makes room in the queue', async () => {
    const leaves = [1, 2, 3, 4].map(put);
    await queued(4);
    expectProblem(await putStep(edge.ready.url, id, 0, stepBody(5)), { status: 429, code: 'queue_full' });
    leaves[0]!();
    await queued(3);
    const accepted = putStep(edge.ready.url, id, 0, stepBody(5));
    await queued(4);
    for (const leave of leaves.slice(1)) leave();
    await queued(1);
    release();
    await expectFirstReply(await accepted, 5);
  });
});

describe('the client library', () => {
  const client = (): DdpnoptClient => new DdpnoptClient({ url: edge.ready.url });
  const values = (width: number): Float64Array => new Float64Array(BATCH * width).fill(0.5);
  const INPUT = {
    losses: new Float64Array(BATCH).fill(1),
    layers: {
      fc1: { input: values(5), outputGradient: values(4) },
      fc2: { input: values(4), outputGradient: values(3) },
    },
  };

  it('cancels the step that waits, and takes it again', async () => {
    const session = await client().openSession(id);
    const step = session.step(INPUT).catch((reason: unknown) => reason);
    await queued(1);
    await session.cancelStep();
    const reason = await step;
    expect(reason).toBeInstanceOf(DdpnoptError);
    expect(reason).toMatchObject({ problem: { code: 'step_cancelled' } });
    release();
    expect((await session.step(INPUT)).metrics.step).toBe(0);
  });

  it('says when it is too late', async () => {
    const session = await client().openSession(id);
    const { request: step } = await computing(() => session.step(INPUT));
    await expect(session.cancelStep()).rejects.toMatchObject({ problem: { code: 'step_in_progress' } });
    release();
    expect((await step).metrics.step).toBe(0);
    await session.cancelStep();
    expect(session.nextStep).toBe(1);
  });
});
