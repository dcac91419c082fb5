/**
 * The worker process: reads its configuration from the environment, chooses the tensor engine, serves until it is told to stop.
 *
 * DDPNOPT_ENGINE           tensorflow, wasm or reference; unless given, tensorflow if it is there, else wasm
 * DDPNOPT_WORKER_HOST      address to bind, 127.0.0.1 by default; any other takes a secret
 * DDPNOPT_WORKER_PORT      port to bind; 0 takes a free one
 * DDPNOPT_WORKER_SECRET    shared with the edge, which signs its calls with it; without one whoever reaches the worker is the edge
 * DDPNOPT_EDGE_URL         edge to register with; sessions may then move among the workers that share a store
 * DDPNOPT_ADVERTISED_URL   where that edge reaches this worker; the address that it binds unless given
 * DDPNOPT_HEARTBEAT_MILLISECONDS from one heartbeat to the next; after three that are missing the worker counts as lost
 * DDPNOPT_MAX_SESSIONS     sessions held at once
 * DDPNOPT_STORAGE          where sessions and checkpoints survive the process: a folder, or s3://bucket/prefix; memory alone unless given
 * AWS_ENDPOINT_URL_S3, AWS_REGION, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY   as everywhere, for s3://
 * DDPNOPT_STORAGE_BYTES    what may be stored in a folder or in memory; a session that needs more is answered `storage_full`
 * DDPNOPT_STORAGE_SURVIVES what an acknowledged step survives: the end of the `process`, or a loss of `power`, too
 * DDPNOPT_ACKNOWLEDGE      steps are answered once they are `durable`, or once they are `applied`, which a crash may undo
 * DDPNOPT_SNAPSHOT_STEPS   steps in a session's log after which a snapshot of its state takes their place
 * DDPNOPT_SNAPSHOT_BYTES   the same in bytes of their bodies
 * OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_SERVICE_NAME   where traces are sent by OTLP/HTTP, and as whose; nowhere unless given
 * DDPNOPT_LOG_LEVEL        info: a line for every request; warn, the default: for those that the service failed
 * DDPNOPT_RETENTION_SECONDS how long the state of an expired session is kept
 */
