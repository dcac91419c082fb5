/**
 * A worker in the test's own process whose device the test can hold, so that what waits in the queue waits as long as the test
 * needs it. Sockets, HTTP interface, sessions, queue and computation are the worker's own.
 */
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { getRequestListener } from '@hono/node-server';
import { ComputeQueue } from '../../gpu-worker/engine/queue.ts';
import { createWorkerApp } from '../../gpu-worker/server/app.ts';
import { WorkerMetrics } from '../../gpu-worker/server/metrics.ts';
import { UndeliveredAnswers } from '../../gpu-worker/session/undelivered-answers.ts';
import { createReferenceEngine } from '../../gpu-worker/tensor/reference.ts';
import { Trainers } from '../../gpu-worker/training/trainers.ts';
import { LIMITS } from '../../shared/limits.ts';
import { computeInPlace, openMemory, registryOf } from '../in-memory.ts';

export interface HeldWorker {
  readonly url: string;
  readonly queue: ComputeQueue;
  /** What was thrown that is no answer to a client. */
  readonly defects: unknown[];
  /** Requests that have arrived and are neither answered nor given up by their clients, each under a name of its own. */
  readonly open: ReadonlySet<string>;
  /** What the device was asked to compute, in order: `step`, `weights`, `predict`. */
  readonly computed: string[];
  /** From now on nothing is computed until the returned function is called. */
  readonly hold: () => () => void;
  readonly stop: () => Promise<void>;
}

/**
 * @param limits that differ from the worker's own
 * @param wantedPort 0 takes a free one
 */
export async function startHeldWorker(
  limits: Partial<
    Record<'bodyBytesInMemory' | 'undeliveredBytes' | 'stallMilliseconds' | 'heartbeatMilliseconds', number>
  > = {},
  wantedPort = 0,
): Promise<HeldWorker> {
  const { undeliveredBytes, ...others } = { ...LIMITS, ...limits };
  const engine = createReferenceEngine();
  const trainers = new Trainers(engine);
  const computed: string[] = [];
  let held = Promise.resolve();
  const compute = <Result>(kind: string, work: () => Result): Promise<Result> => {
    computed.push(kind);
    // As from another thread: what else there is to do is done in between.
    return held.then(() => new Promise((resolve) => setImmediate(resolve))).then(work);
  };
  const device = computeInPlace(engine, trainers, compute);
  const queue = new ComputeQueue({ perSession: 4, total: 16 });
  const undelivered = new UndeliveredAnswers(undeliveredBytes);
  const metrics: WorkerMetrics = new WorkerMetrics(() => performance.now(), {
    sessions: () => sessions.size,
    queue: () => queue.length,
    stateBytes: () => sessions.bytes,
  });
  const resources = { compute: undelivered.limiting(device), queue, now: Date.now, meter: metrics };
  const storage = await openMemory();
  const sessions = registryOf(resources, { limit: 8, storage });
  const defects: unknown[] = [];
  const app = createWorkerApp({
    sessions,
    undelivered,
    limits: others,
    solve: async (options, body) => {
      const answer = await queue.run('solve', () => resources.compute.solve(options, body));
      return { answer, computeSeconds: 0 };
    },
    metrics,
    log: () => undefined,
    engineName: device.engine,
    reportDefect: (error) => defects.push(error),
  });
  const listener = getRequestListener(app.fetch);
  const open = new Set<string>();
  let arrivals = 0;
  const server = createServer((request, response) => {
    const name = `${request.method} ${request.url} ${++arrivals}`;
    open.add(name);
    response.once('close', () => open.delete(name));
    void listener(request, response);
  });
  server.listen(wantedPort, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  return {
    url: `http://127.0.0.1:${port}`,
    queue,
    open,
    defects,
    computed,
    hold: () => {
      let release = (): void => undefined;
      held = new Promise((resolve) => {
        release = resolve;
      });
      return release;
    },
    stop: async () => {
      server.closeAllConnections();
      server.close();
      await once(server, 'close');
      await storage.close();
    },
  };
}
