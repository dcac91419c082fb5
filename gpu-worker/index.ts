/**
 * The worker process: reads its configuration from the environment, chooses the tensor engine, serves until it is told to stop.
 *
 * DDPNOPT_ENGINE           tensorflow, wasm or reference; unless given, tensorflow if it is there, else wasm
 * DDPNOPT_WORKER_HOST      address to bind, 127.0.0.1 by default: the worker trusts whoever can reach it, which must be the edge
 * DDPNOPT_WORKER_PORT      port to bind; 0 takes a free one
 * DDPNOPT_MAX_SESSIONS     sessions held at once
 */
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { getRequestListener } from '@hono/node-server';
import * as z from 'zod';
import type { ProcessReady } from '../shared/service-process.ts';
import { ComputeQueue } from './engine/queue.ts';
import { createWorkerApp } from './server/app.ts';
import { SessionRegistry } from './session/registry.ts';
import { ENGINE_NAMES, type Engine, type EngineName } from './tensor/engine.ts';
import { loadBestEngine, loadEngine } from './tensor/index.ts';

const SWEEP_MILLISECONDS = 10_000;
const QUEUE_LIMITS = { perSession: 4, total: 256 };

const environmentSchema = z.object({
  DDPNOPT_ENGINE: z.enum(ENGINE_NAMES).optional(),
  DDPNOPT_WORKER_HOST: z.string().default('127.0.0.1'),
  DDPNOPT_WORKER_PORT: z.coerce.number().int().min(0).max(65_535).default(8788),
  DDPNOPT_MAX_SESSIONS: z.coerce.number().int().min(1).default(64),
});

/** The engine that is asked for, or the best one. Ends the process if the former cannot be had. */
async function chooseEngine(name: EngineName | undefined): Promise<Engine> {
  try {
    return name === undefined ? await loadBestEngine(warn) : await loadEngine(name);
  } catch (error) {
    warn(`DDPNOPT_ENGINE=${String(name)}: ${error instanceof Error ? error.message : String(error)}`);
    process.exit(2);
  }
}

function warn(text: string): void {
  process.stderr.write(`${text}\n`);
}

const environment = environmentSchema.safeParse(process.env);
if (!environment.success) {
  process.stderr.write(`${z.prettifyError(environment.error)}\n`);
  process.exit(2);
}
const configuration = environment.data;

const engine = await chooseEngine(configuration.DDPNOPT_ENGINE);
const queue = new ComputeQueue(QUEUE_LIMITS);
const sessions = new SessionRegistry({ engine, queue, now: Date.now }, configuration.DDPNOPT_MAX_SESSIONS);
const app = createWorkerApp({
  sessions,
  engineName: engine.name,
  reportDefect: (error, requestId) => {
    const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
    process.stderr.write(`${JSON.stringify({ event: 'defect', requestId, error: text })}\n`);
    // A trap in the engine's WebAssembly leaves its heap in an unknown state: whoever watches the process must start another.
    if (error instanceof Error && error.name === 'RuntimeError') {
      process.exitCode = 1;
      stop();
    }
  },
});

const listener = getRequestListener(app.fetch);
const server = createServer((request, response) => void listener(request, response));
// A slow upload is the edge's to limit: it knows the client.
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
const sweep = setInterval(() => {
  sessions.removeExpired();
}, SWEEP_MILLISECONDS);

function stop(): void {
  clearInterval(sweep);
  if (process.connected) process.disconnect();
  server.close();
  server.closeIdleConnections();
}
process.once('SIGTERM', stop);
process.once('SIGINT', stop);
// Started by a supervisor, the worker ends with it, however it ends.
process.once('disconnect', stop);

const { address, port } = server.address() as AddressInfo;
const host = address.includes(':') ? `[${address}]` : address;
const ready: ProcessReady = { event: 'ready', url: `http://${host}:${String(port)}`, engine: engine.name };
process.stdout.write(`${JSON.stringify(ready)}\n`);
process.send?.(ready);
