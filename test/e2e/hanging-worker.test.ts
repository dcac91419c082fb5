/** A worker that takes connections and never answers: nobody waits for it for ever, whatever was asked. */
import { createServer, type RequestListener, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import type { ServiceProcess } from '../../deploy/local/child.ts';
import { EDGE_RUNTIMES, startEdge } from '../../deploy/local/edge.ts';
import { newCheckpointId } from '../../shared/checkpoint.ts';
import { SOLVE_TENSOR } from '../../shared/kernel-solve.ts';
import { encode, SAFETENSORS_CONTENT_TYPE } from '../../shared/safetensors.ts';
import { newSessionId } from '../../shared/session.ts';
import { startPlacedService } from './placed-service.ts';
import {
  call,
  create,
  expectProblem,
  getStep,
  json,
  LAYERS,
  newSession,
  persistent,
  putStep,
  stepBody,
} from './support.ts';

const SETTINGS = { DDPNOPT_ANSWER_MILLISECONDS: '300' };
const TIMEOUT = { status: 504, code: 'worker_timeout', mentions: ['0.3 seconds'] } as const;
/** Enough bytes that they cannot all wait in buffers between client, edge and worker. */
const LARGE = encode([{ name: 'losses', shape: [8_000_000], values: new Float32Array(8_000_000) }]);
/** More than the edge solves itself. */
const SYSTEMS = encode([
  { name: 'losses', shape: [300], values: new Float32Array(300).fill(1) },
  { name: SOLVE_TENSOR.grams, shape: [1, 45_150], values: new Float32Array(45_150) },
]);

function sayAlive(response: ServerResponse): void {
  response.writeHead(200, { 'content-type': 'application/json' }).end('{"status":"ok"}');
}

describe.each(EDGE_RUNTIMES)('an edge in %s whose one worker', (runtime) => {
  let server: Server;
  let edge: ServiceProcess;
  let answer: RequestListener;
  const arrived: string[] = [];
  beforeAll(async () => {
    server = createServer((request, response) => {
      arrived.push(`${String(request.method)} ${String(request.url)}`);
      answer(request, response);
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const workerUrl = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    edge = await startEdge({ port: 0, workerUrl, runtime, settings: SETTINGS });
  });
  afterAll(async () => {
    await edge.stop();
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  });

  it('never answers: every request ends with a problem that may pass', async () => {
    answer = () => undefined;
    const { url } = edge.ready;
    const [session, checkpoint] = [newSessionId(), newCheckpointId()];
    const type = SAFETENSORS_CONTENT_TYPE;
    const answers = await Promise.all([
      call(url, 'GET', '/readyz'),
      call(url, 'GET', '/v1/sessions'),
      create(url, { layers: LAYERS }),
      call(url, 'GET', `/v1/sessions/${session}`),
      call(url, 'DELETE', `/v1/sessions/${session}`),
      call(url, 'GET', `/v1/sessions/${session}/events`),
      getStep(url, session, 0),
      putStep(url, session, 0, stepBody(1)),
      call(url, 'GET', `/v1/checkpoints/${checkpoint}`),
      call(url, 'DELETE', `/v1/checkpoints/${checkpoint}`),
      call(url, 'POST', '/v1/checkpoints', { body: LARGE, type }),
      call(url, 'POST', '/v1/kernel/solve', { body: SYSTEMS, type }),
    ]);
    for (const each of answers) expect(expectProblem(each, TIMEOUT).retryable).toBe(true);
  });

  it('answers with nothing: that is said, not passed on', async () => {
    answer = (_, response) =>
      response.writeHead(200, { 'content-type': SAFETENSORS_CONTENT_TYPE, 'content-length': '0' }).end();
    const step = await getStep(edge.ready.url, newSessionId(), 0);
    expectProblem(step, { status: 502, code: 'worker_protocol', mentions: ['an empty body'] });
  });

  it.each([
    { what: 'does not go on', end: () => undefined, expected: { ...TIMEOUT, mentions: ['begun', '0.3 seconds'] } },
    {
      what: 'breaks off',
      end: (response: ServerResponse) => response.socket?.resetAndDestroy(),
      expected: { status: 503, code: 'worker_unavailable', mentions: ['broke off'] },
    },
  ] as const)('begins to answer, and $what: that may pass', async ({ end, expected }) => {
    const { url } = edge.ready;
    const begin =
      (status: number, type: string): RequestListener =>
      (request, response) => {
        if (request.url === '/healthz') {
          sayAlive(response);
          return;
        }
        response.writeHead(status, { 'content-type': type, 'content-length': '1000' });
        response.write('{', () => end(response));
      };
    const requests = [
      { answered: begin(200, 'application/json'), send: () => call(url, 'GET', `/v1/sessions/${newSessionId()}`) },
      { answered: begin(200, SAFETENSORS_CONTENT_TYPE), send: () => getStep(url, newSessionId(), 0) },
      { answered: begin(409, 'application/problem+json'), send: () => getStep(url, newSessionId(), 0) },
    ];
    for (const { answered, send } of requests) {
      answer = answered;
      expect(expectProblem(await send(), expected).retryable).toBe(true);
    }
  });

  it('computes for long, and says that it is alive: its answer is waited for', async () => {
    arrived.length = 0;
    const isAsked = Promise.withResolvers<undefined>();
    answer = (request, response) => {
      if (request.url !== '/healthz') {
        void isAsked.promise.then(() => response.writeHead(404, { 'content-type': 'text/html' }).end('no'));
        return;
      }
      sayAlive(response);
      if (arrived.filter((name) => name === 'GET /healthz').length === 3) isAsked.resolve(undefined);
    };
    // A worker that is late to say so is asked again.
    const step = await persistent(() => getStep(edge.ready.url, newSessionId(), 0));
    expectProblem(step, { status: 502, code: 'worker_protocol' });
  });
});

it.each(EDGE_RUNTIMES)(
  'an edge in %s with two workers, one of which hangs: the others are asked after the first request',
  async (runtime) => {
    const storage = mkdtempSync(join(tmpdir(), 'ddpnopt-'));
    // Long before the worker that hangs counts as lost, the other one, should it be late to answer, is heard again.
    const service = await startPlacedService(runtime, { storage, settings: {} }, 2, 10_000, SETTINGS);
    onTestFinished(async () => {
      await service.stop();
      rmSync(storage, { recursive: true, force: true });
    });
    const { url, owner } = service;
    await newSession(url);
    const hanging = await owner();
    process.kill(hanging.pid, 'SIGSTOP');
    expectProblem(await call(url, 'GET', '/v1/sessions'), TIMEOUT);
    const listed = await persistent(() => call(url, 'GET', '/v1/sessions'));
    expect(listed.status).toBe(200);
    expect(json(listed)).toMatchObject({ total: 0 });
    await expect.poll(async () => (await call(url, 'GET', '/readyz')).status).toBe(200);
  },
);
