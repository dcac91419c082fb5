/** What a worker that has registered tells of its sessions: which have begun, and which are over. */
import { beforeEach, expect, it, onTestFinished } from 'vitest';
import { ComputeQueue } from '../../gpu-worker/engine/queue.ts';
import type { SessionRegistry } from '../../gpu-worker/session/registry.ts';
import { createReferenceEngine } from '../../gpu-worker/tensor/reference.ts';
import { Trainers } from '../../gpu-worker/training/trainers.ts';
import { newSessionId, sessionDefinitionSchema, type SessionId } from '../../shared/session.ts';
import { LOCAL_TENANT } from '../../shared/tenant.ts';
import { CHANGES_AT_ONCE } from '../../shared/worker-report.ts';
import { LAYERS } from '../e2e/support.ts';
import { computeInPlace, openMemory, registryOf } from '../in-memory.ts';

const TTL = 60;
const definition = sessionDefinitionSchema.parse({ layers: LAYERS, ttlSeconds: TTL });

let now: number;
let sessions: SessionRegistry;

async function open(isStorageShared: boolean, total = 8): Promise<SessionRegistry> {
  const engine = createReferenceEngine();
  const storage = await openMemory();
  onTestFinished(() => storage.close());
  const queue = new ComputeQueue({ perSession: 4, total });
  const resources = { compute: computeInPlace(engine, new Trainers(engine)), queue, now: () => now };
  return registryOf(resources, { limit: 8, storage, isStorageShared });
}

beforeEach(async () => {
  now = Date.UTC(2030, 0, 1);
  sessions = await open(true);
});

async function begin(): Promise<SessionId> {
  const id = newSessionId();
  sessions.own(id, 1);
  await sessions.create(id, definition);
  return id;
}

const unreported = () => sessions.unreportedChanges(CHANGES_AT_ONCE);

it('tells each change until it is known to have arrived', async () => {
  const id = await begin();
  const begun = [{ session: id, tenant: LOCAL_TENANT }];
  expect(unreported()).toEqual(begun);
  expect(unreported()).toEqual(begun);
  sessions.reported(begun);
  expect(unreported()).toEqual([]);
  await sessions.delete(id);
  expect(unreported()).toEqual([{ session: id, tenant: null }]);
});

it('tells of an end that came while the report of the beginning was on its way', async () => {
  const id = await begin();
  const report = unreported();
  await sessions.delete(id);
  sessions.reported(report);
  expect(unreported()).toEqual([{ session: id, tenant: null }]);
});

it('tells of sessions that expire, and of those that it was given and that are nowhere', async () => {
  const [id, nowhere] = [await begin(), newSessionId()];
  sessions.reported(unreported());
  now += 1000 * TTL;
  sessions.removeExpired();
  await sessions.adopt(nowhere, 1);
  await expect.poll(unreported).toHaveLength(2);
  expect(new Set(unreported())).toEqual(new Set([id, nowhere].map((session): unknown => ({ session, tenant: null }))));
});

it('tells of one that could not begin that it is over, and no more at once than a report takes', async () => {
  sessions = await open(true, 0);
  const id = newSessionId();
  sessions.own(id, 1);
  await expect(sessions.create(id, definition)).rejects.toMatchObject({ code: 'queue_full' });
  expect(unreported()).toEqual([{ session: id, tenant: null }]);
  await sessions.adopt(newSessionId(), 1);
  expect(sessions.unreportedChanges(1)).toEqual([{ session: id, tenant: null }]);
});

it('keeps nothing where there is nobody to tell', async () => {
  sessions = await open(false);
  const { id } = await sessions.create(newSessionId(), definition);
  await sessions.delete(id);
  expect(unreported()).toEqual([]);
});