import { once } from 'node:events';
import { mkdirSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { getRequestListener } from '@hono/node-server';
import * as z from 'zod';
import { LIMITS } from '../shared/limits.ts';
import { isLogged, logLevelSchema } from '../shared/log-level.ts';
import type { ProcessReady } from '../shared/service-process.ts';
import { createSigner } from '../shared/signature.ts';
import { CHANGES_AT_ONCE, newWorkerId } from '../shared/worker-report.ts';
import { startComputeThread, type ComputeThread } from './engine/compute-thread.ts';
import { ComputeQueue } from './engine/queue.ts';
import { createWorkerApp } from './server/app.ts';
import { authentication } from './server/authentication.ts';
import { WorkerMetrics } from './server/metrics.ts';
import { Registration } from './server/registration.ts';
import { openTracing } from './server/tracing.ts';
import { SessionRegistry } from './session/registry.ts';
import { UndeliveredAnswers } from './session/undelivered-answers.ts';
import { openS3Storage, type S3Options } from './storage/s3.ts';
import { IN_MEMORY, openSqliteStorage } from './storage/sqlite.ts';
import type { Storage } from './storage/storage.ts';
import { ENGINE_NAMES, type EngineName } from './tensor/engine.ts';

/** Addresses that only this machine reaches. */
const LOOPBACK = /^(localhost|127(\.[0-9]{1,3}){3}|::1)$/;
const SWEEP_MILLISECONDS = 10_000;
/** Time for answers that are on their way when the worker has failed. */
const LAST_ANSWERS_MILLISECONDS = 1000;
/** Unless configured. */
const STORAGE_BYTES = { memory: 1_000_000_000, folder: 20_000_000_000 };
const S3_SCHEME = 's3://';
const STORAGE_FILE = 'sessions.sqlite';
const QUEUE_LIMITS = { perSession: 4, total: 256 };

const environmentSchema = z.object({
  DDPNOPT_ENGINE: z.enum(ENGINE_NAMES).optional(),
  DDPNOPT_WORKER_HOST: z.string().default('127.0.0.1'),
  DDPNOPT_WORKER_PORT: z.coerce.number().int().min(0).max(65_535).default(8788),
  DDPNOPT_WORKER_SECRET: z.string().min(16, 'at least 16 characters').optional(),
  DDPNOPT_EDGE_URL: z.url().optional(),
  DDPNOPT_ADVERTISED_URL: z.url().optional(),
  DDPNOPT_HEARTBEAT_MILLISECONDS: z.coerce.number().int().min(10).default(5000),
  DDPNOPT_MAX_SESSIONS: z.coerce.number().int().min(1).default(64),
  DDPNOPT_STORAGE: z.string().min(1).optional(),
  DDPNOPT_STORAGE_BYTES: z.coerce.number().int().min(1_000_000).optional(),
  DDPNOPT_STORAGE_SURVIVES: z.enum(['process', 'power']).default('process'),
  DDPNOPT_ACKNOWLEDGE: z.enum(['durable', 'applied']).default('durable'),
  DDPNOPT_SNAPSHOT_STEPS: z.coerce.number().int().min(1).default(100),
  DDPNOPT_SNAPSHOT_BYTES: z.coerce.number().int().min(1).default(128_000_000),
  AWS_ENDPOINT_URL_S3: z.url().optional(),
  AWS_REGION: z.string().default('us-east-1'),
  AWS_ACCESS_KEY_ID: z.string().optional(),
  AWS_SECRET_ACCESS_KEY: z.string().optional(),
  OTEL_EXPORTER_OTLP_ENDPOINT: z.url({ protocol: /^https?$/ }).optional(),
  OTEL_SERVICE_NAME: z.string().min(1).default('ddpnopt-worker'),
  DDPNOPT_LOG_LEVEL: logLevelSchema,
  DDPNOPT_RETENTION_SECONDS: z.coerce.number().int().min(0).default(604_800),
});

/** The compute thread with the engine that is asked for, or the best one. Ends the process if the former cannot be had. */
async function startComputing(engine: EngineName | null): Promise<ComputeThread> {
  try {
    return await startComputeThread({ engine });
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    process.stderr.write(`${engine === null ? '' : `DDPNOPT_ENGINE=${engine}: `}${reason}\n`);
    process.exit(2);
  }
}

/** The store of the configuration. Ends the process if it cannot be had. */
async function openStorage(): Promise<Storage> {
  const { DDPNOPT_STORAGE: wanted, DDPNOPT_STORAGE_BYTES: bytes, DDPNOPT_STORAGE_SURVIVES: survives } = configuration;
  if (wanted === undefined) {
    return openSqliteStorage({
      file: IN_MEMORY,
      maximumBytes: bytes ?? STORAGE_BYTES.memory,
      survives,
      isShared: false,
    });
  }
  try {
    if (wanted.startsWith(S3_SCHEME)) return await openS3Storage(s3Options(wanted));
    mkdirSync(wanted, { recursive: true });
    const file = join(wanted, STORAGE_FILE);
    return await openSqliteStorage({ file, maximumBytes: bytes ?? STORAGE_BYTES.folder, survives, isShared });
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    process.stderr.write(
      `cannot store sessions in DDPNOPT_STORAGE=${wanted} (${reason}); name a place that this process may write to and no other worker uses\n`,
    );
    process.exit(1);
  }
}

function countingWrites(storage: Storage): Storage {
  const counted =
    (write: Storage['write']): Storage['write'] =>
    async (changes) => {
      try {
        await write(changes);
        metrics.stored('ok');
      } catch (error) {
        metrics.stored('failed');
        throw error;
      }
    };
  const own: Storage['own'] = (ownership) => {
    const store = storage.own(ownership);
    return { ...store, write: counted(store.write) };
  };
  return { ...storage, write: counted(storage.write), own };
}

/** @throws Error if something is missing */
function s3Options(place: string): S3Options {
  const { AWS_ENDPOINT_URL_S3, AWS_REGION: region } = configuration;
  const { AWS_ACCESS_KEY_ID: accessKeyId, AWS_SECRET_ACCESS_KEY: secretAccessKey } = configuration;
  const [bucket = '', ...path] = place.slice(S3_SCHEME.length).replace(/\/+$/, '').split('/');
  if (bucket === '') throw new Error('it names no bucket');
  if (accessKeyId === undefined || secretAccessKey === undefined) {
    throw new Error('AWS_ACCESS_KEY_ID or AWS_SECRET_ACCESS_KEY is missing');
  }
  const service = AWS_ENDPOINT_URL_S3 ?? `https://s3.${region}.amazonaws.com`;
  const prefix = path.map((part) => `${part}/`).join('');
  return { endpoint: `${service.replace(/\/+$/, '')}/${bucket}`, prefix, region, accessKeyId, secretAccessKey };
}

const environment = environmentSchema.safeParse(process.env);
if (!environment.success) {
  process.stderr.write(`${z.prettifyError(environment.error)}\n`);
  process.exit(2);
}
const configuration = environment.data;
const { DDPNOPT_EDGE_URL: edgeUrl, DDPNOPT_WORKER_SECRET: secret, DDPNOPT_WORKER_HOST: wantedHost } = configuration;
if (secret === undefined && (edgeUrl !== undefined || !LOOPBACK.test(wantedHost))) {
  process.stderr.write(
    edgeUrl === undefined
      ? `DDPNOPT_WORKER_HOST=${wantedHost}: an address that others can reach takes DDPNOPT_WORKER_SECRET, the same as the edge's\n`
      : "DDPNOPT_EDGE_URL: to register takes DDPNOPT_WORKER_SECRET, the same as the edge's\n",
  );
  process.exit(2);
}
const signer = secret === undefined ? null : createSigner(secret);
/** Workers that register share their store, unless it is their memory. */
const isShared = edgeUrl !== undefined;
const workerId = edgeUrl === undefined ? null : newWorkerId();

let registration: Registration | null = null;
let isDraining = false;
let isStopping = false;

const { compute, failed, stop: stopComputing } = await startComputing(configuration.DDPNOPT_ENGINE ?? null);
const queue = new ComputeQueue(QUEUE_LIMITS);
const undelivered = new UndeliveredAnswers(LIMITS.undeliveredBytes);
const metrics: WorkerMetrics = new WorkerMetrics(() => performance.now(), {
  sessions: () => sessions.size,
  queue: () => queue.length,
  stateBytes: () => sessions.bytes,
});
const storage = countingWrites(await openStorage());
const { OTEL_EXPORTER_OTLP_ENDPOINT: traceEndpoint, OTEL_SERVICE_NAME: serviceName } = configuration;
const tracing =
  traceEndpoint === undefined
    ? null
    : openTracing({
        endpoint: traceEndpoint,
        serviceName,
        reportFailure: (error) => {
          report({ event: 'traces_lost', error });
        },
      });
const limitedCompute = undelivered.limiting(compute);
const sessions = new SessionRegistry(
  {
    compute: limitedCompute,
    queue,
    now: Date.now,
    pause,
    meter: metrics,
    report: (recovery) => {
      process.stderr.write(`${JSON.stringify(recovery)}\n`);
    },
  },
  {
    limit: configuration.DDPNOPT_MAX_SESSIONS,
    storage,
    isStorageShared: isShared,
    log: {
      snapshotSteps: configuration.DDPNOPT_SNAPSHOT_STEPS,
      snapshotBytes: configuration.DDPNOPT_SNAPSHOT_BYTES,
      acknowledge: configuration.DDPNOPT_ACKNOWLEDGE,
    },
    retention: 1000 * configuration.DDPNOPT_RETENTION_SECONDS,
    retainedReplyBytes: LIMITS.retainedReplyBytes,
    dataBytesInMemory: LIMITS.dataBytesInMemory,
    reportFailure: (error) => {
      report({ event: 'storage_failed', error });
    },
  },
);
await loadSessions();
let solves = 0;
const app = createWorkerApp({
  sessions,
  undelivered,
  limits: LIMITS,
  // Each is a turn of its own: there is no order to keep among them.
  solve: (options, body) =>
    queue.run(`solve ${String(solves++)}`, async () => {
      const begun = metrics.elapsed();
      const answer = await limitedCompute.solve(options, body);
      return { answer, computeSeconds: (metrics.elapsed() - begun) / 1000 };
    }),
  engineName: compute.engine,
  authentication: signer === null ? undefined : authentication(signer, workerId, sessions),
  metrics,
  log: (record, headers) => {
    tracing?.record(record, headers);
    if (isLogged(configuration.DDPNOPT_LOG_LEVEL, record.status)) {
      process.stderr.write(`${JSON.stringify({ event: 'request', side: 'worker', ...record })}\n`);
    }
  },
  reportDefect: (error, requestId) => {
    report({ event: 'defect', requestId, error });
    // A trap in the engine's WebAssembly leaves its heap in an unknown state.
    if (error instanceof Error && error.name === 'RuntimeError') fail();
  },
});
failed.catch((error: unknown) => {
  report({ event: 'compute_failed', error });
  fail();
});
storage.failed.catch((error: unknown) => {
  report({ event: 'storage_failed', error });
  fail();
});

/** Finds what an earlier process has stored. Ends the process if the store cannot be read. */
async function loadSessions(): Promise<void> {
  try {
    const found = await sessions.load();
    if (found > 0)
      process.stderr.write(`${JSON.stringify({ event: 'sessions_found', found, place: storage.place })}\n`);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    process.stderr.write(`cannot read the sessions stored in ${storage.place}: ${reason}\n`);
    process.exit(1);
  }
}

/** Makes the worker known to its edge, if it is to be. @param bound base URL of the address that it has bound */
function register(bound: string): Registration | null {
  if (edgeUrl === undefined || signer === null || workerId === null) return null;
  const { DDPNOPT_ADVERTISED_URL: url = bound, DDPNOPT_HEARTBEAT_MILLISECONDS: heartbeatMilliseconds } = configuration;
  return new Registration({
    edgeUrl,
    signer,
    report: () => ({
      id: workerId,
      url: url.replace(/\/+$/, ''),
      engine: compute.engine,
      store: storage.identity,
      capacity: configuration.DDPNOPT_MAX_SESSIONS,
      sessions: sessions.size,
      queued: queue.length,
      bytes: sessions.bytes,
      isDraining,
      changes: sessions.unreportedChanges(CHANGES_AT_ONCE),
      heartbeatMilliseconds,
    }),
    onReported: ({ changes }) => {
      sessions.reported(changes);
    },
    adopt: ({ session, epoch }) => {
      void sessions.adopt(session, epoch);
    },
    onChange: (failure) => {
      if (failure === null) process.stderr.write(`${JSON.stringify({ event: 'registered', edgeUrl })}\n`);
      else report({ event: 'heartbeat_failed', error: failure });
    },
  });
}

/** Waits so long, or until the signal is aborted; the process may end meanwhile. */
function pause(milliseconds: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds).unref();
    signal?.addEventListener('abort', () => {
      clearTimeout(timer);
      resolve();
    });
  });
}

