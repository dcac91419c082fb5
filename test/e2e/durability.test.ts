/**
 * Sessions that survive their worker: real processes, killed with SIGKILL while steps are on their way, started again on the same
 * folder, and compared with a run that nothing disturbed.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as after } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import type { ServiceProcess } from '../../deploy/local/child.ts';
import { startWorker } from '../../deploy/local/worker.ts';
import { seededRandom } from '../../shared/random.ts';
import type { SessionDefinitionInput } from '../../shared/session.ts';
import { startS3Server, type S3Server } from '../../bench/durability/s3-server.ts';
import { MODEL } from '../conformance/bodies.ts';
import { call, LAYERS, type Answer } from './support.ts';
import { bodiesOf, folder, portOf, problemOf, start, text, WorkerSession } from './worker-session.ts';

const LAYERED: SessionDefinitionInput = { layers: LAYERS };
const HOSTED: SessionDefinitionInput = {
  mode: 'hosted',
  model: MODEL,
  loss: { kind: 'softmax-cross-entropy' },
  optimizer: { lookahead: { steps: 3 } },
};
const STEPS = 24;

/** The replies and the last state of a run that nothing disturbs. */
async function unbrokenRun(definition: SessionDefinitionInput, bodies: readonly Uint8Array<ArrayBuffer>[]) {
  const session = new WorkerSession(undisturbed.ready.url);
  await session.create(definition);
  const replies: string[] = [];
  for (const [n, body] of bodies.entries()) replies.push(text(await session.step(n, body)));
  return { replies, state: await session.state() };
}

let undisturbed: ServiceProcess;
beforeAll(async () => {
  undisturbed = await startWorker({ port: 0, engine: 'reference' });
});
afterAll(() => undisturbed.stop());

