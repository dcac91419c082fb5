/** Access to the service: keys, scopes, tenants, limits and usage, through the edge in workerd and under Node. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { ServiceProcess } from '../../deploy/local/child.ts';
import { EDGE_RUNTIMES, startEdge, type EdgeRuntime } from '../../deploy/local/edge.ts';
import { startWorker } from '../../deploy/local/worker.ts';
import {
  apiKeyListSchema,
  newApiKeySchema,
  usageListSchema,
  workerListSchema,
  type NewApiKey,
  type Scope,
} from '../../shared/access.ts';
import { checkpointSchema } from '../../shared/checkpoint.ts';
import { dataSetSchema } from '../../shared/data-set.ts';
import { LIMITS } from '../../shared/limits.ts';
import { runSchema } from '../../shared/run.ts';
import { SAFETENSORS_CONTENT_TYPE } from '../../shared/safetensors.ts';
import { sessionListSchema } from '../../shared/session-list.ts';
import { sessionSchema, type Session } from '../../shared/session.ts';
import { chunk, HOSTED } from './data-sets.ts';
import { startPlacedService, type PlacedService } from './placed-service.ts';
import { expectProblem, json, LAYERS, rawRequest, stepBody, stepBodyWith, type Answer } from './support.ts';

const ADMIN_KEY = 'operator-0123456789abcdef0123456789abcdef';

/** A request with a key. */
async function callAs(
  key: string | null,
  url: string,
  method: string,
  path: string,
  body?: Uint8Array<ArrayBuffer> | object,
): Promise<Answer> {
  const isBinary = body instanceof Uint8Array;
  const response = await fetch(new URL(path, url), {
    method,
    headers: {
      ...(key === null ? {} : { authorization: `Bearer ${key}` }),
      ...(body === undefined ? {} : { 'content-type': isBinary ? SAFETENSORS_CONTENT_TYPE : 'application/json' }),
    },
    ...(body === undefined ? {} : { body: isBinary ? body : JSON.stringify(body) }),
  });
  return { status: response.status, headers: response.headers, bytes: new Uint8Array(await response.arrayBuffer()) };
}

async function newKey(
  url: string,
  order: { tenant: string; scopes?: Scope[]; expiresAt?: string },
): Promise<NewApiKey> {
  const answer = await callAs(ADMIN_KEY, url, 'POST', '/v1/admin/keys', { name: 'test', ...order });
  expect(answer.status).toBe(201);
  return newApiKeySchema.parse(json(answer));
}

async function newSessionAs(key: string, url: string, definition: object = { layers: LAYERS }): Promise<Session> {
  const answer = await callAs(key, url, 'POST', '/v1/sessions', definition);
  expect(answer.status).toBe(201);
  return sessionSchema.parse(json(answer));
}

async function sessionsOf(key: string, url: string): Promise<string[]> {
  const answer = await callAs(key, url, 'GET', '/v1/sessions');
  expect(answer.status).toBe(200);
  return sessionListSchema.parse(json(answer)).sessions.map(({ id }) => id);
}

async function usageOf(key: string, url: string) {
  const answer = await callAs(key, url, 'GET', '/v1/usage');
  expect(answer.status).toBe(200);
  const { days } = usageListSchema.parse(json(answer));
  const [first] = days;
  const sum = (read: (day: typeof first & object) => number): number =>
    days.reduce((total, day) => total + read(day), 0);
  return {
    steps: sum((day) => day.steps),
    bytesIn: sum((day) => day.bytesIn),
    bytesOut: sum((day) => day.bytesOut),
    requests: sum((day) => day.requests),
    computeSeconds: sum((day) => day.computeSeconds),
  };
}

let worker: ServiceProcess;
beforeAll(async () => {
  worker = await startWorker({ port: 0, engine: 'reference', settings: { DDPNOPT_LOG_LEVEL: 'info' } });
});
afterAll(() => worker.stop());

