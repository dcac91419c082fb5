/** The edge in workerd itself: nothing of Miniflare or wrangler is in the way of a request, or in the process that is measured. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';
import type { Readable } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';
import * as z from 'zod';

const ENTRY = fileURLToPath(new URL('../../edge/index.ts', import.meta.url));
const WORKERD = fileURLToPath(new URL('../../node_modules/.bin/workerd', import.meta.url));
const CONFIGURATION = new URL('../../wrangler.toml', import.meta.url);

export interface EdgeSecrets {
  /** With which workers register and are called. */
  readonly workerSecret: string;
  /** The operator's API key, which has no limits. */
  readonly adminKey: string;
}

export interface EdgeProcess {
  readonly url: string;
  /** Resident memory now, bytes. */
  readonly residentBytes: () => Promise<number>;
  readonly stop: () => Promise<void>;
}

const listening = z.object({ event: z.literal('listen'), port: z.int() });

/**
 * Starts the edge on the loopback interface and waits until it serves.
 *
 * @throws Error in workerd's words if it does not
 */
export async function startEdgeInWorkerd(secrets: EdgeSecrets): Promise<EdgeProcess> {
  const folder = await mkdtemp(path.join(tmpdir(), 'ddpnopt-workerd-'));
  await build({
    entryPoints: [ENTRY],
    bundle: true,
    outfile: path.join(folder, 'index.js'),
    format: 'esm',
    target: 'es2024',
    external: ['cloudflare:workers'],
    conditions: ['workerd', 'worker', 'browser'],
  });
  await mkdir(path.join(folder, 'state'));
  await writeFile(path.join(folder, 'config.capnp'), await configuration(secrets));
  const child = spawn(WORKERD, ['serve', 'config.capnp', '--control-fd=3'], {
    cwd: folder,
    stdio: ['ignore', 'ignore', 'inherit', 'pipe'],
  });
  const ended = once(child, 'exit').then(([code]) => `workerd ended with ${String(code)}`);
  // stdio above makes the fourth a readable pipe.
  const control = child.stdio[3] as Readable;
  const port = new Promise<number>((resolve) => {
    createInterface({ input: control }).on('line', (line) => {
      const said = listening.safeParse(JSON.parse(line));
      if (said.success) resolve(said.data.port);
    });
  });
  const first = await Promise.race([port, ended]);
  if (typeof first === 'string') throw new Error(first);
  return {
    url: `http://127.0.0.1:${String(first)}`,
    residentBytes: async () => {
      const status = await readFile(`/proc/${String(child.pid)}/status`, 'utf8');
      return 1024 * Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1]);
    },
    stop: async () => {
      child.kill('SIGTERM');
      await ended;
      await rm(folder, { recursive: true });
    },
  };
}

async function configuration({ workerSecret, adminKey }: EdgeSecrets): Promise<string> {
  const date = /^compatibility_date = "([\d-]+)"$/m.exec(await readFile(CONFIGURATION, 'utf8'))?.[1];
  if (date === undefined) throw new Error('wrangler.toml has no compatibility_date');
  // Workers may not call private addresses unless they are told that they may.
  return `using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [
    (name = "edge", worker = (
      modules = [(name = "index.js", esModule = embed "index.js")],
      compatibilityDate = "${date}",
      bindings = [
        (name = "WORKER_URL", text = ""),
        (name = "WORKER_SECRET", text = "${workerSecret}"),
        (name = "DDPNOPT_ADMIN_KEY", text = "${adminKey}"),
        (name = "DDPNOPT_LOG_LEVEL", text = "info"),
        (name = "ALLOWED_ORIGINS", text = ""),
        (name = "PLACEMENT", durableObjectNamespace = "PlacementObject"),
        (name = "ACCESS", durableObjectNamespace = "AccessObject"),
      ],
      durableObjectNamespaces = [
        (className = "PlacementObject", uniqueKey = "placement", enableSql = true),
        (className = "AccessObject", uniqueKey = "access", enableSql = true),
      ],
      durableObjectStorage = (localDisk = "state"),
      globalOutbound = "network",
    )),
    (name = "state", disk = (path = "state", writable = true)),
    (name = "network", network = (allow = ["local", "private", "public"])),
  ],
  sockets = [(name = "http", address = "127.0.0.1:0", http = (), service = "edge")],
);
`;
}
