/**
 * The edge under Node: the same application as in workerd, its memory in a SQLite file.
 *
 * DDPNOPT_PORT             port to bind; 0 takes a free one
 * DDPNOPT_HOST             address to bind, 127.0.0.1 by default
 * DDPNOPT_WORKER_URL       where the worker is
 * DDPNOPT_ALLOWED_ORIGINS  pages that may call the service from a browser, as ALLOWED_ORIGINS in wrangler.toml
 */
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import type { AddressInfo } from 'node:net';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { createAdaptorServer } from '@hono/node-server';
import * as z from 'zod';
import { createApp } from '../../edge/app.ts';
import type { Platform } from '../../edge/environment.ts';
import { originsOf } from '../../edge/middleware/cross-origin.ts';
import { singleWorker } from '../../edge/placement/placement.ts';
import type { ProcessReady } from '../../shared/service-process.ts';

const ASSETS = fileURLToPath(new URL('../../node_modules/swagger-ui-dist/', import.meta.url));
const CONTENT_TYPES: Readonly<Record<string, string>> = {
  '.css': 'text/css; charset=utf-8',
  '.js': 'text/javascript',
  '.png': 'image/png',
};

const environment = z
  .object({
    DDPNOPT_PORT: z.coerce.number().int().min(0).max(65_535).default(8787),
    DDPNOPT_HOST: z.string().default('127.0.0.1'),
    DDPNOPT_WORKER_URL: z.url().default('http://127.0.0.1:8788'),
    DDPNOPT_ALLOWED_ORIGINS: z.string().default('loopback'),
  })
  .safeParse(process.env);
if (!environment.success) {
  process.stderr.write(`${z.prettifyError(environment.error)}\n`);
  process.exit(2);
}
const { DDPNOPT_PORT: wantedPort, DDPNOPT_HOST: host, DDPNOPT_WORKER_URL: workerUrl } = environment.data;
const { DDPNOPT_ALLOWED_ORIGINS: allowedOrigins } = environment.data;

const platform: Platform = {
  placement: singleWorker(workerUrl),
  allowedOrigins: originsOf(allowedOrigins),
  // The application names the files itself.
  asset: async (file) => {
    const type = CONTENT_TYPES[path.extname(file)] ?? 'application/octet-stream';
    return new Response(await readFile(path.join(ASSETS, file)), { headers: { 'content-type': type } });
  },
  pipe: () => new TransformStream<Uint8Array, Uint8Array>(),
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

function stop(): void {
  if (process.connected) process.disconnect();
  server.close();
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