describe('kill -9 in the middle of steps', () => {
  it.each([
    { title: 'a snapshot every 5 steps', settings: { DDPNOPT_SNAPSHOT_STEPS: '5' }, seed: 1 },
    { title: 'a snapshot every step', settings: { DDPNOPT_SNAPSHOT_STEPS: '1' }, seed: 2 },
    { title: 'no snapshot, safe from power loss', settings: { DDPNOPT_STORAGE_SURVIVES: 'power' }, seed: 3 },
  ])('$title: loses no acknowledged step and applies none twice', async ({ settings, seed }) => {
    const storage = folder();
    const random = seededRandom(seed);
    let worker = await start({ storage, settings });
    const port = portOf(worker);
    const { url } = worker.ready;
    const streams = await Promise.all(
      [LAYERED, HOSTED].map(async (definition, index) => {
        const bodies = bodiesOf(definition, 10 * seed + index, STEPS);
        const session = new WorkerSession(url);
        await session.create(definition);
        return { session, bodies, unbroken: await unbrokenRun(definition, bodies), acknowledged: 0 };
      }),
    );
    const KILLS = 5;
    for (let round = 0; round <= KILLS; round++) {
      const goal = round === KILLS ? STEPS : Math.floor(((round + 1) * STEPS) / (KILLS + 1));
      let reached = 0;
      const { promise: isTime, resolve: letKill } = Promise.withResolvers<undefined>();
      const running = streams.map(async (stream) => {
        const { session, bodies, unbroken } = stream;
        // What was on its way when the worker ended is sent again, in many copies; it may have been applied or not.
        const { nextStep, durableStep } = await session.describe();
        expect([stream.acknowledged, stream.acknowledged + 1]).toContain(nextStep);
        expect(durableStep).toBe(nextStep);
        const last = stream.acknowledged;
        const storm = await Promise.all([1, 2, 3].map(() => session.step(last, bodies[last] ?? new Uint8Array(0))));
        if (last < STEPS) for (const answer of storm) expect(text(answer)).toBe(unbroken.replies[last]);
        if (last > 0 && nextStep === last) {
          // Before the storm this was the last one; now its reply is gone, and it is not applied again.
          expect([200, 410]).toContain((await session.step(last - 1, bodies[last - 1]!)).status);
        }
        stream.acknowledged = Math.min(STEPS, last + 1);
        while (stream.acknowledged < STEPS) {
          if (stream.acknowledged >= goal && ++reached === streams.length) letKill(undefined);
          const n = stream.acknowledged;
          let answer: Answer;
          try {
            answer = await session.step(n, bodies[n]!);
          } catch {
            return; // The worker is gone.
          }
          expect(text(answer)).toBe(unbroken.replies[n]);
          stream.acknowledged = n + 1;
        }
        reached++;
        letKill(undefined);
      });
      if (round < KILLS) {
        await Promise.race([isTime, Promise.all(running)]);
        await after(4 * random());
        await worker.kill();
        await Promise.all(running);
        worker = await start({ storage, port, settings });
      } else {
        await Promise.all(running);
      }
    }
    for (const { session, unbroken, bodies } of streams) {
      expect(await session.state()).toEqual(unbroken.state);
      expect(text(await session.step(STEPS - 1, bodies[STEPS - 1]!))).toBe(unbroken.replies[STEPS - 1]);
    }
  });

  it('an idle worker’s sessions are found again with their last reply, and go on; deleted ones stay deleted', async () => {
    const storage = folder();
    const bodies = bodiesOf(LAYERED, 5, 8);
    const unbroken = await unbrokenRun(LAYERED, bodies);
    const first = await start({ storage, settings: { DDPNOPT_SNAPSHOT_STEPS: '3' } });
    const session = new WorkerSession(first.ready.url);
    await session.create(LAYERED);
    for (const [n, body] of bodies.slice(0, 7).entries()) await session.step(n, body);
    const before = await session.describe();
    const deleted = new WorkerSession(first.ready.url);
    await deleted.create(HOSTED);
    for (const [n, body] of bodiesOf(HOSTED, 6, 3).entries()) await deleted.step(n, body);
    expect((await call(first.ready.url, 'DELETE', `/sessions/${deleted.id}`)).status).toBe(204);
    await first.kill();

    const second = await start({ storage, port: portOf(first) });
    problemOf(await call(second.ready.url, 'GET', `/sessions/${deleted.id}`), 'session_not_found', 404);
    const reply = await call(second.ready.url, 'GET', `/sessions/${session.id}/steps/6`);
    expect(text(reply)).toBe(unbroken.replies[6]);
    expect(await session.describe()).toMatchObject({
      nextStep: 7,
      durableStep: 7,
      metrics: before.metrics,
      createdAt: before.createdAt,
    });
    problemOf(await session.step(6, bodies[5]!), 'step_conflict', 422);
    expect(text(await session.step(7, bodies[7]!))).toBe(unbroken.replies[7]);
    expect(second.errors()).toContain('"event":"sessions_found","found":1');
    expect(second.errors()).toContain('"event":"session_recovered"');
  });
});

