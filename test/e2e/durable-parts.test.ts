/** Parts of steps survive their worker: killed with SIGKILL between parts, and while they are committed. */
import { expect, it } from 'vitest';
import type { ServiceProcess } from '../../deploy/local/child.ts';
import { encode, readHeader, readValues } from '../../shared/safetensors.ts';
import type { SessionDefinitionInput } from '../../shared/session.ts';
import { stepPartsSchema, type StepParts } from '../../shared/step-parts.ts';
import { BATCH } from '../conformance/bodies.ts';
import { call, json, LAYERS, type Answer } from './support.ts';
import { bodiesOf, folder, portOf, problemOf, start, text, WorkerSession } from './worker-session.ts';

const LAYERED: SessionDefinitionInput = { layers: LAYERS };
const SAMPLES = BATCH / 2;

/** The samples of one of two halves. */
function half(body: Uint8Array, k: number): Uint8Array<ArrayBuffer> {
  const header = readHeader(body);
  return encode(
    header.entries.map((entry) => {
      const values = readValues(body, header, entry);
      const row = values.length / BATCH;
      const begin = k * SAMPLES * row;
      return {
        name: entry.name,
        shape: [SAMPLES, ...entry.shape.slice(1)],
        values: values.slice(begin, begin + SAMPLES * row),
      };
    }),
  );
}

it.each([
  { title: 'a log', settings: {} },
  { title: 'a snapshot every step', settings: { DDPNOPT_SNAPSHOT_STEPS: '1' } },
])('$title: every part that was acknowledged is there, and each step is applied once', async ({ settings }) => {
  const storage = folder();
  let worker: ServiceProcess = await start({ storage, settings });
  const session = new WorkerSession(worker.ready.url);
  const whole = new WorkerSession(worker.ready.url);
  await session.create(LAYERED);
  await whole.create(LAYERED);
  const path = (n: number): string => `/sessions/${session.id}/steps/${n}`;
  const putPart = (n: number, k: number, body: Uint8Array<ArrayBuffer>): Promise<Answer> =>
    call(session.url, 'PUT', `${path(n)}/parts/${k}`, { body });
  const commit = (n: number): Promise<Answer> =>
    call(session.url, 'POST', `${path(n)}/commit`, { body: JSON.stringify({ parts: 2 }) });
  const parts = async (n: number): Promise<StepParts> =>
    stepPartsSchema.parse(json(await call(session.url, 'GET', `${path(n)}/parts`)));
  const restart = async (): Promise<void> => {
    await worker.kill();
    worker = await start({ storage, settings, port: portOf(worker) });
  };

  const bodies = bodiesOf(LAYERED, 41, 4);
  for (const [n, body] of bodies.entries()) {
    const expected = text(await whole.step(n, body));
    expect((await putPart(n, 1, half(body, 1))).status).toBe(200);
    if (n === 0) await restart();
    expect((await parts(n)).parts.map(({ part, samples }) => [part, samples])).toEqual([[1, SAMPLES]]);
    // Sent again, it is the same one.
    expect((await putPart(n, 1, half(body, 1))).status).toBe(200);
    problemOf(await putPart(n, 1, half(body, 0)), 'part_conflict', 422);
    expect((await putPart(n, 0, half(body, 0))).status).toBe(200);
    if (n === 1) await restart();
    if (n === 2) {
      // Killed with the commit on its way: applied or not, once.
      const lost = commit(n).catch(() => null);
      await restart();
      await lost;
    }
    expect(text(await commit(n))).toBe(expected);
    if (n === 3) await restart();
    // After the commit, too: the reply, the parts, and no second application.
    expect(text(await commit(n))).toBe(expected);
    expect(text(await call(session.url, 'GET', path(n)))).toBe(expected);
    expect(await parts(n)).toMatchObject({ committed: true, samples: BATCH });
    expect((await putPart(n, 0, half(body, 0))).status).toBe(200);
    expect(await session.describe()).toMatchObject({ nextStep: n + 1, durableStep: n + 1 });
  }
  expect(await session.state()).toEqual(await whole.state());

  // Parts of a step that was then sent as a whole are gone, and so is everything of a deleted session.
  const [last] = bodies;
  await putPart(4, 0, half(last!, 0));
  expect((await session.step(4, last!)).status).toBe(200);
  await restart();
  expect((await parts(5)).parts).toEqual([]);
  await putPart(5, 0, half(last!, 0));
  // A part that the options do not take any more is no obstacle to the session.
  const decay = { optimizer: { weightDecay: { kind: 'decoupled', rate: 0.1 } } };
  expect((await call(session.url, 'PATCH', `/sessions/${session.id}`, { body: JSON.stringify(decay) })).status).toBe(
    200,
  );
  await restart();
  expect(await session.describe()).toMatchObject({ nextStep: 5, optimizerFromStep: 5 });
  expect((await parts(5)).parts).toEqual([]);
  expect((await call(session.url, 'DELETE', `/sessions/${session.id}`)).status).toBe(204);
});
