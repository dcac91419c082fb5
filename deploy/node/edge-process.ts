/**
 * The edge under Node: the same application as in workerd, its memory in a SQLite file.
 *
 * DDPNOPT_PORT             port to bind; 0 takes a free one
 * DDPNOPT_HOST             address to bind, 127.0.0.1 by default
 * DDPNOPT_ALLOWED_ORIGINS  pages that may call the service from a browser, as ALLOWED_ORIGINS in wrangler.toml
 * DDPNOPT_WORKER_URL       where the one worker is; empty where workers register themselves
 * DDPNOPT_WORKER_SECRET    shared with the workers; without one the worker is on this machine alone
 * DDPNOPT_EDGE_STATE       folder that the edge’s memory survives in; unless given it ends with the process
 * DDPNOPT_ADMIN_KEY        the operator's key, 32 or more characters: with it every request needs a key; loopback alone without
 * DDPNOPT_LOG_LEVEL        info: a line for every request; warn, the default: for those that the service failed
 * DDPNOPT_ANSWER_MILLISECONDS  in which a worker answers what takes no computing; 10000 unless given
 */
import { once } from 'node:events';
import { mkdirSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import type { AddressInfo } from 'node:net';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { createAdaptorServer } from '@hono/node-server';
import * as z from 'zod';
import { localDirectory } from '../../edge/access/access-directory.ts';
import { createApp } from '../../edge/app.ts';
import { answerMillisecondsSchema, type Platform } from '../../edge/environment.ts';
import { originsOf } from '../../edge/middleware/cross-origin.ts';
import { PlacementDirectory } from '../../edge/placement/placement-directory.ts';
import {
  registeredWorkers,
  singleWorker,
  type AsyncDirectory,
  type Placement,
} from '../../edge/placement/placement.ts';
import { logLevelSchema } from '../../shared/log-level.ts';
import type { ProcessReady } from '../../shared/service-process.ts';
import { createSigner, type Signer } from '../../shared/signature.ts';
import { openPipe } from './pipe.ts';
import { relayedHere } from './relayed.ts';
import { openSqliteSql, type SqliteSql } from './sqlite-sql.ts';

const ASSETS = fileURLToPath(new URL('../../node_modules/swagger-ui-dist/', import.meta.url));
const STATE_FILE = 'edge.sqlite';
const LOOPBACK_HOSTS = ['127.0.0.1', '::1', 'localhost'];
const CONTENT_TYPES: Readonly<Record<string, string>> = {
  '.css': 'text/css; charset=utf-8',
  '.js': 'text/javascript',
  '.png': 'image/png',
};

const environment = z
  .object({
    DDPNOPT_PORT: z.coerce.number().int().min(0).max(65_535).default(8787),
    DDPNOPT_HOST: z.string().default('127.0.0.1'),
    DDPNOPT_ALLOWED_ORIGINS: z.string().default('loopback'),
    DDPNOPT_WORKER_URL: z.union([z.literal(''), z.url()]).default('http://127.0.0.1:8788'),
    DDPNOPT_WORKER_SECRET: z.string().min(16, 'at least 16 characters').optional(),
    DDPNOPT_EDGE_STATE: z.string().min(1).optional(),
    DDPNOPT_ADMIN_KEY: z.string().min(32).optional(),
    DDPNOPT_LOG_LEVEL: logLevelSchema,
    DDPNOPT_ANSWER_MILLISECONDS: answerMillisecondsSchema,
  })
  .safeParse(process.env);
if (!environment.success) {
  process.stderr.write(`${z.prettifyError(environment.error)}\n`);
  process.exit(2);
}
const { DDPNOPT_PORT: wantedPort, DDPNOPT_HOST: host, DDPNOPT_WORKER_URL: workerUrl } = environment.data;
const { DDPNOPT_ALLOWED_ORIGINS: allowedOrigins, DDPNOPT_LOG_LEVEL: logLevel } = environment.data;
const { DDPNOPT_WORKER_SECRET: secret, DDPNOPT_EDGE_STATE: stateFolder } = environment.data;
const { DDPNOPT_ADMIN_KEY: adminKey, DDPNOPT_ANSWER_MILLISECONDS: answerMilliseconds } = environment.data;
if (adminKey === undefined && !LOOPBACK_HOSTS.includes(host)) {
  process.stderr.write(
    `DDPNOPT_HOST=${host} reaches beyond this machine, and there is no access control; set DDPNOPT_ADMIN_KEY to 32 or more random characters, or bind to 127.0.0.1\n`,
  );
  process.exit(2);
}

const signer = secret === undefined ? null : createSigner(secret);
const state = openState(stateFolder);

/** The edge's memory. Ends the process if it cannot be had. */
function openState(folder: string | undefined): SqliteSql {
  try {
    if (folder === undefined) return openSqliteSql(':memory:');
    mkdirSync(folder, { recursive: true });
    return openSqliteSql(path.join(folder, STATE_FILE));
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    process.stderr.write(`cannot keep the edge's state in DDPNOPT_EDGE_STATE=${String(folder)} (${reason})\n`);
    process.exit(1);
  }
}

/** Ends the process if the configuration says of no worker where it is, nor how one may register. */
function placementOf(registering: Signer | null): Placement {
  if (workerUrl !== '') return singleWorker(workerUrl);
  if (registering === null) {
    process.stderr.write('without DDPNOPT_WORKER_URL workers register, which takes DDPNOPT_WORKER_SECRET\n');
    process.exit(2);
  }
  return registeredWorkers(directoryHere(new PlacementDirectory(state, Date.now)), registering, Date.now);
}

/** The directory without a network between. */
function directoryHere(directory: PlacementDirectory): AsyncDirectory {
  const soon =
    <Parameters extends unknown[], Result>(method: (...parameters: Parameters) => Result) =>
    (...parameters: Parameters): Promise<Result> =>
      Promise.resolve().then(() => method(...parameters));
  return {
    heartbeat: soon(directory.heartbeat.bind(directory)),
    leave: soon(directory.leave.bind(directory)),
    lease: soon(directory.lease.bind(directory)),
    reserve: soon(directory.reserve.bind(directory)),
    release: soon(directory.release.bind(directory)),
    anyWorker: soon(directory.anyWorker.bind(directory)),
    workers: soon(directory.workers.bind(directory)),
  };
}

/** What is to be done a while later, or when the process stops. */
const waiting = new Set<() => Promise<void>>();

function later(milliseconds: number, work: () => Promise<void>): void {
  waiting.add(work);
  setTimeout(() => {
    if (waiting.delete(work)) void work();
  }, milliseconds).unref();
}

const platform: Platform = {
  placement: placementOf(signer),
  signer,
  answerMilliseconds,
  allowedOrigins: originsOf(allowedOrigins),
  access: { directory: localDirectory(state), adminKey: adminKey ?? null, later },
  logLevel,
  log: (line) => {
    process.stderr.write(`${JSON.stringify(line)}\n`);
  },
  // The application names the files itself.
  asset: async (file) => {
    const type = CONTENT_TYPES[path.extname(file)] ?? 'application/octet-stream';
    return new Response(await readFile(path.join(ASSETS, file)), { headers: { 'content-type': type } });
  },
  pipe: openPipe,
  relayed: relayedHere,
};

const server = createAdaptorServer({ fetch: createApp(platform).fetch });
server.listen(wantedPort, host);
try {
  await once(server, 'listening');
} catch (error) {
  const reason = error instanceof Error ? error.message : String(error);
  process.stderr.write(`cannot serve at ${host}:${String(wantedPort)} (${reason}); set DDPNOPT_PORT to a free port\n`);
  process.exit(1);
}

let isStopping = false;

function stop(): void {
  if (isStopping) return;
  isStopping = true;
  if (process.connected) process.disconnect();
  server.close(() => {
    void Promise.all([...waiting].map((work) => work())).then(() => {
      state.close();
    });
  });
}
process.once('SIGTERM', stop);
process.once('SIGINT', stop);
// Started by a supervisor, the edge ends with it, however it ends.
process.once('disconnect', stop);

const { address, port } = server.address() as AddressInfo;
const ready: ProcessReady = {
  event: 'ready',
  url: `http://${address.includes(':') ? `[${address}]` : address}:${String(port)}`,
};
process.stdout.write(`${JSON.stringify(ready)}\n`);
process.send?.(ready);
