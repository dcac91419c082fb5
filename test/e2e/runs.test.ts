/** Data sets and runs through the edge: what is taken, what is refused, and what is told while a run goes on. */
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { EDGE_RUNTIMES, startEdge } from '../../deploy/local/edge.ts';
import type { ServiceProcess } from '../../deploy/local/child.ts';
import { dataSetSchema, type DataSet } from '../../shared/data-set.ts';
import { LIMITS } from '../../shared/limits.ts';
import { runListSchema, runSchema, type Run, type RunOrderInput } from '../../shared/run.ts';
import { encode, SAFETENSORS_CONTENT_TYPE } from '../../shared/safetensors.ts';
import type { HostedSession, Session } from '../../shared/session.ts';
import { batches, chunk, CHUNKS, HOSTED, SAMPLES } from './data-sets.ts';
import { startHeldWorker, type HeldWorker } from './held-worker.ts';
import { Listener } from './listener.ts';
import { call, describeSession, expectProblem, json, newSession, putStep, type Answer } from './support.ts';

const PLAN = { batch: 6, order: { kind: 'shuffled', seed: 3 } } as const;
/** It ends when the test is done with it, and not before. */
const LONG = { ...PLAN, steps: LIMITS.runSteps };

let worker: HeldWorker;
beforeAll(async () => {
  worker = await startHeldWorker();
});
afterAll(async () => {
  await worker.stop();
  expect(worker.defects).toEqual([]);
});