describe('in an S3 bucket', () => {
  async function bucket(): Promise<S3Server> {
    const server = await startS3Server();
    onTestFinished(() => server.stop());
    return server;
  }

  it('a killed worker’s session goes on as if nothing had been', async () => {
    const { storage, settings: access } = await bucket();
    const settings = { ...access, DDPNOPT_SNAPSHOT_STEPS: '3' };
    const bodies = bodiesOf(HOSTED, 21, 12);
    const unbroken = await unbrokenRun(HOSTED, bodies);
    let worker = await start({ storage, settings });
    const session = new WorkerSession(worker.ready.url);
    await session.create(HOSTED);
    for (let n = 0; n < bodies.length; n++) {
      if (n % 5 === 4) {
        // While the step before is acknowledged already, and this one is on its way.
        const lost = session.step(n, bodies[n]!).catch(() => null);
        await worker.kill();
        await lost;
        worker = await start({ storage, settings, port: portOf(worker) });
        expect([n, n + 1]).toContain((await session.describe()).nextStep);
      }
      expect(text(await session.step(n, bodies[n]!))).toBe(unbroken.replies[n]);
    }
    expect(await session.state()).toEqual(unbroken.state);
  });

  it('steps that are acknowledged before they are stored: a crash takes some, the client is told which, and sends them again', async () => {
    const server = await bucket();
    const settings = { ...server.settings, DDPNOPT_ACKNOWLEDGE: 'applied', DDPNOPT_SNAPSHOT_STEPS: '4' };
    const { storage } = server;
    const bodies = bodiesOf(LAYERED, 22, 12);
    const unbroken = await unbrokenRun(LAYERED, bodies);
    const first = await start({ storage, settings });
    const session = new WorkerSession(first.ready.url);
    await session.create(LAYERED);
    for (let n = 0; n < 6; n++) expect(text(await session.step(n, bodies[n]!))).toBe(unbroken.replies[n]);
    await expect.poll(async () => (await session.describe()).durableStep).toBe(6);
    server.suspend();
    for (let n = 6; n < 10; n++) expect(text(await session.step(n, bodies[n]!))).toBe(unbroken.replies[n]);
    expect(await session.describe()).toMatchObject({ nextStep: 10, durableStep: 6 });
    await first.kill();
    server.resume();

    await start({ storage, settings, port: portOf(first) });
    const { resumeFrom } = problemOf(await session.step(10, bodies[10]!), 'session_rewound', 409);
    expect(resumeFrom).toBeGreaterThanOrEqual(6);
    expect(resumeFrom).toBeLessThanOrEqual(10);
    for (let n = resumeFrom!; n < bodies.length; n++) {
      expect(text(await session.step(n, bodies[n]!))).toBe(unbroken.replies[n]);
    }
    expect(await session.state()).toEqual(unbroken.state);
  });

  it('a server that is away: nothing is acknowledged, and the session goes on when it is back', async () => {
    const server = await bucket();
    const bodies = bodiesOf(LAYERED, 23, 4);
    const unbroken = await unbrokenRun(LAYERED, bodies);
    const worker = await start({ storage: server.storage, settings: server.settings });
    const session = new WorkerSession(worker.ready.url);
    await session.create(LAYERED);
    expect((await session.step(0, bodies[0]!)).status).toBe(200);
    await server.end();
    problemOf(await session.step(1, bodies[1]!), 'storage_unavailable', 503);
    problemOf(await session.step(1, bodies[1]!), 'storage_unavailable', 503);
    await server.restart();
    expect(await session.describe()).toMatchObject({ nextStep: 1, durableStep: 1 });
    for (let n = 1; n < bodies.length; n++) expect(text(await session.step(n, bodies[n]!))).toBe(unbroken.replies[n]);
    expect(await session.state()).toEqual(unbroken.state);
  });
});

describe('what is stored and damaged', () => {
  /** A session of some steps, its worker ended in order, so that the file holds everything. */
  async function stored(snapshotSteps: string, steps: number) {
    const storage = folder();
    const settings = { DDPNOPT_SNAPSHOT_STEPS: snapshotSteps };
    const bodies = bodiesOf(LAYERED, 7, steps + 2);
    const worker = await start({ storage, settings });
    const session = new WorkerSession(worker.ready.url);
    await session.create(LAYERED);
    for (const [n, body] of bodies.slice(0, steps).entries()) expect((await session.step(n, body)).status).toBe(200);
    await worker.stop();
    const restart = () => start({ storage, settings, port: portOf(worker) });
    return { file: join(storage, 'sessions.sqlite'), session, bodies, restart };
  }

  /** Changes a byte wherever the file has these: pages that SQLite has moved leave copies behind. */
  function damage(file: string, part: string | Uint8Array): void {
    const bytes = readFileSync(file);
    let found = 0;
    for (let at = bytes.indexOf(part); at >= 0; at = bytes.indexOf(part, at + 1), found++) bytes[at]! ^= 0xff;
    expect(found).toBeGreaterThan(0);
    writeFileSync(file, bytes);
  }

  it('a step: the session goes back to the step before it and says so; sent again, it ends as if nothing had been', async () => {
    const { file, session, bodies, restart } = await stored('100', 6);
    const unbroken = await unbrokenRun(LAYERED, bodies);
    damage(file, bodies[3]!.subarray(-64));

    const worker = await restart();
    expect(await session.describe()).toMatchObject({ nextStep: 3, durableStep: 3 });
    expect(worker.errors()).toContain('"event":"session_damaged"');
    expect(worker.errors()).toContain('"lostSteps":3');
    const problem = problemOf(await session.step(6, bodies[6]!), 'session_rewound', 409);
    expect(problem.resumeFrom).toBe(3);
    for (let n = 3; n < bodies.length; n++) expect(text(await session.step(n, bodies[n]!))).toBe(unbroken.replies[n]);
    // The client is in step again: whoever is ahead now is so by mistake.
    problemOf(await session.step(20, bodies[0]!), 'step_out_of_order', 412);
    await worker.stop();
    await restart();
    expect(await session.state()).toEqual(unbroken.state);
  });

  it('a snapshot without which nothing leads to the state: a clear error, and deletion', async () => {
    const { file, session, bodies, restart } = await stored('4', 6);
    damage(file, '"format":"ddpnopt-checkpoint"');
    const { ready } = await restart();
    for (const answer of [await call(ready.url, 'GET', `/sessions/${session.id}`), await session.step(6, bodies[6]!)]) {
      const problem = problemOf(answer, 'storage_damaged', 500);
      expect(problem.detail).toContain(session.id);
      expect(problem.detail).toContain('digest');
    }
    // Others are not touched.
    await new WorkerSession(ready.url).create(LAYERED);
    expect((await call(ready.url, 'DELETE', `/sessions/${session.id}`)).status).toBe(204);
    problemOf(await call(ready.url, 'GET', `/sessions/${session.id}`), 'session_not_found', 404);
  });

  it('a file that is no database: the worker does not start, and says why', async () => {
    const storage = folder();
    writeFileSync(join(storage, 'sessions.sqlite'), 'x'.repeat(10_000));
    await expect(start({ storage })).rejects.toThrow(/DDPNOPT_STORAGE=.*file is not a database/);
  });
});

