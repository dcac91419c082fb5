/** The edge in workerd, through Miniflare: the configuration is wrangler.toml's, the bundle the one wrangler would make. */
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';
import { convertV4MiniflareOptions, Log, LogLevel, Miniflare } from 'miniflare';
import { unstable_getMiniflareWorkerOptions as readWorkerOptions } from 'wrangler';

const CONFIGURATION = fileURLToPath(new URL('../../wrangler.toml', import.meta.url));

export interface EdgeProcess {
  readonly url: string;
  readonly stop: () => Promise<void>;
}

export interface EdgeOptions {
  /** 0 takes a free port. */
  readonly port: number;
  readonly workerUrl: string;
}

/** Starts the edge and waits until it serves. */
export async function startEdge({ port, workerUrl }: EdgeOptions): Promise<EdgeProcess> {
  const { main, workerOptions } = readWorkerOptions(CONFIGURATION);
  if (main === undefined) throw new Error('wrangler.toml has no main');
  const vars = workerOptions['bindings'] as Record<string, string>;
  const bundle = await build({
    entryPoints: [main],
    bundle: true,
    write: false,
    format: 'esm',
    target: 'es2024',
    conditions: ['workerd', 'worker', 'browser'],
  });
  const contents = bundle.outputFiles[0]?.text;
  if (contents === undefined) throw new Error('the bundler produced nothing');
  const miniflare = new Miniflare(
    convertV4MiniflareOptions({
      host: '127.0.0.1',
      port,
      log: new Log(LogLevel.ERROR),
      workers: [
        {
          ...workerOptions,
          name: 'edge',
          modules: [{ type: 'ESModule', path: 'index.js', contents }],
          bindings: { ...vars, WORKER_URL: workerUrl },
        },
      ],
    }),
  );
  const { origin } = await miniflare.ready;
  return { url: origin, stop: () => miniflare.dispose() };
}