describe.each(EDGE_RUNTIMES)('with access control, the edge in %s', (runtime: EdgeRuntime) => {
  let edge: ServiceProcess;
  let url: string;
  beforeAll(async () => {
    const settings = { DDPNOPT_ADMIN_KEY: ADMIN_KEY, DDPNOPT_LOG_LEVEL: 'info' };
    edge = await startEdge({ port: 0, workerUrl: worker.ready.url, runtime, settings });
    ({ url } = edge.ready);
  });
  afterAll(() => edge.stop());

  it('asks for a key, and says how to send one', async () => {
    const paths = [
      '/v1/sessions',
      '/v1/usage',
      '/v1/admin/keys',
      '/v1/sessions/ses_0/steps/0',
      '/v1/nothing',
      '/metrics',
    ];
    for (const path of paths) {
      const answer = await callAs(null, url, 'GET', path);
      const { remedy } = expectProblem(answer, { status: 401, code: 'unauthenticated', param: 'Authorization' });
      expect(remedy).toContain('Bearer');
      expect(answer.headers.get('www-authenticate')).toMatch(/^Bearer/);
    }
    for (const path of ['/healthz', '/readyz', '/openapi.json', '/docs']) {
      expect((await callAs(null, url, 'GET', path)).status, path).toBe(200);
    }
  });

  it.each([
    ['of another form', 'secret'],
    ['that was never made', `ddpnopt_0123456789abcdef_${'0'.repeat(64)}`],
    ['that is cut off', ADMIN_KEY.slice(0, -1)],
    ['in two words', 'a b'],
  ])('refuses a key %s, and does not repeat it', async (_, key) => {
    const answer = await callAs(key, url, 'GET', '/v1/sessions');
    expectProblem(answer, { status: 401, code: 'unauthenticated' });
    expect(new TextDecoder().decode(answer.bytes)).not.toContain(key);
  });

  it('refuses the right id with another secret', async () => {
    const { key } = await newKey(url, { tenant: 'forger' });
    expect((await callAs(key, url, 'GET', '/v1/sessions')).status).toBe(200);
    const forged = key.slice(0, -1) + (key.endsWith('0') ? '1' : '0');
    expectProblem(await callAs(forged, url, 'GET', '/v1/sessions'), { status: 401, code: 'unauthenticated' });
  });

  it('shows a key once, and lists it without', async () => {
    const made = await newKey(url, { tenant: 'lister' });
    expect(made.key).toMatch(/^ddpnopt_[0-9a-f]{16}_[0-9a-f]{64}$/);
    await callAs(made.key, url, 'GET', '/v1/sessions');
    const answer = await callAs(ADMIN_KEY, url, 'GET', '/v1/admin/keys?tenant=lister');
    expect(new TextDecoder().decode(answer.bytes)).not.toContain(made.key.slice(-64));
    const { keys } = apiKeyListSchema.parse(json(answer));
    const { key, ...described } = made;
    expect(keys).toEqual([{ ...described, lastUsedAt: expect.any(String) as string }]);
    expect(key).toContain(made.id);
  });

  it('refuses an expired key', async () => {
    const { key } = await newKey(url, { tenant: 'late', expiresAt: '2026-01-01T00:00:00Z' });
    expectProblem(await callAs(key, url, 'GET', '/v1/sessions'), {
      status: 401,
      code: 'unauthenticated',
      mentions: ['expired'],
    });
  });

  it('refuses a revoked key', async () => {
    const { id, key } = await newKey(url, { tenant: 'gone' });
    expect((await callAs(ADMIN_KEY, url, 'DELETE', `/v1/admin/keys/${id}`)).status).toBe(204);
    expectProblem(await callAs(key, url, 'GET', '/v1/sessions'), {
      status: 401,
      code: 'unauthenticated',
      mentions: ['revoked'],
    });
    expectProblem(await callAs(ADMIN_KEY, url, 'DELETE', '/v1/admin/keys/0000000000000000'), {
      status: 404,
      code: 'key_not_found',
    });
  });

  it('lets a key do what its scopes say, and nothing else', async () => {
    const reader = await newKey(url, { tenant: `scopes-${runtime}`, scopes: ['sessions:read'] });
    const trainer = await newKey(url, { tenant: `scopes-${runtime}`, scopes: ['sessions:write'] });
    const { id } = await newSessionAs(trainer.key, url);
    expect(await sessionsOf(reader.key, url)).toEqual([id]);
    const FORBIDDEN = { status: 403, code: 'forbidden' } as const;
    const refused = [
      [reader, 'POST', '/v1/sessions', 'sessions:write'],
      [reader, 'PUT', `/v1/sessions/${id}/steps/0`, 'sessions:write'],
      [reader, 'DELETE', `/v1/sessions/${id}`, 'sessions:write'],
      [trainer, 'GET', `/v1/sessions/${id}`, 'sessions:read'],
      [trainer, 'POST', `/v1/sessions/${id}/checkpoints`, 'checkpoints'],
      [trainer, 'GET', '/v1/usage', 'usage:read'],
      [trainer, 'GET', '/v1/admin/keys', 'admin'],
      [reader, 'GET', '/metrics', 'metrics:read'],
    ] as const;
    for (const [{ key }, method, path, scope] of refused) {
      expectProblem(await callAs(key, url, method, path), { ...FORBIDDEN, mentions: [scope] });
    }
    expect((await callAs(reader.key, url, 'GET', `/v1/sessions/${id}`)).status).toBe(200);
  });

  it('refuses a key order that is none, and makes none', async () => {
    const order = { name: 'x', tenant: 'Not A Tenant' };
    expectProblem(await callAs(ADMIN_KEY, url, 'POST', '/v1/admin/keys', order), {
      status: 422,
      code: 'invalid_parameter',
      param: 'tenant',
    });
    const answer = await callAs(ADMIN_KEY, url, 'GET', '/v1/admin/keys?tenant=not-a-tenant');
    expect(apiKeyListSchema.parse(json(answer)).keys).toEqual([]);
  });

  describe('tenants', () => {
    let ours: string;
    let theirs: string;
    let session: Session;
    let checkpoint: string;
    beforeAll(async () => {
      ours = (await newKey(url, { tenant: `ours-${runtime}` })).key;
      theirs = (await newKey(url, { tenant: `theirs-${runtime}` })).key;
      session = await newSessionAs(ours, url);
      expect((await callAs(ours, url, 'PUT', `/v1/sessions/${session.id}/steps/0`, stepBody(1))).status).toBe(200);
      const answer = await callAs(ours, url, 'POST', `/v1/sessions/${session.id}/checkpoints`);
      expect(answer.status).toBe(201);
      checkpoint = checkpointSchema.parse(json(answer)).id;
    });

    it('see their own sessions in the list', async () => {
      const own = await newSessionAs(theirs, url);
      expect(await sessionsOf(ours, url)).toEqual([session.id]);
      expect(await sessionsOf(theirs, url)).toEqual([own.id]);
    });

    it('do not see another’s: it is as if there were none, for every resource', async () => {
      const NOT_FOUND = { status: 404, code: 'session_not_found' } as const;
      const at = `/v1/sessions/${session.id}`;
      const requests = [
        ['GET', at],
        ['DELETE', at],
        ['GET', `${at}/steps/0`],
        ['DELETE', `${at}/steps/1`],
        ['GET', `${at}/weights`],
        ['POST', `${at}/checkpoints`],
        ['GET', `${at}/checkpoints`],
      ] as const;
      for (const [method, path] of requests) expectProblem(await callAs(theirs, url, method, path), NOT_FOUND);
      // Not even by what is said of a body that does not fit the session, which this isolate remembers.
      for (const body of [stepBody(2), stepBodyWith(2, { name: 'losses', shape: [1], values: new Float32Array(1) })]) {
        expectProblem(await callAs(theirs, url, 'PUT', `${at}/steps/1`, body), NOT_FOUND);
      }
      const NO_CHECKPOINT = { status: 404, code: 'checkpoint_not_found' } as const;
      for (const method of ['GET', 'DELETE']) {
        expectProblem(await callAs(theirs, url, method, `/v1/checkpoints/${checkpoint}`), NO_CHECKPOINT);
      }
      const resumption = { fromCheckpoint: checkpoint };
      expectProblem(await callAs(theirs, url, 'POST', '/v1/sessions', resumption), NO_CHECKPOINT);

      const answer = await callAs(ours, url, 'GET', at);
      expect(sessionSchema.parse(json(answer)).nextStep).toBe(1);
      expect((await callAs(ours, url, 'GET', `/v1/checkpoints/${checkpoint}`)).status).toBe(200);
      await newSessionAs(ours, url, resumption);
    });
  });

  it('pages through sessions, newest first', async () => {
    const { key } = await newKey(url, { tenant: `pages-${runtime}` });
    const made: string[] = [];
    for (let i = 0; i < 5; i++) made.push((await newSessionAs(key, url)).id);
    const listed: string[] = [];
    let after = '';
    for (let pages = 0; pages < 3; pages++) {
      const answer = await callAs(key, url, 'GET', `/v1/sessions?limit=2${after}`);
      const { sessions, next } = sessionListSchema.parse(json(answer));
      expect(sessions.map(({ mode }) => mode)).toEqual(sessions.map(() => 'layers'));
      listed.push(...sessions.map(({ id }) => id));
      expect(next === null).toBe(pages === 2);
      after = `&after=${encodeURIComponent(String(next))}`;
    }
    expect(listed.toSorted()).toEqual(made.toSorted());
    expectProblem(await callAs(key, url, 'GET', '/v1/sessions?limit=0'), { status: 422, code: 'invalid_parameter' });
    expectProblem(await callAs(key, url, 'GET', '/v1/sessions?after=x'), { status: 422, code: 'invalid_parameter' });
  });

  it('counts what was done, and a step that is sent again once', async () => {
    const { key } = await newKey(url, { tenant: `meter-${runtime}` });
    const { id } = await newSessionAs(key, url);
    const before = await usageOf(key, url);
    const step = (n: number, body: Uint8Array<ArrayBuffer>): Promise<Answer> =>
      callAs(key, url, 'PUT', `/v1/sessions/${id}/steps/${n}`, body);
    const bodies = [stepBody(1), stepBody(2), stepBody(3)];
    const answers: Answer[] = [];
    for (const [n, body] of bodies.entries()) {
      // A storm of the same step: at once, and again.
      const copies = await Promise.all([step(n, body), step(n, body), step(n, body)]);
      answers.push(...copies, await step(n, body));
    }
    expect(answers.map(({ status }) => status)).toEqual(Array(12).fill(200));
    expectProblem(await step(9, bodies[0]!), { status: 412, code: 'step_out_of_order' });
    const after = await usageOf(key, url);
    expect(after.steps - before.steps).toBe(3);
    // The steps, the one out of order, and the request for the usage before.
    expect(after.requests - before.requests).toBe(14);
    const sent = bodies.reduce((sum, body) => sum + 4 * body.length, bodies[0]!.length);
    expect(after.bytesIn - before.bytesIn).toBe(sent);
    expect(after.bytesOut - before.bytesOut).toBeGreaterThan(answers.reduce((sum, { bytes }) => sum + bytes.length, 0));
    expect(after.computeSeconds).toBeGreaterThan(before.computeSeconds);
    const all = await callAs(ADMIN_KEY, url, 'GET', `/v1/admin/usage?tenant=meter-${runtime}`);
    expect(usageListSchema.parse(json(all)).days.reduce((sum, { steps }) => sum + steps, 0)).toBe(3);
    expectProblem(await callAs(key, url, 'GET', '/v1/usage?from=2026-02-01&to=2026-01-01'), {
      status: 422,
      code: 'invalid_parameter',
      param: 'from',
    });
  });

  describe('data sets and runs', () => {
    const ORDER = { steps: 6, batch: 4, order: { kind: 'sequential' } } as const;
    const ended = async (key: string, id: string): Promise<void> => {
      const answer = await fetch(new URL(`/v1/sessions/${id}/runs/0`, url), {
        headers: { authorization: `Bearer ${key}`, accept: 'text/event-stream' },
      });
      expect(await answer.text()).toContain('"state":"finished"');
    };

    it('take the scopes of a session’s steps, and are nobody else’s', async () => {
      const tenant = `runs-${runtime}`;
      const reader = (await newKey(url, { tenant, scopes: ['sessions:read'] })).key;
      const trainer = (await newKey(url, { tenant, scopes: ['sessions:write'] })).key;
      const stranger = (await newKey(url, { tenant: `not-${tenant}` })).key;
      const { id } = await newSessionAs(trainer, url, HOSTED);
      const at = `/v1/sessions/${id}`;
      const requests = [
        ['PUT', `${at}/data/0`, chunk(0, 20), 'sessions:write'],
        ['GET', `${at}/data`, undefined, 'sessions:read'],
        ['PUT', `${at}/runs/0`, ORDER, 'sessions:write'],
        ['GET', `${at}/runs/0`, undefined, 'sessions:read'],
        ['GET', `${at}/runs`, undefined, 'sessions:read'],
        ['DELETE', `${at}/runs/0`, undefined, 'sessions:write'],
        ['DELETE', `${at}/data`, undefined, 'sessions:write'],
      ] as const;
      for (const [method, path, body, scope] of requests) {
        const other = scope === 'sessions:write' ? reader : trainer;
        const forbidden = { status: 403, code: 'forbidden', mentions: [scope] } as const;
        expectProblem(await callAs(other, url, method, path, body), forbidden);
        const notFound = { status: 404, code: 'session_not_found' } as const;
        expectProblem(await callAs(stranger, url, method, path, body), notFound);
        if (method === 'PUT') expect((await callAs(trainer, url, method, path, body)).status).toBeLessThan(300);
        // What was refused has done nothing.
        if (path.endsWith('/runs/0')) await ended(reader, id);
      }
      const data = await callAs(reader, url, 'GET', `${at}/data`);
      expect(dataSetSchema.parse(json(data))).toMatchObject({ samples: 20, missingChunks: [] });
      const run = await callAs(reader, url, 'GET', `${at}/runs/0`);
      expect(runSchema.parse(json(run))).toMatchObject({ ...ORDER, state: 'finished', nextStep: ORDER.steps });
    });

    it('count in their tenant’s usage, also what a cancelled run has taken', async () => {
      const { key } = await newKey(url, { tenant: `run-meter-${runtime}` });
      const { id } = await newSessionAs(key, url, HOSTED);
      const before = await usageOf(key, url);
      const at = `/v1/sessions/${id}`;
      const samples = chunk(0, 20);
      // Taken once, and sent twice.
      for (let i = 0; i < 2; i++) expect((await callAs(key, url, 'PUT', `${at}/data/0`, samples)).status).toBe(200);
      const begun = await callAs(key, url, 'PUT', `${at}/runs/0`, ORDER);
      expect(begun.status).toBe(202);
      await ended(key, id);
      // The same run.
      const again = await callAs(key, url, 'PUT', `${at}/runs/0`, ORDER);
      expect(again.status).toBe(200);
      const after = await usageOf(key, url);
      expect(after.steps - before.steps).toBe(ORDER.steps);
      expect(after.bytesIn - before.bytesIn).toBe(2 * samples.length + 2 * JSON.stringify(ORDER).length);
      expect(after.bytesOut - before.bytesOut).toBeGreaterThan(begun.bytes.length + again.bytes.length);
      expect(after.computeSeconds).toBeGreaterThan(before.computeSeconds);
      const order = { ...ORDER, steps: LIMITS.runSteps };
      expect((await callAs(key, url, 'PUT', `${at}/runs/${ORDER.steps}`, order)).status).toBe(202);
      const cancelled = await callAs(key, url, 'DELETE', `${at}/runs/${ORDER.steps}`);
      const { nextStep } = runSchema.parse(json(cancelled));
      expect((await usageOf(key, url)).steps - before.steps).toBe(nextStep);
    });
  });

  async function limit(tenant: string, limits: object): Promise<void> {
    const answer = await callAs(ADMIN_KEY, url, 'PUT', `/v1/admin/tenants/${tenant}/limits`, limits);
    expect(answer.status).toBe(200);
  }

  it('limits requests by a token bucket, and says so in headers', async () => {
    const tenant = `hasty-${runtime}`;
    await limit(tenant, { requestsPerSecond: 0.001, burst: 3 });
    const { key } = await newKey(url, { tenant });
    const answers = [];
    for (let i = 0; i < 5; i++) answers.push(await callAs(key, url, 'GET', '/v1/sessions'));
    expect(answers.map(({ status }) => status)).toEqual([200, 200, 200, 429, 429]);
    for (const { headers } of answers) expect(headers.get('ratelimit-policy')).toBe('"requests";q=3;w=3000');
    expect(answers.map(({ headers }) => /^"requests";r=(\d+);t=\d+$/.exec(headers.get('ratelimit')!)![1])).toEqual([
      '2',
      '1',
      '0',
      '0',
      '0',
    ]);
    const { retryAfter } = expectProblem(answers[4]!, { status: 429, code: 'rate_limited' });
    expect(answers[4]!.headers.get('retry-after')).toBe(String(retryAfter));
    expect(retryAfter).toBeGreaterThan(900);
  });

  it('holds a tenant to its quotas; what is there can be read and deleted', async () => {
    const tenant = `bounded-${runtime}`;
    await limit(tenant, { sessions: 1, stepsPerDay: 2 });
    const { key } = await newKey(url, { tenant });
    const { id } = await newSessionAs(key, url);
    expectProblem(await callAs(key, url, 'POST', '/v1/sessions', { layers: LAYERS }), {
      status: 429,
      code: 'quota_exceeded',
      mentions: ['1 sessions'],
    });
    const path = `/v1/sessions/${id}/steps`;
    for (const n of [0, 1]) expect((await callAs(key, url, 'PUT', `${path}/${n}`, stepBody(n))).status).toBe(200);
    const refused = await callAs(key, url, 'PUT', `${path}/2`, stepBody(2));
    const { retryAfter } = expectProblem(refused, { status: 429, code: 'quota_exceeded', mentions: ['2 steps'] });
    expect(retryAfter).toBeGreaterThan(0);
    expect(retryAfter).toBeLessThanOrEqual(86_400);
    expect(refused.headers.get('ratelimit-policy')).toContain('"steps";q=2;w=86400');
    expect(refused.headers.get('ratelimit')).toMatch(/"steps";r=0;t=\d+/);
    expect((await callAs(key, url, 'GET', `${path}/1`)).status).toBe(200);
    expect((await callAs(key, url, 'DELETE', `/v1/sessions/${id}`)).status).toBe(204);
    expect((await usageOf(key, url)).steps).toBe(2);
  });

  it('logs every request at both sides under one id, and no key', async () => {
    const { key, id: keyId } = await newKey(url, { tenant: `logs-${runtime}` });
    const { id } = await newSessionAs(key, url);
    const requestId = `log-${runtime}-0123456789`;
    const body = stepBody(1);
    const answer = await fetch(new URL(`/v1/sessions/${id}/steps/0`, url), {
      method: 'PUT',
      body,
      headers: { authorization: `Bearer ${key}`, 'content-type': SAFETENSORS_CONTENT_TYPE, 'x-request-id': requestId },
    });
    const bytesOut = (await answer.arrayBuffer()).byteLength;
    expect(answer.headers.get('x-request-id')).toBe(requestId);
    // The lines of requests before this one have been written before this one's.
    const logged = (process: ServiceProcess): Record<string, unknown>[] =>
      process
        .errors()
        .split('\n')
        .filter((line) => line.includes(requestId))
        .map((line) => JSON.parse(line) as Record<string, unknown>);
    await expect.poll(() => [logged(edge).length, logged(worker).length]).toEqual([1, 1]);
    const common = {
      event: 'request',
      requestId,
      method: 'PUT',
      status: 200,
      session: id,
      step: 0,
      bytesIn: body.length,
    };
    const tenant = `logs-${runtime}`;
    expect(logged(edge)[0]).toMatchObject({ ...common, side: 'edge', tenant, key: keyId, bytesOut, steps: 1 });
    expect(logged(edge)[0]!['route']).toBe('/v1/sessions/:id/steps/:n');
    expect(logged(worker)[0]).toMatchObject({ ...common, side: 'worker', tenant, bytesOut });
    for (const text of [edge.errors(), worker.errors()]) {
      expect(text).not.toContain(key.slice(-64));
      expect(text).not.toContain(ADMIN_KEY);
      expect(text.toLowerCase()).not.toContain('bearer');
    }
  });

  it('gives its metrics to who may read them', async () => {
    const { key } = await newKey(url, { tenant: 'metrics', scopes: ['metrics:read'] });
    const answer = await callAs(key, url, 'GET', '/metrics');
    expect(answer.headers.get('content-type')).toMatch(/^text\/plain; version=0\.0\.4/);
    const samples = parseMetrics(answer);
    const created = 'ddpnopt_edge_requests_total{method="POST",route="/v1/admin/keys",status="201"}';
    expect(samples.get(created)).toBeGreaterThan(0);
    const seconds = 'ddpnopt_edge_request_seconds';
    const labels = 'method="POST",route="/v1/admin/keys"';
    expect(samples.get(`${seconds}_bucket{${labels},le="+Inf"}`)).toBe(samples.get(`${seconds}_count{${labels}}`));
  });
});

