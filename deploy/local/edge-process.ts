/**
 * The edge in workerd, through Miniflare: the configuration is wrangler.toml's, the bundle the one wrangler would make.
 * Miniflare rather than `wrangler dev` or its test harness, because the port must be ours to choose and no proxy must stand
 * before workerd; wrangler's reader of the configuration has only an unstable name, and its version is pinned.
 *
 * DDPNOPT_PORT             port to bind; 0 takes a free one
 * DDPNOPT_WORKER_URL       where the one worker is; empty where workers register themselves
 * DDPNOPT_WORKER_SECRET    shared with the workers; without one the worker is on this machine alone
 * DDPNOPT_EDGE_STATE       folder that Durable Objects survive in; unless given they end with the process
 * DDPNOPT_ADMIN_KEY        the operator's key, 32 or more characters: with it every request needs a key; loopback alone without
 * DDPNOPT_LOG_LEVEL        info: a line for every request; warn, the default: for those that the service failed
 * DDPNOPT_ANSWER_MILLISECONDS  in which a worker answers what takes no computing; 10000 unless given
 */
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';
import { convertV4MiniflareOptions, Log, LogLevel, Miniflare } from 'miniflare';
import { unstable_getMiniflareWorkerOptions as readWorkerOptions } from 'wrangler';
import { logLevelSchema } from '../../shared/log-level.ts';
import type { ProcessReady } from '../../shared/service-process.ts';

const CONFIGURATION = fileURLToPath(new URL('../../wrangler.toml', import.meta.url));

const { main, workerOptions } = readWorkerOptions(CONFIGURATION);
if (main === undefined) throw new Error('wrangler.toml has no main');
const vars = workerOptions['bindings'] as Record<string, string>;
const workerUrl = process.env['DDPNOPT_WORKER_URL'];
const secret = process.env['DDPNOPT_WORKER_SECRET'];
const stateFolder = process.env['DDPNOPT_EDGE_STATE'];
const adminKey = process.env['DDPNOPT_ADMIN_KEY'];
const answerMilliseconds = process.env['DDPNOPT_ANSWER_MILLISECONDS'];
const logLevel = logLevelSchema.parse(process.env['DDPNOPT_LOG_LEVEL']);
const port = Number(process.env['DDPNOPT_PORT'] ?? 8787);
const bundle = await build({
  entryPoints: [main],
  bundle: true,
  write: false,
  format: 'esm',
  target: 'es2024',
  external: ['cloudflare:workers'],
  conditions: ['workerd', 'worker', 'browser'],
});
const contents = bundle.outputFiles[0]?.text;
if (contents === undefined) throw new Error('the bundler produced nothing');

const miniflare = new Miniflare(
  convertV4MiniflareOptions({
    host: '127.0.0.1',
    port,
    log: new Log(LogLevel.ERROR),
    ...(stateFolder === undefined ? {} : { resourcePersistencePath: stateFolder }),
    // What the edge logs is one line of JSON each.
    handleStructuredLogs: ({ message }) => {
      process.stderr.write(`${message}\n`);
    },
    workers: [
      {
        ...workerOptions,
        name: 'edge',
        modules: [{ type: 'ESModule', path: 'index.js', contents }],
        bindings: {
          ...vars,
          ...(workerUrl === undefined ? {} : { WORKER_URL: workerUrl }),
          ...(secret === undefined ? {} : { WORKER_SECRET: secret }),
          ...(adminKey === undefined ? {} : { DDPNOPT_ADMIN_KEY: adminKey }),
          ...(answerMilliseconds === undefined ? {} : { ANSWER_MILLISECONDS: answerMilliseconds }),
          DDPNOPT_LOG_LEVEL: logLevel,
        },
      },
    ],
  }),
);

// Ends with whoever started it, however that ended. Miniflare itself handles SIGTERM and SIGINT.
process.once('disconnect', () => {
  void miniflare.dispose().then(() => process.exit());
});

const origin = await miniflare.ready.then(
  (url) => url.origin,
  (error: unknown) => {
    const reason = error instanceof Error ? error.message : String(error);
    process.stderr.write(`cannot serve at 127.0.0.1:${String(port)} (${reason}); set DDPNOPT_PORT to a free port\n`);
    process.exit(1);
  },
);
const ready: ProcessReady = { event: 'ready', url: origin };
process.send?.(ready);
