/** What the client does when connections break, the service is busy, or has lost steps. */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import {
  ConnectionError,
  DdpnoptClient,
  DdpnoptError,
  ReplayError,
  type HostedTrainingSession,
  type RequestEvent,
  type Timing,
} from '../../clients/js/index.ts';
import type { HostedDefinitionInput } from '../../shared/hosted-definition.ts';
import { startCuttingProxy, type Cut, type CuttingProxy } from './cutting-proxy.ts';
import { serveTests } from './stack.ts';

const DEFINITION: Omit<HostedDefinitionInput, 'mode'> = {
  model: { input: [3], layers: [{ kind: 'dense', name: 'line', outputs: 2 }] },
  loss: { kind: 'mse' },
};

/** Batches of one size, so that all requests are of one length. */
const batchOf = (n: number) => ({
  x: Float32Array.from({ length: 48 }, (_, i) => Math.sin(i + n)),
  y: Float32Array.from({ length: 32 }, (_, i) => Math.cos(i * n)),
});

/** Waits take no time, and are noted; the bounds on attempts are not reached. */
function instantTiming(random = 0.5): Timing & { readonly waits: number[] } {
  const waits: number[] = [];
  let clock = 0;
  return {
    waits,
    now: () => clock,
    random: () => random,
    schedule: (milliseconds, callback) => {
      if (milliseconds >= 300_000) return () => undefined;
      waits.push(milliseconds);
      const handle = setImmediate(() => {
        clock += milliseconds;
        callback();
      });
      return () => {
        clearImmediate(handle);
      };
    },
  };
}

const stack = serveTests({ engine: 'reference' });

const servers: Server[] = [];
afterEach(() => {
  for (const server of servers.splice(0)) {
    server.closeAllConnections();
    server.close();
  }
});

