/** A session from its creation to its end, and a worker that goes away. */
import { createServer, type RequestListener, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { ServiceProcess } from '../../deploy/local/child.ts';
import { EDGE_RUNTIMES, startEdge } from '../../deploy/local/edge.ts';
import { startStack, type LocalStack } from '../../deploy/local/stack.ts';
import { startWorker } from '../../deploy/local/worker.ts';
import { readHeader, SAFETENSORS_CONTENT_TYPE } from '../../shared/safetensors.ts';
import { stepMetricsSchema } from '../../shared/session.ts';
import {
  BATCH,
  call,
  create,
  describeSession,
  expectProblem,
  getStep,
  json,
  LAYERS,
  newSession,
  putStep,
  stepBody,
  stepTensors,
} from './support.ts';

const NOBODY = 'ses_0123456789abcdef0123456789abcdef';

describe('with a worker', () => {
  let stack: LocalStack;
  beforeAll(async () => {
    stack = await startStack({ engine: 'reference' });
  });
  afterAll(() => stack.stop());

  it('create, get, step, get the reply again, delete, gone', async () => {
    const definition = { layers: LAYERS, policyEncoding: 'sample-factors' } as const;
    const { id, createdAt } = await newSession(stack.url, definition);
    expect(await describeSession(stack.url, id)).toMatchObject({ id, nextStep: 0, metrics: null, createdAt });
    expectProblem(await getStep(stack.url, id, 0), {
      status: 412,
      code: 'step_out_of_order',
      mentions: ['Step 0 has not been taken'],
    });

    const put = await putStep(stack.url, id, 0, stepBody(1));
    expect(put.status).toBe(200);
    expect(put.headers.get('content-type')).toBe(SAFETENSORS_CONTENT_TYPE);
    expect(put.headers.get('content-length')).toBe(String(put.bytes.length));
    const header = readHeader(put.bytes);
    expect(Object.fromEntries(header.entries.map(({ name, dtype, shape }) => [name, [dtype, ...shape]]))).toEqual({
      'layers.fc1.policy.input': ['F64', BATCH, 6],
      'layers.fc1.policy.output_grad': ['F64', BATCH, 4],
      'layers.fc1.policy.chol': ['F64', (BATCH * (BATCH + 1)) / 2],
      'layers.fc1.policy.target': ['F64', BATCH],
      'layers.fc2.policy.input': ['F64', BATCH, 4],
      'layers.fc2.policy.output_grad': ['F64', BATCH, 3],
      'layers.fc2.policy.chol': ['F64', (BATCH * (BATCH + 1)) / 2],
      'layers.fc2.policy.target': ['F64', BATCH],
    });
    const metrics = stepMetricsSchema.parse(JSON.parse(header.metadata['metrics']!));
    expect(metrics).toMatchObject({ step: 0, batch: BATCH, refreshed: true, failedFactorizations: 0 });
    const losses = [...stepTensors(1)[0]!.values];
    expect(metrics.loss).toBeCloseTo(losses.reduce((sum, loss) => sum + loss, 0) / BATCH, 12);
    expect(await describeSession(stack.url, id)).toMatchObject({ nextStep: 1, metrics });

    const again = await getStep(stack.url, id, 0);
    expect(again.status).toBe(200);
    expect(again.headers.get('content-type')).toBe(SAFETENSORS_CONTENT_TYPE);
    expect(Buffer.compare(again.bytes, put.bytes)).toBe(0);

    const deleted = await call(stack.url, 'DELETE', `/v1/sessions/${id}`);
    expect(deleted).toMatchObject({ status: 204, bytes: new Uint8Array(0) });
    const gone = { status: 404, code: 'session_not_found', param: 'id', mentions: [id] } as const;
    expectProblem(await call(stack.url, 'GET', `/v1/sessions/${id}`), gone);
    expectProblem(await call(stack.url, 'DELETE', `/v1/sessions/${id}`), gone);
    expectProblem(await getStep(stack.url, id, 0), gone);
    expectProblem(await putStep(stack.url, id, 1, stepBody(2)), gone);
    // A new session starts from nothing.
    const fresh = await putStep(stack.url, (await newSession(stack.url, definition)).id, 0, stepBody(1));
    expect(Buffer.compare(fresh.bytes, put.bytes)).toBe(0);
  });

  it('an update reply carries the changes of the parameters and nothing else', async () => {
    const { id } = await newSession(stack.url, { layers: LAYERS, optimizer: { coupling: 'value' } });
    const { bytes } = await putStep(stack.url, id, 0, stepBody(1));
    const shapes = readHeader(bytes).entries.map(({ name, shape }): [string, readonly number[]] => [name, shape]);
    expect(Object.fromEntries(shapes)).toEqual({
      'layers.fc1.update.weight': [5, 4],
      'layers.fc1.update.bias': [4],
      'layers.fc2.update.weight': [4, 3],
    });
  });

  it.each([NOBODY, 'ses_', 'ses_0123', NOBODY.toUpperCase(), `${NOBODY}0`, '%ZZ', '..%2F..%2Fhealthz', '%00', 'ü'])(
    'session %s does not exist',
    async (id) => {
      const gone = { status: 404, code: 'session_not_found', param: 'id' } as const;
      expectProblem(await call(stack.url, 'GET', `/v1/sessions/${id}`), gone);
      expectProblem(await call(stack.url, 'DELETE', `/v1/sessions/${id}`), gone);
      expectProblem(await getStep(stack.url, id, 0), gone);
      expectProblem(await putStep(stack.url, id, 0, stepBody(1)), gone);
    },
  );

  it('gives back the request id it is sent', async () => {
    const response = await fetch(new URL(`/v1/sessions/${NOBODY}`, stack.url), {
      headers: { 'x-request-id': 'mine-1' },
    });
    expect(response.headers.get('x-request-id')).toBe('mine-1');
    expect(await response.json()).toMatchObject({ request_id: 'mine-1' });
  });

  it('is alive and ready', async () => {
    for (const path of ['/healthz', '/readyz']) {
      const answer = await call(stack.url, 'GET', path);
      expect(answer.status).toBe(200);
      expect(json(answer)).toEqual({ status: 'ok' });
    }
  });
});

/** Enough bytes that they cannot all wait in buffers between client, edge and worker. */
const LARGE = [{ name: 'wide', kind: 'dense', inputs: 16_000, outputs: 4 } as const];
const largeStep = () => stepBody(1, LARGE, 500);
const UNAVAILABLE = { status: 503, code: 'worker_unavailable' } as const;

describe('without a worker', () => {
  let edge: ServiceProcess;
  beforeAll(async () => {
    const worker = await startWorker({ port: 0, engine: 'reference' });
    await worker.stop();
    edge = await startEdge({ port: 0, workerUrl: worker.ready.url });
  });
  afterAll(() => edge.stop());

  it('is alive but not ready', async () => {
    expect((await call(edge.ready.url, 'GET', '/healthz')).status).toBe(200);
    expectProblem(await call(edge.ready.url, 'GET', '/readyz'), UNAVAILABLE);
  });

  it('says that a later try may succeed', async () => {
    const answers = [
      await create(edge.ready.url, { layers: LAYERS }),
      await call(edge.ready.url, 'GET', `/v1/sessions/${NOBODY}`),
      await call(edge.ready.url, 'DELETE', `/v1/sessions/${NOBODY}`),
      await getStep(edge.ready.url, NOBODY, 0),
      await putStep(edge.ready.url, NOBODY, 0, stepBody(1)),
      await putStep(edge.ready.url, NOBODY, 0, largeStep()),
    ];
    for (const answer of answers) {
      expect(expectProblem(answer, UNAVAILABLE).retryable).toBe(true);
      expect(Number(answer.headers.get('retry-after'))).toBeGreaterThan(0);
    }
  });

  it('still tells a wrong definition from a missing worker', async () => {
    expectProblem(await create(edge.ready.url, { layers: [] }), {
      status: 422,
      code: 'invalid_parameter',
      param: 'layers',
    });
  });
});

it.each(EDGE_RUNTIMES)(
  'a worker that goes away and comes back without its sessions, an edge in %s: unavailable, then not found',
  async (runtime) => {
    const first = await startWorker({ port: 0, engine: 'reference' });
    const edge = await startEdge({ port: 0, workerUrl: first.ready.url, runtime });
    try {
      const small = await newSession(edge.ready.url);
      const large = await newSession(edge.ready.url, { layers: LARGE, optimizer: { metric: { kind: 'identity' } } });
      expect((await putStep(edge.ready.url, small.id, 0, stepBody(1))).status).toBe(200);
      await first.stop();
      // The edge still knows the layers of both, and checks and forwards their steps.
      expectProblem(await putStep(edge.ready.url, small.id, 1, stepBody(2)), UNAVAILABLE);
      expectProblem(await putStep(edge.ready.url, large.id, 0, largeStep()), UNAVAILABLE);
      expectProblem(await getStep(edge.ready.url, small.id, 0), UNAVAILABLE);

      const second = await startWorker({ port: Number(new URL(first.ready.url).port), engine: 'reference' });
      try {
        const gone = { status: 404, code: 'session_not_found', param: 'id' } as const;
        expectProblem(await putStep(edge.ready.url, small.id, 1, stepBody(2)), { ...gone, mentions: [small.id] });
        expectProblem(await putStep(edge.ready.url, large.id, 0, largeStep()), { ...gone, mentions: [large.id] });
        expectProblem(await call(edge.ready.url, 'GET', `/v1/sessions/${small.id}`), gone);
        const { id } = await newSession(edge.ready.url);
        expect((await putStep(edge.ready.url, id, 0, stepBody(1))).status).toBe(200);
      } finally {
        await second.stop();
      }
    } finally {
      await edge.stop();
    }
  },
);

it.each(EDGE_RUNTIMES)(
  'a worker that dies in the middle of an answer, an edge in %s: the client’s connection breaks, and a line says why',
  async (runtime) => {
    let die = (): void => undefined;
    const server = createServer((_, response) => {
      // More than an edge waits for before it begins to answer.
      response.writeHead(200, { 'content-type': SAFETENSORS_CONTENT_TYPE, 'content-length': '1000000' });
      response.write(new Uint8Array(10));
      die = () => response.socket!.resetAndDestroy();
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const { port } = server.address() as AddressInfo;
    const edge = await startEdge({ port: 0, workerUrl: `http://127.0.0.1:${port}`, runtime });
    try {
      const headers = { 'x-request-id': 'broken-1' };
      const answer = await fetch(new URL(`/v1/sessions/${NOBODY}/weights`, edge.ready.url), { headers });
      const reader = answer.body!.getReader();
      expect((await reader.read()).value).toHaveLength(10);
      die();
      await expect(reader.read()).rejects.toThrow();
      // workerd says it in its own way.
      if (runtime === 'workerd') return;
      await expect.poll(() => edge.errors()).not.toBe('');
      await edge.stop();
      const event = { event: 'answer_broken_off', requestId: 'broken-1', error: expect.any(String) as string };
      expect(
        edge
          .errors()
          .trimEnd()
          .split('\n')
          .map((line) => JSON.parse(line) as unknown),
      ).toEqual([event]);
    } finally {
      await edge.stop();
      server.close();
    }
  },
);

describe('something else where the worker should be', () => {
  let server: Server;
  let edge: ServiceProcess;
  let answer: RequestListener;
  beforeAll(async () => {
    server = createServer((request, response) => {
      request.resume();
      answer(request, response);
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const { port } = server.address() as AddressInfo;
    edge = await startEdge({ port: 0, workerUrl: `http://127.0.0.1:${port}` });
  });
  afterAll(async () => {
    await edge.stop();
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  });

  const page =
    (status: number, type: string, body: string): RequestListener =>
    (_, response) => {
      response.writeHead(status, { 'content-type': type }).end(body);
    };

  it.each([
    { title: 'a page instead of a session', listener: page(200, 'text/html', '<html></html>') },
    { title: 'another document instead of a session', listener: page(200, 'application/json', '{"id":1}') },
    { title: 'a page with an error', listener: page(404, 'text/html', '<html></html>') },
    { title: 'a problem that does not parse', listener: page(422, 'application/problem+json', '{') },
    { title: 'another problem', listener: page(422, 'application/problem+json', '{"title":"no"}') },
  ])('$title: worker_protocol', async ({ listener }) => {
    answer = listener;
    const expected = { status: 502, code: 'worker_protocol' } as const;
    expectProblem(await call(edge.ready.url, 'GET', `/v1/sessions/${NOBODY}`), expected);
    expectProblem(await create(edge.ready.url, { layers: LAYERS }), expected);
    expectProblem(await putStep(edge.ready.url, NOBODY, 0, stepBody(1)), expected);
  });

  it.each([502, 503, 504, 530])('a proxy’s %i for a worker it cannot reach: worker_unavailable', async (status) => {
    answer = page(status, 'text/html', '<html>Bad gateway</html>');
    expectProblem(await call(edge.ready.url, 'GET', `/v1/sessions/${NOBODY}`), UNAVAILABLE);
    expectProblem(await call(edge.ready.url, 'GET', '/readyz'), UNAVAILABLE);
  });

  it('a small answer that breaks off: worker_unavailable', async () => {
    answer = (_, response) => {
      response.writeHead(200, { 'content-type': SAFETENSORS_CONTENT_TYPE, 'content-length': '100' });
      response.write(new Uint8Array(10), () => response.socket!.resetAndDestroy());
    };
    expectProblem(await call(edge.ready.url, 'GET', `/v1/sessions/${NOBODY}/weights`), UNAVAILABLE);
  });

  it('a connection that breaks without an answer: worker_unavailable', async () => {
    answer = (request) => request.socket.destroy();
    expectProblem(await call(edge.ready.url, 'GET', `/v1/sessions/${NOBODY}`), UNAVAILABLE);
  });
});