function report({ error, ...rest }: { event: string; requestId?: string; error: unknown }): void {
  const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
  process.stderr.write(`${JSON.stringify({ ...rest, error: text })}\n`);
}

/** Ends the process: whoever watches it must start another. What it failed at cannot be handed over in order. */
function fail(): void {
  process.exitCode = 1;
  isStopping = true;
  void leave();
  close();
  // What is still being uploaded would wait for ever: there is nobody left to compute it.
  setTimeout(() => {
    server.closeAllConnections();
  }, LAST_ANSWERS_MILLISECONDS).unref();
}

const sweep = setInterval(() => {
  sessions.removeExpired();
  void sessions.removeExpiredCheckpoints();
}, SWEEP_MILLISECONDS);

const listener = getRequestListener(app.fetch);
const server = createServer((request, response) => void listener(request, response));
// A slow upload may take its time, as long as something comes.
server.requestTimeout = 0;
server.listen(configuration.DDPNOPT_WORKER_PORT, configuration.DDPNOPT_WORKER_HOST);
try {
  await once(server, 'listening');
} catch (error) {
  const { DDPNOPT_WORKER_HOST: at, DDPNOPT_WORKER_PORT: wanted } = configuration;
  const reason = error instanceof Error ? error.message : String(error);
  process.stderr.write(`cannot serve at ${at}:${String(wanted)} (${reason}); set DDPNOPT_WORKER_PORT to a free port\n`);
  process.exit(1);
}