async function serve(answer: (request: IncomingMessage, response: ServerResponse) => void): Promise<string> {
  const server = createServer(answer);
  servers.push(server);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

async function weightsOf(session: HostedTrainingSession): Promise<unknown> {
  return Object.fromEntries(await session.weights());
}

describe('a connection that breaks', () => {
  let proxy: CuttingProxy;
  beforeAll(async () => {
    proxy = await startCuttingProxy(stack.url);
  });
  afterAll(() => {
    proxy.close();
  });

  /** Bytes of a whole message and of its head. */
  const sizes = (message: Buffer) => ({ all: message.length, head: message.indexOf('\r\n\r\n') + 4 });

  it('wherever it does: every step is applied exactly once', async () => {
    const events: RequestEvent[] = [];
    const client = new DdpnoptClient({
      url: proxy.url,
      timing: instantTiming(),
      onRequest: (event) => events.push(event),
    });
    const session = await client.createHostedSession(DEFINITION);
    const unbroken = await new DdpnoptClient({ url: stack.url }).createHostedSession(DEFINITION);

    proxy.set(null);
    const metrics = [await session.step(batchOf(0))];
    const request = sizes(proxy.passed().request);
    const answer = sizes(proxy.passed().answer);
    expect(request.head).toBeLessThan(request.all - 200);
    const cuts: Record<string, Cut> = {
      'before the head': { side: 'request', bytes: 0 },
      'at its first byte': { side: 'request', bytes: 1 },
      'inside the head': { side: 'request', bytes: Math.floor(request.head / 2) },
      'before the last byte of the head': { side: 'request', bytes: request.head - 1 },
      'between head and body': { side: 'request', bytes: request.head },
      'inside the safetensors header': { side: 'request', bytes: request.head + 20 },
      'inside the tensors': { side: 'request', bytes: request.all - 100 },
      'before the last byte of the body': { side: 'request', bytes: request.all - 1 },
      'behind the body': { side: 'request', bytes: request.all },
      'before the answer': { side: 'answer', bytes: 0 },
      'inside the answer’s head': { side: 'answer', bytes: Math.floor(answer.head / 2) },
      'between the answer’s head and body': { side: 'answer', bytes: answer.head },
      'inside the answer’s body': { side: 'answer', bytes: Math.floor((answer.head + answer.all) / 2) },
      'before the answer’s last byte': { side: 'answer', bytes: answer.all - 1 },
    };
    for (const [index, [where, cut]] of Object.entries(cuts).entries()) {
      const before = events.length;
      proxy.set(cut);
      metrics.push(await session.step(batchOf(index + 1)));
      expect({ where, hasCut: proxy.passed().hasCut }).toEqual({ where, hasCut: true });
      const kinds = events.slice(before).map(({ kind }) => kind);
      expect({ where, kinds }).toEqual({ where, kinds: ['sent', 'retry', 'sent', 'answered'] });
    }
    const expected = [];
    for (let n = 0; n < metrics.length; n++) expected.push(await unbroken.step(batchOf(n)));
    expect(metrics).toEqual(expected);
    expect(await session.describe()).toMatchObject({ nextStep: metrics.length });
    expect(await weightsOf(session)).toEqual(await weightsOf(unbroken));
    expect(session.history.columns.loss).toEqual(metrics.map(({ loss }) => loss));
    await session.delete();
    await unbroken.delete();
  });

  it('wherever it does: parts and their commit make one step', async () => {
    const client = new DdpnoptClient({ url: proxy.url, timing: instantTiming() });
    const session = await client.createHostedSession(DEFINITION);
    const unbroken = await new DdpnoptClient({ url: stack.url }).createHostedSession(DEFINITION);
    const half = (n: number, k: number) => {
      const { x, y } = batchOf(n);
      return { x: x.slice(24 * k, 24 * (k + 1)), y: y.slice(16 * k, 16 * (k + 1)) };
    };
    const ways = [
      () => session.sendPart(0, half(0, 0)),
      () => session.sendPart(1, half(0, 1)),
      () => session.commit(2),
    ];
    // Nothing is cut in the first step: it says how long the messages are.
    const lengths: { readonly request: number; readonly answer: number }[] = [];
    for (const send of ways) {
      proxy.set(null);
      await send();
      const { request, answer } = proxy.passed();
      lengths.push({ request: request.length, answer: answer.length });
    }
    const shares = [0, 0.1, 0.5, 0.9, 1];
    const cuts = (['request', 'answer'] as const).flatMap((side) =>
      // An answer that has passed as a whole is not cut.
      shares.filter((share) => side === 'request' || share < 1).map((share) => ({ side, share })),
    );
    for (const [index, { side, share }] of cuts.entries()) {
      const n = index + 1;
      const sends = [
        () => session.sendPart(0, half(n, 0)),
        () => session.sendPart(1, half(n, 1)),
        () => session.commit(2),
      ];
      for (const [position, send] of sends.entries()) {
        // Of the least that the message has: numbers of steps grow.
        proxy.set({ side, bytes: Math.floor(share * lengths[position]![side]) });
        await send();
        expect({ side, share, position, hasCut: proxy.passed().hasCut }).toMatchObject({ hasCut: true });
      }
    }
    for (let n = 0; n <= cuts.length; n++) await unbroken.step(batchOf(n));
    expect(session.history.columns.loss).toEqual(unbroken.history.columns.loss);
    expect(await session.describe()).toMatchObject({ nextStep: cuts.length + 1 });
    expect(await weightsOf(session)).toEqual(await weightsOf(unbroken));
    await session.delete();
    await unbroken.delete();
  });

  it('as often as attempts are allowed: the error says so, and the step can be taken later', async () => {
    const events: RequestEvent[] = [];
    const client = new DdpnoptClient({
      url: proxy.url,
      retry: { attempts: 3 },
      timing: instantTiming(),
      onRequest: (event) => {
        events.push(event);
        if (event.kind === 'sent' && event.method === 'PUT') proxy.set({ side: 'answer', bytes: 0 });
      },
    });
    const session = await client.createHostedSession(DEFINITION);
    const error: unknown = await session.step(batchOf(0)).catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(ConnectionError);
    expect((error as ConnectionError).requestId).toMatch(/^[0-9a-f]{32}$/);
    expect(events.filter(({ kind, method }) => kind === 'sent' && method === 'PUT')).toHaveLength(3);
    proxy.set(null);
    expect(session.nextStep).toBe(0);
    const other = new DdpnoptClient({ url: stack.url });
    const opened = await other.openHostedSession(session.session.id);
    // It was applied all the same; the first of the three answers had been on its way.
    expect(opened.nextStep).toBe(1);
    await opened.delete();
  });

  it('while a session is created: nothing is sent twice', async () => {
    const sent: RequestEvent[] = [];
    const timing = instantTiming();
    const client = new DdpnoptClient({ url: proxy.url, timing, onRequest: (event) => sent.push(event) });
    proxy.set({ side: 'answer', bytes: 0 });
    await expect(client.createHostedSession(DEFINITION)).rejects.toBeInstanceOf(ConnectionError);
    expect(sent.map(({ kind }) => kind)).toEqual(['sent']);
    expect(timing.waits).toEqual([]);
    proxy.set(null);
  });

  it('while something is deleted: it is gone, and that is no error', async () => {
    const client = new DdpnoptClient({ url: proxy.url, timing: instantTiming() });
    const session = await client.createHostedSession(DEFINITION);
    proxy.set({ side: 'answer', bytes: 0 });
    await session.delete();
    expect(proxy.passed().hasCut).toBe(true);
    await expect(session.delete()).rejects.toMatchObject({ code: 'session_not_found' });
  });
});

describe('a service that is busy', () => {
  const problem = (retryable: boolean) =>
    JSON.stringify({
      type: '/problems/queue_full',
      title: 'Too many steps are waiting',
      status: 429,
      detail: 'The queue is full.',
      remedy: 'Send it again.',
      code: 'queue_full',
      param: 'n',
      retryable,
      request_id: 'theirs',
    });
  const refuse =
    (retryable: boolean, retryAfter?: string) =>
    (_: IncomingMessage, response: ServerResponse): void => {
      response
        .writeHead(429, {
          'content-type': 'application/problem+json',
          ...(retryAfter === undefined ? {} : { 'retry-after': retryAfter }),
        })
        .end(problem(retryable));
    };

  it('is asked again after its Retry-After and a random wait that doubles; then its refusal is thrown', async () => {
    const timing = instantTiming(0.25);
    const retry = { attempts: 5, baseMilliseconds: 100, maximumMilliseconds: 300 };
    const client = new DdpnoptClient({ url: await serve(refuse(true, '2')), retry, timing });
    const error: unknown = await client.openSession('ses_0').catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(DdpnoptError);
    expect(error).toMatchObject({ code: 'queue_full', param: 'n', remedy: 'Send it again.', requestId: 'theirs' });
    expect(timing.waits).toEqual([2025, 2050, 2075, 2075]);
  });

  it('is not asked beyond the total time', async () => {
    const timing = instantTiming(0);
    const client = new DdpnoptClient({
      url: await serve(refuse(true, '30')),
      retry: { totalMilliseconds: 70_000 },
      timing,
    });
    await expect(client.openSession('ses_0')).rejects.toMatchObject({ code: 'queue_full' });
    expect(timing.waits).toEqual([30_000, 30_000]);
  });

  it('is not asked again where its refusal is final, or the request no one to be repeated', async () => {
    const timing = instantTiming();
    const final = new DdpnoptClient({ url: await serve(refuse(false)), timing });
    await expect(final.openSession('ses_0')).rejects.toMatchObject({ code: 'queue_full' });
    const busy = new DdpnoptClient({ url: await serve(refuse(true)), timing });
    await expect(busy.createSession({ layers: [] })).rejects.toMatchObject({ code: 'queue_full' });
    expect(timing.waits).toEqual([]);
  });

  it('is left as soon as the signal says so', async () => {
    const abort = new AbortController();
    const never: Timing = { now: () => 0, random: () => 0.5, schedule: () => () => undefined };
    const client = new DdpnoptClient({
      url: await serve(refuse(true)),
      timing: never,
      onRequest: ({ kind }) => {
        if (kind === 'retry') queueMicrotask(() => { abort.abort(new Error('enough')); }); // prettier-ignore
      },
    });
    await expect(client.openSession('ses_0', { signal: abort.signal })).rejects.toThrow('enough');
  });

  it('is given up when it does not answer in time, and asked again', async () => {
    const due: (() => void)[] = [];
    let requests = 0;
    const url = await serve(() => {
      requests++;
      due.shift()!();
    });
    const timing: Timing = {
      now: () => 0,
      random: () => 0,
      schedule: (milliseconds, callback) => {
        if (milliseconds === 1234) due.push(callback);
        else setImmediate(callback);
        return () => undefined;
      },
    };
    const client = new DdpnoptClient({ url, timing, retry: { attempts: 2 }, timeoutMilliseconds: 1234 });
    await expect(client.openSession('ses_0')).rejects.toThrow(/no answer within 1234 ms/);
    expect(requests).toBe(2);
  });

  it.each([{ attempts: 0 }, { attempts: 1.5 }, { baseMilliseconds: -1 }, { totalMilliseconds: Number.NaN }])(
    'refuses a policy that is none: %j',
    (retry) => {
      expect(() => new DdpnoptClient({ url: stack.url, retry })).toThrow(RangeError);
    },
  );
});

describe('a service that has lost steps', () => {
  /** The stack behind a server in which one session takes another's place: restored from a checkpoint, it lacks what came after. */
  async function rewindable(): Promise<{ url: string; replace: (old: string, next: string) => void }> {
    const places = new Map<string, string>();
    const url = await serve((request, response) => {
      void (async () => {
        const chunks: Buffer[] = [];
        for await (const chunk of request) chunks.push(chunk as Buffer);
        let path = request.url!;
        for (const [old, next] of places) path = path.replace(old, next);
        const answer = await fetch(new URL(path, stack.url), {
          method: request.method!,
          headers: { 'content-type': request.headers['content-type'] ?? '' },
          ...(chunks.length === 0 ? {} : { body: Buffer.concat(chunks) }),
        });
        response.writeHead(answer.status, { 'content-type': answer.headers.get('content-type') ?? '' });
        response.end(Buffer.from(await answer.arrayBuffer()));
      })();
    });
    return { url, replace: (old, next) => places.set(old, next) };
  }

  async function lose(replay?: { steps?: number; bytes?: number }) {
    const { url, replace } = await rewindable();
    const client = new DdpnoptClient({ url, timing: instantTiming(), ...(replay === undefined ? {} : { replay }) });
    const session = await client.createHostedSession(DEFINITION);
    for (let n = 0; n < 2; n++) await session.step(batchOf(n));
    const checkpoint = await session.makeCheckpoint();
    for (let n = 2; n < 6; n++) await session.step(batchOf(n));
    const restored = await client.resumeHostedSession(checkpoint.id);
    expect(restored.nextStep).toBe(2);
    replace(session.session.id, restored.session.id);
    return session;
  }

  it('is sent them again, and ends where it would have without the loss', async () => {
    const session = await lose();
    const unbroken = await new DdpnoptClient({ url: stack.url }).createHostedSession(DEFINITION);
    const expected = [];
    for (let n = 0; n < 7; n++) expected.push(await unbroken.step(batchOf(n)));
    expect(await session.step(batchOf(6))).toEqual(expected[6]);
    expect(session.nextStep).toBe(7);
    expect(await weightsOf(session)).toEqual(await weightsOf(unbroken));
    expect(session.history.columns.loss).toEqual(expected.map(({ loss }) => loss));
  });

  it.each([
    { steps: 3, oldestHeld: 3 },
    { steps: 0, oldestHeld: null },
    { bytes: 1, oldestHeld: null },
  ])('is told plainly when they are no longer held: %j', async ({ oldestHeld, ...replay }) => {
    const session = await lose(replay);
    const error: unknown = await session.step(batchOf(6)).catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(ReplayError);
    expect(error).toMatchObject({ resumeFrom: 2, oldestHeld, cause: { code: 'session_rewound' } });
    expect((error as Error).message).toMatch(/has lost the steps from 2 on.*resynchronise/);
    await session.resynchronise();
    expect((await session.step(batchOf(2))).step).toBe(2);
  });
});
