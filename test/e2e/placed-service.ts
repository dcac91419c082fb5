/** The service with workers that register, for tests: an edge in either runtime, and workers on one store, all of them real processes. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'vitest';
import type { ServiceProcess } from '../../deploy/local/child.ts';
import { startEdge, type EdgeRuntime } from '../../deploy/local/edge.ts';
import { startWorker } from '../../deploy/local/worker.ts';
import type { KnownWorker } from '../../edge/placement/placement-directory.ts';
import type { SessionId } from '../../shared/session.ts';
import { createSigner, digestOf } from '../../shared/signature.ts';
import { signCall } from '../../shared/signed-call.ts';
import { signLease } from '../../shared/lease.ts';
import type { WorkerId } from '../../shared/worker-report.ts';
import { persistent, putStep, type Answer } from './support.ts';

export const SECRET = 'a secret for tests alone';
const signer = createSigner(SECRET);

export interface WorkerStore {
  readonly storage: string;
  readonly settings: Readonly<Record<string, string>>;
}

export interface PlacedService {
  readonly url: string;
  readonly workers: ServiceProcess[];
  /** @param changed settings that differ from the others' */
  readonly addWorker: (changed?: Readonly<Record<string, string>>) => Promise<ServiceProcess>;
  /** As the directory knows them. */
  readonly known: () => Promise<KnownWorker[]>;
  /** The one worker that holds a session. */
  readonly owner: () => Promise<ServiceProcess>;
  readonly restartEdge: (memory: 'kept' | 'lost') => Promise<void>;
  readonly stop: () => Promise<void>;
}

/**
 * @param heartbeat milliseconds; three that are missing make a worker count as lost, which a busy machine must not
 * @param edgeSettings more of the edge's settings
 */
export async function startPlacedService(
  runtime: EdgeRuntime,
  store: WorkerStore,
  count: number,
  heartbeat = 3000,
  edgeSettings: Readonly<Record<string, string>> = {},
): Promise<PlacedService> {
  const state = mkdtempSync(join(tmpdir(), 'ddpnopt-edge-'));
  const edgeAt = (port: number): Promise<ServiceProcess> => {
    const settings = { ...edgeSettings, DDPNOPT_WORKER_SECRET: SECRET, DDPNOPT_EDGE_STATE: state };
    return startEdge({ port, workerUrl: '', runtime, settings });
  };
  let edge = await edgeAt(0);
  const { url } = edge.ready;
  const workers: ServiceProcess[] = [];
  const addWorker = async (changed: Readonly<Record<string, string>> = {}): Promise<ServiceProcess> => {
    const worker = await startWorker({
      port: 0,
      engine: 'reference',
      storage: store.storage,
      settings: {
        ...store.settings,
        DDPNOPT_EDGE_URL: url,
        DDPNOPT_WORKER_SECRET: SECRET,
        DDPNOPT_HEARTBEAT_MILLISECONDS: String(heartbeat),
        ...changed,
      },
    });
    workers.push(worker);
    return worker;
  };
  await Promise.all(Array.from({ length: count }, () => addWorker()));
  return {
    url,
    workers,
    addWorker,
    known: async () => {
      const answer = await signedCall(url, 'GET', '/workers', { digest: await digestOf('') });
      expect(answer.status).toBe(200);
      return (JSON.parse(new TextDecoder().decode(answer.bytes)) as { workers: KnownWorker[] }).workers;
    },
    owner: async () => {
      const owners: ServiceProcess[] = [];
      for (const worker of workers) {
        const health = await fetch(`${worker.ready.url}/healthz`).then(
          async (response) => (await response.json()) as { sessions: number },
          () => ({ sessions: 0 }),
        );
        if (health.sessions > 0) owners.push(worker);
      }
      expect(owners).toHaveLength(1);
      return owners[0]!;
    },
    restartEdge: async (memory) => {
      await edge.kill();
      if (memory === 'lost') rmSync(state, { recursive: true });
      edge = await edgeAt(Number(new URL(url).port));
    },
    stop: async () => {
      await Promise.all([...workers.map((worker) => worker.kill()), edge.kill()]);
      rmSync(state, { recursive: true, force: true });
    },
  };
}

/** A call as the edge makes it. */
export async function signedCall(
  url: string,
  method: string,
  path: string,
  signed: { readonly digest?: string; readonly lease?: string; readonly body?: Uint8Array<ArrayBuffer> } = {},
): Promise<Answer> {
  const { digest = '', lease = '', body } = signed;
  const length = body?.length ?? 0;
  const headers = await signCall({ method, path, length, lease, tenant: '', digest }, signer, Date.now());
  const response = await fetch(url + path, { method, headers, ...(body === undefined ? {} : { body }) });
  return { status: response.status, headers: response.headers, bytes: new Uint8Array(await response.arrayBuffer()) };
}

/** A lease as the edge signs it. */
export function leaseFor(session: SessionId, worker: WorkerId, epoch: number): Promise<string> {
  return signLease({ session, worker, epoch, expires: Date.now() + 10_000 }, signer);
}

/** A step, sent again as long as the service says that a later try may succeed. */
export function persistentStep(url: string, id: string, n: number, body: Uint8Array<ArrayBuffer>): Promise<Answer> {
  return persistent(() => putStep(url, id, n, body));
}
