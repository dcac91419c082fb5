/** What requests and answers hold of a worker's memory is bounded: slow readers, slow writers, and those that stop altogether. */
import { once } from 'node:events';
import { request as httpRequest, type ClientRequest, type IncomingMessage } from 'node:http';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest';
import type { ServiceProcess } from '../../deploy/local/child.ts';
import { startEdge } from '../../deploy/local/edge.ts';
import { encode, SAFETENSORS_CONTENT_TYPE } from '../../shared/safetensors.ts';
import type { SessionDefinitionInput } from '../../shared/session.ts';
import { startHeldWorker, type HeldWorker } from './held-worker.ts';
import {
  call,
  describeSession,
  expectProblem,
  getStep,
  newSession,
  putStep,
  stepBody,
  type Answer,
} from './support.ts';

/** Weights of 32 MB: more than all sockets on their way hold. */
const LARGE: SessionDefinitionInput = {
  mode: 'hosted',
  model: { input: [2000], layers: [{ kind: 'dense', name: 'wide', outputs: 2000, bias: false }] },
  loss: { kind: 'mse' },
  optimizer: { metric: { kind: 'identity' } },
};
const WEIGHT_BYTES = 2000 * 2000 * 8;
const SAMPLES = encode([{ name: 'x', shape: [1, 2000], values: new Float32Array(2000) }]);
const FULL = { status: 503, code: 'memory_full' } as const;

let worker: HeldWorker;
let edge: ServiceProcess;
let port: number;
beforeAll(async () => {
  worker = await startHeldWorker();
  port = Number(new URL(worker.url).port);
  edge = await startEdge({ port: 0, workerUrl: worker.url });
  await worker.stop();
});
afterAll(() => edge.stop());

/** Starts the edge's worker with limits of its own. */
async function start(limits: Parameters<typeof startHeldWorker>[0]): Promise<void> {
  worker = await startHeldWorker(limits, port);
}
afterEach(async () => {
  await worker.stop();
  expect(worker.defects).toEqual([]);
});

function eventually(check: () => void): Promise<void> {
  return vi.waitFor(check, { interval: 5, timeout: 60_000 });
}

/** The answer to a GET, of which nothing is read before `read` is called. */
async function slowReader(url: string, path: string): Promise<{ read: () => Promise<number>; leave: () => void }> {
  const request = httpRequest(new URL(path, url), { agent: false });
  request.end();
  const [response] = (await once(request, 'response')) as [IncomingMessage];
  expect(response.statusCode).toBe(200);
  return {
    read: async () => {
      let bytes = 0;
      for await (const chunk of response as AsyncIterable<Uint8Array>) bytes += chunk.length;
      return bytes;
    },
    leave: () => {
      response.on('error', () => undefined);
      request.destroy();
    },
  };
}

describe('answers that nobody reads', () => {
  let large: string;
  let small: string;
  beforeEach(async () => {
    await start({ undeliveredBytes: 1_000_000 });
    large = (await newSession(edge.ready.url, LARGE)).id;
    small = (await newSession(edge.ready.url)).id;
  });
  const weights = (url = edge.ready.url): Promise<Answer> => call(url, 'GET', `/v1/sessions/${large}/weights`);
  const predict = (): Promise<Answer> =>
    call(edge.ready.url, 'POST', `/v1/sessions/${large}/predictions`, {
      body: SAMPLES,
      type: SAFETENSORS_CONTENT_TYPE,
    });

  it('keep others from being computed, and change nothing, until they are read', async () => {
    const { url } = edge.ready;
    const first = await putStep(url, small, 0, stepBody(1));
    const reader = await slowReader(url, `/v1/sessions/${large}/weights`);
    for (const answer of [await weights(), await predict(), await putStep(url, small, 1, stepBody(2))]) {
      const { retryable } = expectProblem(answer, { ...FULL, mentions: ['1000000'] });
      expect(retryable).toBe(true);
    }
    expect(worker.computed).toEqual(['step', 'weights']);
    expect((await describeSession(url, small)).nextStep).toBe(1);
    // What is there already is given: to whoever asks again for a reply, too.
    for (const answer of [await getStep(url, small, 0), await putStep(url, small, 0, stepBody(1))]) {
      expect(Buffer.compare(answer.bytes, first.bytes)).toBe(0);
    }

    expect(await reader.read()).toBeGreaterThan(WEIGHT_BYTES);
    await eventually(() => {
      expect(worker.open.size).toBe(0);
    });
    expect((await weights()).status).toBe(200);
    expect((await predict()).status).toBe(200);
    expect((await putStep(url, small, 1, stepBody(2))).status).toBe(200);
  });

  it('are given up when their clients go away', async () => {
    for (let i = 0; i < 3; i++) {
      const reader = await slowReader(edge.ready.url, `/v1/sessions/${large}/weights`);
      expectProblem(await predict(), FULL);
      reader.leave();
      await eventually(() => {
        expect(worker.open.size).toBe(0);
      });
      expect((await predict()).status).toBe(200);
    }
  });
});

