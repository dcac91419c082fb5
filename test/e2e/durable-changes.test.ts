/** Changed options survive their worker: killed with SIGKILL, started again, and compared with a run that nothing disturbed. */
import { describe, expect, it } from 'vitest';
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
  [7, { optimizer: { learningRate: { kind: 'cosine', value: 5, steps: 20 }, coupling: 'value', momentum: 0.2 } }],
]);
const STEPS = 9;

async function change(session: WorkerSession, n: number): Promise<Session | null> {
  const changes = CHANGES.get(n);
  if (changes === undefined) return null;
  const answer = await call(session.url, 'PATCH', `/sessions/${session.id}`, { body: JSON.stringify(changes) });
  expect(answer.status).toBe(200);
  return sessionSchema.parse(json(answer));
}

describe.each([
  { title: 'no snapshot', settings: {} },
  { title: 'a snapshot every step', settings: { DDPNOPT_SNAPSHOT_STEPS: '1' } },
  { title: 'a snapshot every 4 steps', settings: { DDPNOPT_SNAPSHOT_STEPS: '4' } },
])('$title: a killed worker’s session', ({ settings }) => {
  it.each([
    { mode: 'layers', definition: LAYERED },
    { mode: 'hosted', definition: HOSTED },
  ])(
    'in mode $mode has the options that were acknowledged, from the steps on that it said',
    { timeout: 60_000 },
    async ({ definition }) => {
      const bodies = bodiesOf(definition, 31, STEPS);
      const run = async (isKilled: boolean): Promise<readonly string[]> => {
        const storage = folder();
        let worker = await start({ storage, settings });
        const session = new WorkerSession(worker.ready.url);
        await session.create(definition);
        const seen: string[] = [];
        let patched: Session | null = null;
        for (const [n, body] of bodies.entries()) {
          patched = (await change(session, n)) ?? patched;
          if (isKilled && (n === 4 || n === 7)) {
            await worker.kill();
            worker = await start({ storage, settings, port: portOf(worker) });
          }
          const { optimizer, ttlSeconds, optimizerFromStep } = await session.describe();
          expect({ optimizer, ttlSeconds, optimizerFromStep }).toEqual({
            optimizer: patched?.optimizer,
            ttlSeconds: patched?.ttlSeconds,
            optimizerFromStep: patched?.optimizerFromStep,
          });
          // Sent again after a crash, it changes nothing.
          await change(session, n);
          seen.push(text(await session.step(n, body)));
        }
        seen.push(JSON.stringify(await session.state()));
        await worker.stop();
        return seen;
      };
      expect(await run(true)).toEqual(await run(false));
    },
  );
});

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