describe('a store that cannot be written', () => {
  it('a path that is no folder: the worker does not start, and says why', async () => {
    const path = join(folder(), 'file');
    writeFileSync(path, '');
    await expect(start({ storage: path })).rejects.toThrow(/cannot store sessions in DDPNOPT_STORAGE=/);
  });

  it('a folder that another worker uses: the second does not start, and says why', async () => {
    const storage = folder();
    await start({ storage });
    await expect(start({ storage })).rejects.toThrow(/database is locked.*no other worker uses/);
  });

  it('a full one: nothing is acknowledged, the session is as before, and goes on when there is room', async () => {
    const settings = { DDPNOPT_STORAGE_BYTES: '1000000' };
    const worker = await start({ storage: folder(), settings });
    const { url } = worker.ready;
    const bulky = new WorkerSession(url);
    const session = new WorkerSession(url);
    const layers = [{ name: 'wide', kind: 'dense' as const, inputs: 4000, outputs: 3 }];
    const wide: SessionDefinitionInput = { layers, optimizer: { metric: { kind: 'identity' } } };
    await bulky.create(wide);
    await session.create(HOSTED);
    const bodies = bodiesOf(HOSTED, 8, 12);
    const unbroken = await unbrokenRun(HOSTED, bodies);
    for (let n = 0; n < 4; n++) expect((await session.step(n, bodies[n]!)).status).toBe(200);

    const large = bodiesOf(wide, 9, 30);
    let taken = 0;
    let answer = await bulky.step(taken, large[taken]!);
    while (answer.status === 200) answer = await bulky.step(++taken, large[taken]!);
    const problem = problemOf(answer, 'storage_full', 507);
    expect(problem.retryable).toBe(true);
    expect(answer.headers.get('retry-after')).not.toBeNull();
    expect(taken).toBeGreaterThan(2);
    // Refused again, as long as it stays so; the step before is still the last, with its reply.
    problemOf(await bulky.step(taken, large[taken]!), 'storage_full', 507);
    expect(await bulky.describe()).toMatchObject({ nextStep: taken, durableStep: taken });
    expect((await bulky.step(taken - 1, large[taken - 1]!)).status).toBe(200);

    let n = 4;
    while ((await session.step(n, bodies[n]!)).status === 200) if (++n === bodies.length) break;
    expect((await call(url, 'DELETE', `/sessions/${bulky.id}`)).status).toBe(204);
    for (; n < bodies.length; n++) expect(text(await session.step(n, bodies[n]!))).toBe(unbroken.replies[n]);
    expect(await session.state()).toEqual(unbroken.state);
  });
});