/** Value of every sample, by name and labels. @throws if a line is none of the text format's */
function parseMetrics(answer: Answer): Map<string, number> {
  const samples = new Map<string, number>();
  for (const line of new TextDecoder().decode(answer.bytes).trimEnd().split('\n')) {
    if (/^# (HELP|TYPE) /.test(line) || line === '') continue;
    const [, name, value] = /^([a-z_]+(?:\{(?:[a-z]+="(?:[^"\\]|\\.)*",?)*\})?) (\S+)$/.exec(line)!;
    samples.set(name!, Number(value));
    expect(Number(value), line).not.toBeNaN();
  }
  return samples;
}

describe('the worker’s metrics', () => {
  it('count requests, steps, waiting and storage', async () => {
    const own = await startWorker({ port: 0, engine: 'reference' });
    try {
      const edge = await startEdge({ port: 0, workerUrl: own.ready.url, runtime: 'node' });
      try {
        const { id } = await newSessionAs('', edge.ready.url);
        for (const n of [0, 0, 1]) {
          const path = `/v1/sessions/${id}/steps/${n}`;
          expect((await callAs(null, edge.ready.url, 'PUT', path, stepBody(n))).status).toBe(200);
        }
        const samples = parseMetrics(await callAs(null, own.ready.url, 'GET', '/metrics'));
        expect(samples.get('ddpnopt_steps_total')).toBe(2);
        expect(samples.get('ddpnopt_step_seconds_count')).toBe(2);
        expect(samples.get('ddpnopt_sessions')).toBe(1);
        expect(samples.get('ddpnopt_queue_length')).toBe(0);
        expect(samples.get('ddpnopt_state_bytes')).toBeGreaterThan(0);
        expect(samples.get('ddpnopt_queue_wait_seconds_count')).toBeGreaterThanOrEqual(2);
        expect(samples.get('ddpnopt_refresh_failures_total')).toBe(0);
        const steps = 'ddpnopt_requests_total{method="PUT",route="/sessions/:id/steps/:n",status="200"}';
        expect(samples.get(steps)).toBe(3);
      } finally {
        await edge.stop();
      }
    } finally {
      await own.stop();
    }
  });
});

describe.each(EDGE_RUNTIMES)('without access control, the edge in %s', (runtime: EdgeRuntime) => {
  let edge: ServiceProcess;
  beforeAll(async () => {
    edge = await startEdge({ port: 0, workerUrl: worker.ready.url, runtime });
  });
  afterAll(() => edge.stop());

  it('works without a key on loopback', async () => {
    const answer = await callAs(null, edge.ready.url, 'POST', '/v1/sessions', { layers: LAYERS });
    expect(answer.status).toBe(201);
    expect((await callAs(null, edge.ready.url, 'GET', '/v1/usage')).status).toBe(200);
  });

  it.each([
    ['by another name', { host: 'ddpnopt.example.com' }],
    ['through a proxy', { 'x-forwarded-for': '203.0.113.7' }],
  ])('refuses who calls it %s', async (_, headers) => {
    const answer = await rawRequest(edge.ready.url, { method: 'GET', path: '/v1/sessions', headers });
    const { remedy } = expectProblem(answer!, { status: 403, code: 'access_not_configured' });
    expect(remedy).toContain('DDPNOPT_ADMIN_KEY');
  });

  it('makes no keys that nobody would ask for', async () => {
    const order = { name: 'x', tenant: 'x' };
    expectProblem(await callAs(null, edge.ready.url, 'POST', '/v1/admin/keys', order), {
      status: 403,
      code: 'access_not_configured',
    });
  });
});

describe.each(EDGE_RUNTIMES)('after a restart, the edge in %s', (runtime: EdgeRuntime) => {
  it('knows its keys and limits, and what was counted until it was told to stop', async () => {
    const state = mkdtempSync(join(tmpdir(), 'ddpnopt-access-'));
    const settings = { DDPNOPT_ADMIN_KEY: ADMIN_KEY, DDPNOPT_EDGE_STATE: state };
    const start = (): Promise<ServiceProcess> => startEdge({ port: 0, workerUrl: worker.ready.url, runtime, settings });
    let edge = await start();
    try {
      const tenant = `restart-${runtime}`;
      const { url } = edge.ready;
      expect((await callAs(ADMIN_KEY, url, 'PUT', `/v1/admin/tenants/${tenant}/limits`, { burst: 7 })).status).toBe(
        200,
      );
      const { key } = await newKey(url, { tenant });
      const { id } = await newSessionAs(key, url);
      expect((await callAs(key, url, 'PUT', `/v1/sessions/${id}/steps/0`, stepBody(1))).status).toBe(200);
      // Workerd cannot be told to finish: there what was counted is reported by being asked for.
      if (runtime === 'workerd') expect((await usageOf(key, url)).steps).toBe(1);
      await edge.stop();
      edge = await start();
      const answer = await callAs(key, edge.ready.url, 'GET', `/v1/sessions/${id}`);
      expect(answer.status).toBe(200);
      expect(answer.headers.get('ratelimit-policy')).toContain('"requests";q=7');
      expect((await usageOf(key, edge.ready.url)).steps).toBe(1);
    } finally {
      await edge.stop();
      rmSync(state, { recursive: true });
    }
  });
});

it('does not bind beyond loopback without access control', async () => {
  const settings = { DDPNOPT_HOST: '0.0.0.0' };
  const starting = startEdge({ port: 0, workerUrl: worker.ready.url, runtime: 'node', settings });
  await expect(starting).rejects.toThrow(/exit code 2.*DDPNOPT_ADMIN_KEY/s);
});

describe.each(EDGE_RUNTIMES)('with several workers, the edge in %s', (runtime: EdgeRuntime) => {
  let service: PlacedService;
  let url: string;
  let storage: string;
  beforeAll(async () => {
    storage = mkdtempSync(join(tmpdir(), 'ddpnopt-access-'));
    service = await startPlacedService(runtime, { storage, settings: {} }, 2, 3000, { DDPNOPT_ADMIN_KEY: ADMIN_KEY });
    ({ url } = service);
  });
  afterAll(async () => {
    await service.stop();
    rmSync(storage, { recursive: true });
  });

  it('keeps tenants apart and moves nobody’s session because another asks for it', async () => {
    const ours = await newKey(url, { tenant: 'ours' });
    const theirs = await newKey(url, { tenant: 'theirs' });
    const { id } = await newSessionAs(ours.key, url);
    const step = (key: string, n: number): Promise<Answer> =>
      callAs(key, url, 'PUT', `/v1/sessions/${id}/steps/${n}`, stepBody(n));
    expect((await step(ours.key, 0)).status).toBe(200);
    const problem = expectProblem(await step(theirs.key, 1), { status: 404, code: 'session_not_found' });
    const never = `ses_${'0'.repeat(32)}`;
    const other = expectProblem(await callAs(theirs.key, url, 'GET', `/v1/sessions/${never}`), {
      status: 404,
      code: 'session_not_found',
    });
    // Word for word what is said of a session that there never was.
    expect(problem.detail.replace(id, never)).toBe(other.detail);
    expect(problem.remedy).toBe(other.remedy);
    expect((await step(ours.key, 1)).status).toBe(200);
    expect(await sessionsOf(ours.key, url)).toEqual([id]);
    expect(await sessionsOf(theirs.key, url)).toEqual([]);
    const listed = await callAs(ADMIN_KEY, url, 'GET', '/v1/admin/workers');
    const { workers } = workerListSchema.parse(json(listed));
    const usable = { state: 'usable', engine: 'reference', sessions: expect.any(Number) as number };
    expect(workers).toMatchObject([usable, usable]);
  });

  it('counts the sessions of a tenant on all of them, also those that are created at the same time', async () => {
    const limits = { sessions: 3 };
    expect((await callAs(ADMIN_KEY, url, 'PUT', '/v1/admin/tenants/few/limits', limits)).status).toBe(200);
    const { key } = await newKey(url, { tenant: 'few' });
    const create = (definition: object = { layers: LAYERS }) => callAs(key, url, 'POST', '/v1/sessions', definition);
    const refused = { status: 429, code: 'quota_exceeded', mentions: ['3 sessions'] } as const;
    const createMany = async (): Promise<Answer[]> => {
      const answers = await Promise.all(Array.from({ length: 10 }, () => create()));
      for (const answer of answers.filter(({ status }) => status !== 201)) expectProblem(answer, refused);
      return answers.filter(({ status }) => status === 201);
    };
    // What no worker takes holds no place.
    const missing = { fromCheckpoint: `ckp_${'0'.repeat(32)}` };
    for (let i = 0; i < 4; i++) expectProblem(await create(missing), { status: 404, code: 'checkpoint_not_found' });
    expect(await createMany()).toHaveLength(3);
    const held = await sessionsOf(key, url);
    expect(held).toHaveLength(3);
    expect(await createMany()).toHaveLength(0);
    for (const id of held.slice(1)) expect((await callAs(key, url, 'DELETE', `/v1/sessions/${id}`)).status).toBe(204);
    expect(await createMany()).toHaveLength(2);
    expect(await sessionsOf(key, url)).toHaveLength(3);
  });
});
