/** Server-sent events of a session: through the edge in workerd as at the worker. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { DdpnoptClient, type TrainingEvent } from '../../clients/js/index.ts';
import { startEdge } from '../../deploy/local/edge.ts';
import type { ServiceProcess } from '../../deploy/local/child.ts';
import { startWorker } from '../../deploy/local/worker.ts';
import { LIMITS } from '../../shared/limits.ts';
import { Listener } from './listener.ts';
import { startHeldWorker, type HeldWorker } from './held-worker.ts';
import {
  call,
  describeSession,
  expectProblem,
  json,
  LAYERS,
  newSession,
  persistent,
  putStep,
  stepBody,
} from './support.ts';
import { bodiesOf, folder, portOf, start, WorkerSession } from './worker-session.ts';

let worker: HeldWorker;
let edge: ServiceProcess;
beforeAll(async () => {
  worker = await startHeldWorker({ heartbeatMilliseconds: 20 });
  edge = await startEdge({ port: 0, workerUrl: worker.url });
});
afterAll(async () => {
  await edge.stop();
  await worker.stop();
  expect(worker.defects).toEqual([]);
});

const stepEvent = (n: number): RegExp =>
  new RegExp(`^id: ${n}\nevent: step\ndata: \\{"step":${n},"batch":6,"loss":[^\n]*\\}$`);

describe.each(['worker', 'edge'] as const)('at the %s', (where) => {
  const listen = (id: string, headers: Record<string, string> = {}): Promise<Listener> =>
    where === 'edge'
      ? Listener.open(edge.ready.url, `/v1/sessions/${id}/events`, headers)
      : Listener.open(worker.url, `/sessions/${id}/events`, headers);

  it('every step comes as soon as it is applied, with its number and metrics, and the end with the session', async () => {
    const { url } = edge.ready;
    const { id } = await newSession(url);
    const listeners = [await listen(id), await listen(id)];
    for (let n = 0; n < 3; n++) {
      await putStep(url, id, n, stepBody(n));
      const { metrics } = await describeSession(url, id);
      for (const listener of listeners) {
        const event = (await listener.event())!;
        expect(event).toMatch(stepEvent(n));
        expect(JSON.parse(event.slice(event.indexOf('{')))).toEqual(metrics);
      }
    }
    // A step that is refused or repeated is no event.
    await putStep(url, id, 2, stepBody(2));
    await putStep(url, id, 3, stepBody(1).fill(0xff, -4));
    expect((await call(url, 'DELETE', `/v1/sessions/${id}`)).status).toBe(204);
    for (const listener of listeners) {
      expect(await listener.event()).toBe('event: end\ndata: {"reason":"deleted"}');
      expect(await listener.event()).toBeNull();
    }
  });

  it('comes with comments between, so that it is not taken for dead', async () => {
    const { id } = await newSession(edge.ready.url);
    const listener = await listen(id);
    for (let i = 0; i < 3; i++) expect(await listener.block()).toBe(': heartbeat');
    await listener.close();
  });

  it('goes on after the last event that was seen, and says what is not kept', async () => {
    const { url } = edge.ready;
    const { id } = await newSession(url);
    for (let n = 0; n < 3; n++) await putStep(url, id, n, stepBody(n));
    const resumed = await listen(id, { 'last-event-id': '0' });
    expect(await resumed.event()).toMatch(stepEvent(1));
    expect(await resumed.event()).toMatch(stepEvent(2));
    const fresh = await listen(id);
    const all = await listen(id, { 'last-event-id': '-1' });
    for (const n of [0, 1, 2]) expect(await all.event()).toMatch(stepEvent(n));
    await putStep(url, id, 3, stepBody(3));
    for (const listener of [resumed, fresh, all]) {
      expect(await listener.event()).toMatch(stepEvent(3));
      await listener.close();
    }
  });

  it('is closed with its reader', async () => {
    const { id } = await newSession(edge.ready.url);
    const listener = await listen(id);
    const open = [...worker.open].filter((name) => name.includes(`${id}/events`));
    expect(open).toHaveLength(1);
    await listener.close();
    await expect.poll(() => [...worker.open].filter((name) => name.includes(`${id}/events`))).toEqual([]);
  });
});

it('refuses what is no number, sessions that are not there, and more listeners than there may be', async () => {
  const { url } = edge.ready;
  for (const text of ['x', '1.5', '-2', '01']) {
    const answer = await fetch(new URL(`/v1/sessions/ses_${'0'.repeat(32)}/events`, url), {
      headers: { 'last-event-id': text },
    });
    expect(await answer.json()).toMatchObject({ code: 'invalid_parameter', param: 'Last-Event-ID' });
  }
  expectProblem(await call(url, 'GET', '/v1/sessions/ses_0/events'), { status: 404, code: 'session_not_found' });
  const { id } = await newSession(url);
  const listeners = await Promise.all(
    Array.from({ length: LIMITS.sessionListeners }, () => Listener.open(worker.url, `/sessions/${id}/events`)),
  );
  expectProblem(await call(url, 'GET', `/v1/sessions/${id}/events`), { status: 429, code: 'listeners_full' });
  await listeners[0]!.close();
  await expect.poll(async () => (await fetch(new URL(`/sessions/${id}/events`, worker.url))).status).toBe(200);
  for (const listener of listeners.slice(1)) await listener.close();
});

describe('the client library', () => {
  it('yields the steps until the session ends', async () => {
    const client = new DdpnoptClient({ url: edge.ready.url });
    const session = await client.createSession({ layers: [...LAYERS] });
    for (let n = 0; n < 2; n++) await putStep(edge.ready.url, session.session.id, n, stepBody(n));
    const seen: TrainingEvent[] = [];
    for await (const event of session.events({ after: -1 })) {
      seen.push(event);
      if (seen.length === 2) await putStep(edge.ready.url, session.session.id, 2, stepBody(2));
      if (seen.length === 3) await session.delete();
    }
    expect(seen.map(({ event, data }) => [event, 'step' in data ? data.step : null])).toEqual([
      ['step', 0],
      ['step', 1],
      ['step', 2],
    ]);
  });

  it('goes on where it was when the worker comes back, without what that has not got', async () => {
    const storage = folder();
    const settings = { DDPNOPT_SNAPSHOT_STEPS: '2' };
    const first = await start({ storage, settings });
    const bodies = bodiesOf({ layers: LAYERS }, 51, 7);
    const edge = await startEdge({ port: 0, workerUrl: first.ready.url });
    try {
      const client = new DdpnoptClient({ url: edge.ready.url });
      const session = await client.createSession({ layers: [...LAYERS] });
      const { id } = session.session;
      const step = async (n: number): Promise<void> => {
        expect((await persistent(() => putStep(edge.ready.url, id, n, bodies[n]!))).status).toBe(200);
      };
      for (let n = 0; n < 3; n++) await step(n);
      const events = session.events({ after: 0 });
      const next = async (): Promise<unknown> => {
        const { value } = await events.next();
        return value === undefined || value.event === 'missed' ? value : value.data.step;
      };
      expect([await next(), await next()]).toEqual([1, 2]);
      await first.stop();
      const second = await startWorker({ port: portOf(first), engine: 'reference', storage, settings });
      try {
        for (let n = 3; n < 6; n++) await step(n);
        expect([await next(), await next(), await next()]).toEqual([3, 4, 5]);
        // Whoever asks for steps from before the snapshot that the worker began with is told so.
        const all = session.events({ after: -1 });
        expect((await all.next()).value).toMatchObject({ event: 'missed', data: { from: 0 } });
        await all.return();
        await events.return();
      } finally {
        await second.stop();
      }
    } finally {
      await edge.stop();
    }
  });
});

it('a worker that is told to stop ends the streams first', async () => {
  const local = await start({ storage: folder() });
  const session = new WorkerSession(local.ready.url);
  await session.create({ layers: LAYERS });
  const listener = await Listener.open(session.url, `/sessions/${session.id}/events`);
  await local.stop();
  expect(await listener.event()).toBe('event: end\ndata: {"reason":"stopped"}');
});

it('drops a reader that does not keep up', async () => {
  const { EventStreams } = await import('../../gpu-worker/server/event-stream.ts');
  const { SessionEvents } = await import('../../gpu-worker/session/session-events.ts');
  const history = new SessionEvents();
  const { metrics } = json(await call(worker.url, 'GET', `/sessions/${await stepped()}`)) as { metrics: never };
  const stream = new EventStreams(1e6).open(history, (listener) => history.listen(null, 0, listener));
  for (let n = 0; history.listeners > 0; n++) {
    expect(n).toBeLessThan(1e5);
    history.record(metrics);
  }
  const text = await new Response(stream).text();
  expect(text).toMatch(/event: end\ndata: \{"reason":"slow"\}\n\n$/);
  expect(text.length).toBeGreaterThan(LIMITS.eventBufferBytes);
  expect(text.length).toBeLessThan(1.1 * LIMITS.eventBufferBytes);
});

async function stepped(): Promise<string> {
  const { id } = await newSession(edge.ready.url);
  await putStep(edge.ready.url, id, 0, stepBody(1));
  return id;
}
