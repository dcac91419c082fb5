/** Changed options survive their worker: killed with SIGKILL, started again, and compared with a run that nothing disturbed. */
import { beforeAll, expect, it } from 'vitest';
import type { ServiceProcess } from '../../deploy/local/child.ts';
import { startWorker } from '../../deploy/local/worker.ts';
import { sessionSchema, type Session, type SessionDefinitionInput } from '../../shared/session.ts';
import { MODEL } from '../conformance/bodies.ts';
import { call, json, LAYERS } from './support.ts';
import { bodiesOf, folder, portOf, start, text, WorkerSession } from './worker-session.ts';

const HOSTED: SessionDefinitionInput = { mode: 'hosted', model: MODEL, loss: { kind: 'softmax-cross-entropy' } };
const LAYERED: SessionDefinitionInput = {
  layers: LAYERS,
  optimizer: { metric: { kind: 'kronecker', refreshEvery: 2 } },
};

/** What changes before which step. */
const CHANGES = new Map<number, unknown>([
  [0, { optimizer: { learningRate: { value: 2 } } }],
  [3, { optimizer: { metric: { damping: 0.3, refreshEvery: 3 } } }],
  [4, { ttlSeconds: 1234 }],
  [
    7,
    {
      optimizer: {
        learningRate: { kind: 'cosine', value: 5, steps: 20 },
        coupling: 'value',
        momentum: 0.2,
      },
    },
  ],
]);
const STEPS = 9;

async function change(session: WorkerSession, n: number): Promise<Session | null> {
  const changes = CHANGES.get(n);
  if (changes === undefined) return null;
  const answer = await call(session.url, 'PATCH', `/sessions/${session.id}`, { body: JSON.stringify(changes) });
  expect(answer.status).toBe(200);
  return sessionSchema.parse(json(answer));
}

const MODES: Readonly<Record<string, SessionDefinitionInput>> = { layers: LAYERED, hosted: HOSTED };

/** Takes the steps of one session in each mode, which change on the way, and tells all that a client can see of them. */
async function run(
  worker: () => ServiceProcess,
  beforeStep: (n: number) => Promise<void>,
): Promise<Readonly<Record<string, readonly string[]>>> {
  const sessions = Object.entries(MODES).map(([mode, definition]) => ({
    mode,
    definition,
    session: new WorkerSession(worker().ready.url),
    bodies: bodiesOf(definition, 31, STEPS),
    patched: null as Session | null,
    seen: [] as string[],
  }));
  for (const { session, definition } of sessions) await session.create(definition);
  for (let n = 0; n < STEPS; n++) {
    for (const each of sessions) each.patched = (await change(each.session, n)) ?? each.patched;
    await beforeStep(n);
    for (const { session, bodies, patched, seen } of sessions) {
      const { optimizer, ttlSeconds, optimizerFromStep } = await session.describe();
      expect({ optimizer, ttlSeconds, optimizerFromStep }).toEqual({
        optimizer: patched?.optimizer,
        ttlSeconds: patched?.ttlSeconds,
        optimizerFromStep: patched?.optimizerFromStep,
      });
      // Sent again after a crash, it changes nothing.
      await change(session, n);
      seen.push(text(await session.step(n, bodies[n]!)));
    }
  }
  for (const { session, seen } of sessions) seen.push(JSON.stringify(await session.state()));
  return Object.fromEntries(sessions.map(({ mode, seen }) => [mode, seen]));
}

let undisturbed: Awaited<ReturnType<typeof run>>;
beforeAll(async () => {
  // In memory alone.
  const worker = await startWorker({ port: 0, engine: 'reference' });
  undisturbed = await run(
    () => worker,
    () => Promise.resolve(),
  );
  await worker.stop();
});

it.each([
  { title: 'no snapshot', settings: {} },
  { title: 'a snapshot every step', settings: { DDPNOPT_SNAPSHOT_STEPS: '1' } },
  { title: 'a snapshot every 4 steps', settings: { DDPNOPT_SNAPSHOT_STEPS: '4' } },
])(
  '$title: a killed worker’s sessions have the options that were acknowledged, from the steps on that it said',
  async ({ settings }) => {
    const storage = folder();
    let worker = await start({ storage, settings });
    const seen = await run(
      () => worker,
      async (n) => {
        if (n !== 4 && n !== 7) return;
        await worker.kill();
        worker = await start({ storage, settings, port: portOf(worker) });
      },
    );
    expect(seen).toEqual(undisturbed);
  },
);

it('a session that was changed can be had from its checkpoint, as it is', async () => {
  const worker = await start({ storage: folder() });
  const session = new WorkerSession(worker.ready.url);
  await session.create(HOSTED);
  await change(session, 0);
  const [body] = bodiesOf(HOSTED, 32, 1);
  await session.step(0, body!);
  await change(session, 3);
  const made = await call(session.url, 'POST', `/sessions/${session.id}/checkpoints`);
  const resumed = new WorkerSession(session.url);
  await resumed.create({ fromCheckpoint: (json(made) as { id: string }).id });
  const { optimizer } = await session.describe();
  expect(await resumed.describe()).toMatchObject({ nextStep: 1, optimizer, optimizerFromStep: 0 });
});