describe.each(EDGE_RUNTIMES)('an edge in %s', (runtime) => {
  let edge: ServiceProcess;
  let url: string;
  let session: Session;
  const path = (rest: string): string => `/v1/sessions/${session.id}${rest}`;
  const begin = (n: number | string, order: object): Promise<Answer> =>
    call(url, 'PUT', path(`/runs/${n}`), { body: JSON.stringify(order), type: 'application/json' });
  const run = async (n: number): Promise<Run> => runSchema.parse(json(await call(url, 'GET', path(`/runs/${n}`))));
  const cancel = async (n: number): Promise<Run> =>
    runSchema.parse(json(await call(url, 'DELETE', path(`/runs/${n}`))));
  const putChunk = (k: number | string, body: Uint8Array<ArrayBuffer>): Promise<Answer> =>
    call(url, 'PUT', path(`/data/${k}`), { body, type: SAFETENSORS_CONTENT_TYPE });
  const data = async (): Promise<DataSet> => dataSetSchema.parse(json(await call(url, 'GET', path('/data'))));
  const upload = async (): Promise<void> => {
    for (const [k, body] of CHUNKS().entries()) expect((await putChunk(k, body)).status).toBe(200);
  };
  const listen = (n: number, order: RunOrderInput | null, after?: number): Promise<Listener> =>
    Listener.open(
      url,
      path(`/runs/${n}`),
      {
        accept: 'text/event-stream',
        'content-type': 'application/json',
        ...(after === undefined ? {} : { 'last-event-id': String(after) }),
      },
      order === null ? {} : { method: 'PUT', body: JSON.stringify(order) },
    );

  beforeAll(async () => {
    edge = await startEdge({ port: 0, workerUrl: worker.url, runtime });
    ({ url } = edge.ready);
  });
  afterAll(() => edge.stop());
  afterEach(async () => {
    await call(url, 'DELETE', path(''));
  });

  describe('a data set', () => {
    it('is put together from chunks, which are taken once each, in any order and form', async () => {
      session = await newSession(url, HOSTED);
      expect(await data()).toEqual({ samples: 0, bytes: 0, chunks: [], missingChunks: [] });
      const [first, second, third] = CHUNKS();
      expect((await putChunk(2, third!)).status).toBe(200);
      expect(await data()).toMatchObject({ samples: 10, missingChunks: [0, 1] });
      const document = JSON.stringify({ x: [[0, 0.5, 1, -1, 2]], y: [2] });
      const sent = await call(url, 'PUT', path('/data/3'), { body: document, type: 'application/json' });
      expect(dataSetSchema.parse(json(sent)).chunks.map(({ chunk: k, samples }) => [k, samples])).toEqual([[2, 10], [3, 1]]); // prettier-ignore
      const both = await Promise.all([putChunk(1, second!), putChunk(1, second!), putChunk(0, first!)]);
      expect(both.map(({ status }) => status)).toEqual([200, 200, 200]);
      const whole = await data();
      expect(whole.chunks.map(({ firstSample }) => firstSample)).toEqual([0, 7, 30, 40]);
      expect(whole).toMatchObject({ samples: 41, missingChunks: [] });
      const digest = Buffer.from(await crypto.subtle.digest('SHA-256', second!)).toString('hex');
      expect(whole.chunks[1]).toMatchObject({ bytes: second!.length, digest });
      // Once more, and with other samples.
      expect((await putChunk(1, second!)).status).toBe(200);
      expectProblem(await putChunk(1, third!), { status: 422, code: 'chunk_conflict', param: 'k' });
      expect(await data()).toEqual(whole);
      expect((await call(url, 'DELETE', path('/data'))).status).toBe(204);
      expect(await data()).toMatchObject({ samples: 0, chunks: [] });
      expect((await putChunk(1, third!)).status).toBe(200);
    });

    it('is refused with what is wrong in it, and is then as it was', async () => {
      session = await newSession(url, HOSTED);
      const x = (values: readonly number[], shape: readonly number[]) => ({ name: 'x', shape, values: Float32Array.from(values) }); // prettier-ignore
      const y = (...values: number[]) => ({ name: 'y', shape: [values.length], values: Float32Array.from(values) });
      const row = [0, 0, 0, 0, 0];
      const refused = [
        [encode([x(row, [1, 5])]), 'missing_tensor', 'y'],
        [encode([x([0, 0, 0, 0], [1, 4]), y(0)]), 'shape_mismatch', 'x'],
        [encode([x(row, [1, 5]), y(0, 1)]), 'shape_mismatch', 'y'],
        [encode([x(row, [1, 5]), y(0), { ...y(0), name: 'z' }]), 'unknown_tensor', 'z'],
        [encode([x([0, 0, NaN, 0, 0], [1, 5]), y(0)]), 'non_finite_value', 'x'],
        [encode([x(row, [1, 5]), y(3)]), 'invalid_index', 'y'],
        [encode([x(row, [1, 5]), y(0), { ...y(-1), name: 'sample_weights' }]), 'invalid_parameter', 'sample_weights'],
        [encode([x([], [0, 5]), y()]), 'shape_mismatch', 'x'],
      ] as const;
      for (const [body, code, param] of refused) {
        expectProblem(await putChunk(0, body), { status: 422, code, param });
      }
      for (const k of ['x', '-1', '01', String(LIMITS.dataChunks)]) {
        expectProblem(await putChunk(k, chunk(0, 1)), { status: 422, code: 'invalid_parameter', param: 'k' });
      }
      expect(await data()).toMatchObject({ samples: 0, chunks: [] });
      // More than a step may have.
      const many = LIMITS.batch + 1;
      const large = encode([x(Array.from({ length: 5 * many }, () => 0), [many, 5]), y(...Array.from({ length: many }, () => 0))]); // prettier-ignore
      expect((await putChunk(0, large)).status).toBe(200);
    });

    it('belongs to a hosted session', async () => {
      session = await newSession(url);
      const problem = { status: 409, code: 'not_hosted' } as const;
      expectProblem(await putChunk(0, chunk(0, 1)), problem);
      expectProblem(await call(url, 'GET', path('/data')), problem);
      expectProblem(await call(url, 'DELETE', path('/data')), problem);
      expectProblem(await begin(0, LONG), problem);
    });
  });

  describe('a run', () => {
    it('is refused with what is wrong, and there is then none', async () => {
      session = await newSession(url, HOSTED);
      const none = expectProblem(await begin(0, LONG), { status: 412, code: 'data_missing' });
      expect(none.missingChunks).toEqual([0]);
      const [first, second, third] = CHUNKS();
      await putChunk(0, first!);
      await putChunk(2, third!);
      const gap = expectProblem(await begin(0, LONG), { status: 412, code: 'data_missing' });
      expect(gap.missingChunks).toEqual([1]);
      await putChunk(1, second!);
      const wrong = [
        [{ ...PLAN }, 'steps'],
        [{ ...PLAN, steps: 0 }, 'steps'],
        [{ ...PLAN, steps: LIMITS.runSteps + 1 }, 'steps'],
        [{ ...LONG, batch: SAMPLES + 1 }, 'batch'],
        [{ ...LONG, order: { kind: 'random' } }, 'order.kind'],
        [{ ...LONG, order: { kind: 'sequential', seed: 1 } }, 'order.seed'],
        [{ ...LONG, epochs: 3 }, 'epochs'],
      ] as const;
      for (const [order, param] of wrong) {
        expectProblem(await begin(0, order), { status: 422, code: 'invalid_parameter', param });
      }
      const ahead = expectProblem(await begin(2, LONG), { status: 412, code: 'step_out_of_order' });
      expect(ahead.expectedStep).toBe(0);
      expectProblem(await begin('x', LONG), { status: 422, code: 'invalid_parameter', param: 'n' });
      expectProblem(await call(url, 'GET', path('/runs/0')), { status: 404, code: 'run_not_found' });
      expectProblem(await call(url, 'DELETE', path('/runs/0')), { status: 404, code: 'run_not_found' });
      expect((await putStep(url, session.id, 0, chunk(0, 6))).status).toBe(200);
      expectProblem(await begin(0, LONG), { status: 409, code: 'step_applied' });
      expect(runListSchema.parse(json(await call(url, 'GET', path('/runs')))).runs).toEqual([]);
    });

    it('tells its steps as they are taken, and ends as the steps of a client end', async () => {
      const other = await newSession(url, HOSTED);
      const metrics: unknown[] = [];
      for (const [n, body] of batches(PLAN, 0, 8).entries()) metrics.push(json(await putStep(url, other.id, n, body)));
      const weights = await call(url, 'GET', `/v1/sessions/${other.id}/weights`);
      await call(url, 'DELETE', `/v1/sessions/${other.id}`);

      session = await newSession(url, HOSTED);
      await upload();
      const release = worker.hold();
      const order = { ...PLAN, steps: 8 };
      const listener = await listen(0, order);
      // Nothing is computed yet, and nothing held back.
      const begun = runSchema.parse((await listener.parsed())!.data);
      expect(begun).toMatchObject({
        ...order,
        state: 'running',
        firstStep: 0,
        nextStep: 0,
        samples: SAMPLES,
        metrics: null,
      });
      expect(((await describeSession(url, session.id)) as HostedSession).run).toBe(0);
      release();
      for (const expected of metrics) expect(await listener.parsed()).toEqual({ event: 'step', data: expected });
      const last = await listener.parsed();
      const ended = runSchema.parse(last!.data);
      expect(ended).toMatchObject({ ...order, state: 'finished', nextStep: 8, metrics: metrics[7], problem: null });
      expect(ended.endedAt).not.toBeNull();
      expect(await listener.event()).toBeNull();
      expect(Buffer.compare((await call(url, 'GET', path('/weights'))).bytes, weights.bytes)).toBe(0);
      expect(((await describeSession(url, session.id)) as HostedSession).run).toBeNull();

      // Asked for again it is the same one: what is told goes on after what was seen.
      const again = await begin(0, order);
      expect([again.status, json(again)]).toEqual([200, ended]);
      expect(await run(0)).toEqual(ended);
      for (const late of [await listen(0, order, 5), await listen(0, null, 5)]) {
        expect(await late.parsed()).toEqual({ event: 'step', data: metrics[6] });
        expect(await late.parsed()).toEqual({ event: 'step', data: metrics[7] });
        expect(await late.parsed()).toEqual({ event: 'run', data: ended });
        expect(await late.event()).toBeNull();
      }
      expectProblem(await begin(0, { ...order, steps: 9 }), { status: 422, code: 'run_conflict', param: 'n' });
      expectProblem(await begin(3, order), { status: 409, code: 'step_applied' });
      // The session's own events know of its steps, too.
      const events = await Listener.open(url, path('/events'), { 'last-event-id': '6' });
      expect(await events.parsed()).toEqual({ event: 'step', data: metrics[7] });
      await events.close();
    });

    it('goes on when its client leaves; nobody else takes steps meanwhile; cancelled, it keeps what it has taken', async () => {
      session = await newSession(url, HOSTED);
      await upload();
      const listener = await listen(0, LONG);
      await listener.parsed();
      await listener.parsed();
      await listener.close();
      const before = (await run(0)).nextStep;
      await expect.poll(async () => (await run(0)).nextStep).toBeGreaterThan(before);

      const refused = { status: 409, code: 'run_in_progress' } as const;
      expectProblem(await putStep(url, session.id, LIMITS.runSteps, chunk(0, 6)), refused);
      expectProblem(await begin(LIMITS.runSteps, LONG), refused);
      expectProblem(await call(url, 'DELETE', path('/data')), refused);
      const part = path(`/steps/${LIMITS.runSteps}/parts/0`);
      expectProblem(await call(url, 'PUT', part, { body: chunk(0, 2), type: SAFETENSORS_CONTENT_TYPE }), refused);
      // What does not take steps comes between them; another session is not held up.
      expect((await putChunk(3, chunk(0, 5))).status).toBe(200);
      expect((await call(url, 'GET', path('/weights'))).status).toBe(200);
      const learningRate = { kind: 'constant', value: 2 };
      const change = { body: JSON.stringify({ optimizer: { learningRate } }), type: 'application/json' };
      expect((await call(url, 'PATCH', path(''), change)).status).toBe(200);
      const other = await newSession(url, HOSTED);
      expect((await putStep(url, other.id, 0, chunk(0, 6))).status).toBe(200);
      expect((await call(url, 'DELETE', `/v1/sessions/${other.id}`)).status).toBe(204);
      expect((await begin(0, LONG)).status).toBe(202);

      const cancelled = await cancel(0);
      expect(cancelled).toMatchObject({ state: 'cancelled', samples: SAMPLES, problem: null });
      expect(cancelled.metrics?.step).toBe(cancelled.nextStep - 1);
      expect(cancelled.metrics?.learningRate).toBe(2);
      expect(await cancel(0)).toEqual(cancelled);
      const { nextStep } = await describeSession(url, session.id);
      expect(nextStep).toBe(cancelled.nextStep);
      // Next come the client's steps, and a run that has the samples that were added.
      expect((await putStep(url, session.id, nextStep, chunk(0, 6))).status).toBe(200);
      expect(json(await begin(nextStep + 1, { ...PLAN, steps: 2 }))).toMatchObject({ samples: SAMPLES + 5 });
    });

    it('ends with the step that cannot be computed, and says why', async () => {
      session = await newSession(url, HOSTED);
      await putChunk(
        0,
        encode([
          { name: 'x', shape: [2, 5], values: new Float32Array(10).fill(3e38) },
          { name: 'y', shape: [2], values: Float32Array.from([0, 1]) },
        ]),
      );
      const listener = await listen(0, { steps: 50, batch: 2, order: { kind: 'sequential' } });
      let last: unknown = null;
      for (let event = await listener.parsed(); event !== null; event = await listener.parsed()) last = event.data;
      const failed = runSchema.parse(last);
      expect(failed).toMatchObject({ state: 'failed', problem: { code: 'numerical_failure' } });
      const { nextStep } = await describeSession(url, session.id);
      expect(nextStep).toBe(failed.nextStep);
      // It has taken none: its number is free.
      expect(nextStep).toBe(0);
      const order = { steps: 1, batch: 1, order: { kind: 'sequential' } };
      for (let again = 0; again < 2; again++) {
        expect(json(await begin(0, order))).toMatchObject({ ...order, state: 'running' });
        await expect.poll(async () => (await run(0)).state).toBe('failed');
      }
    });

    it('ends with its session', async () => {
      session = await newSession(url, HOSTED);
      await upload();
      const listener = await listen(0, LONG);
      await listener.parsed();
      expect((await call(url, 'DELETE', path(''))).status).toBe(204);
      for (;;) {
        const event = await listener.parsed();
        if (event?.event === 'step') continue;
        expect(event).toEqual({ event: 'end', data: { reason: 'deleted' } });
        break;
      }
      expect(await listener.event()).toBeNull();
    });

    it('is no part of a checkpoint, and neither is the data set', async () => {
      session = await newSession(url, HOSTED);
      await upload();
      await begin(0, { ...PLAN, steps: 3 });
      await expect.poll(async () => (await run(0)).state).toBe('finished');
      const made = json(await call(url, 'POST', path('/checkpoints'))) as { id: string; bytes: number };
      const body = JSON.stringify({ fromCheckpoint: made.id });
      const resumed = json(await call(url, 'POST', '/v1/sessions', { body, type: 'application/json' })) as Session;
      const other = `/v1/sessions/${resumed.id}`;
      expect(resumed.nextStep).toBe(3);
      expect(json(await call(url, 'GET', `${other}/data`))).toMatchObject({ samples: 0 });
      expect(json(await call(url, 'GET', `${other}/runs`))).toEqual({ runs: [] });
      // With the data set sent anew it goes on as this one does.
      for (const [k, chunkBody] of CHUNKS().entries()) {
        await call(url, 'PUT', `${other}/data/${k}`, { body: chunkBody, type: SAFETENSORS_CONTENT_TYPE });
      }
      const order = { body: JSON.stringify({ ...PLAN, steps: 4 }), type: 'application/json' };
      await call(url, 'PUT', `${other}/runs/3`, order);
      await call(url, 'PUT', path('/runs/3'), order);
      for (const each of [other, path('')]) {
        await expect.poll(async () => (json(await call(url, 'GET', `${each}/runs/3`)) as Run).state).toBe('finished');
      }
      const weights = await Promise.all([other, path('')].map((each) => call(url, 'GET', `${each}/weights`)));
      expect(Buffer.compare(weights[0]!.bytes, weights[1]!.bytes)).toBe(0);
      await call(url, 'DELETE', other);
      await call(url, 'DELETE', `/v1/checkpoints/${made.id}`);
    });
  });
});