describe('an answer of which nothing more is read', () => {
  it('is broken off, and others are computed again', async () => {
    await start({ undeliveredBytes: 1_000_000, stallMilliseconds: 1000 });
    const { id } = await newSession(edge.ready.url, LARGE);
    const reader = await slowReader(edge.ready.url, `/v1/sessions/${id}/weights`);
    await eventually(() => {
      expect(worker.open.size).toBe(0);
    });
    expect((await call(edge.ready.url, 'GET', `/v1/sessions/${id}/weights`)).status).toBe(200);
    reader.leave();
  });
});

describe('bodies that are on their way', () => {
  const BODY = stepBody(1);

  /** A step whose sender stops before the last bytes. */
  function slowWriter(url: string, path: string): { request: ClientRequest; status: Promise<number | undefined> } {
    const headers = { 'content-type': SAFETENSORS_CONTENT_TYPE, 'content-length': BODY.length };
    const request = httpRequest(new URL(path, url), { method: 'PUT', headers, agent: false });
    const status = new Promise<number | undefined>((resolve, reject) => {
      request.once('response', (response) => {
        response.resume();
        resolve(response.statusCode);
      });
      request.once('error', reject);
    });
    request.write(BODY.subarray(0, -8));
    return { request, status };
  }

  it('are bounded by what they announce, and the next is taken when one is done', async () => {
    await start({ bodyBytesInMemory: 2 * BODY.length - 1 });
    const { url } = edge.ready;
    const [first, second] = [await newSession(url), await newSession(url)];
    const { request, status } = slowWriter(url, `/v1/sessions/${first.id}/steps/0`);
    await eventually(() => {
      expect(worker.open.size).toBe(1);
    });
    expectProblem(await putStep(url, second.id, 0, BODY), { ...FULL, mentions: [String(BODY.length)] });
    request.end(BODY.subarray(-8));
    expect(await status).toBe(200);
    expect((await putStep(url, second.id, 0, BODY)).status).toBe(200);
  });

  it('count until the work on them is done', async () => {
    await start({ bodyBytesInMemory: 2 * BODY.length - 1 });
    const { url } = edge.ready;
    const [first, second] = [await newSession(url), await newSession(url)];
    const release = worker.hold();
    const computing = putStep(url, first.id, 0, BODY);
    await eventually(() => {
      expect(worker.computed).toEqual(['step']);
    });
    expectProblem(await putStep(url, second.id, 0, BODY), FULL);
    release();
    expect((await computing).status).toBe(200);
    expect((await putStep(url, second.id, 0, BODY)).status).toBe(200);
  });

  it('are given up when nothing more comes; the session is as it was', async () => {
    await start({ bodyBytesInMemory: 2 * BODY.length - 1, stallMilliseconds: 300 });
    const { id } = await newSession(edge.ready.url);
    const { status } = slowWriter(worker.url, `/sessions/${id}/steps/0`);
    await expect(status).rejects.toMatchObject({ code: 'ECONNRESET' });
    await eventually(() => {
      expect(worker.open.size).toBe(0);
    });
    expect((await describeSession(edge.ready.url, id)).nextStep).toBe(0);
    expect((await putStep(edge.ready.url, id, 0, BODY)).status).toBe(200);
  });

  it('may wait for their turn longer than a sender may pause', async () => {
    await start({ stallMilliseconds: 300 });
    const { id } = await newSession(edge.ready.url);
    const release = worker.hold();
    const step = putStep(edge.ready.url, id, 0, BODY);
    await eventually(() => {
      expect(worker.computed).toEqual(['step']);
    });
    // The limit of a body that has come in would have run out by then.
    const stalled = slowWriter(worker.url, `/sessions/${id}/steps/0`);
    await expect(stalled.status).rejects.toMatchObject({ code: 'ECONNRESET' });
    release();
    expect((await step).status).toBe(200);
  });
});