/** Ends the process in order: sessions that others can go on with are handed over before anything else. */
function stop(): void {
  if (isStopping) return;
  isStopping = true;
  void handOver().finally(close);
}

async function handOver(): Promise<void> {
  if (registration === null) return;
  isDraining = true;
  await registration.beat();
  await sessions.drain();
  await leave();
}

async function leave(): Promise<void> {
  try {
    await registration?.leave();
  } catch (error) {
    report({ event: 'leave_failed', error });
  }
}

function close(): void {
  clearInterval(sweep);
  if (process.connected) process.disconnect();
  const suspended = sessions.suspend();
  // Requests that are being answered, and steps of runs, may finish; then nothing needs the thread.
  server.close(() => void suspended.then(stopComputing).then(() => Promise.all([storage.close(), tracing?.close()])));
  server.closeIdleConnections();
}
process.once('SIGTERM', stop);
process.once('SIGINT', stop);
// Started by a supervisor, the worker ends with it, however it ends.
process.once('disconnect', stop);

const { address, port } = server.address() as AddressInfo;
const host = address.includes(':') ? `[${address}]` : address;
const ready: ProcessReady = {
  event: 'ready',
  url: `http://${host}:${String(port)}`,
  engine: compute.engine,
  storage: storage.place,
};
registration = register(ready.url);
await registration?.beat();
process.stdout.write(`${JSON.stringify(ready)}\n`);
process.send?.(ready);
