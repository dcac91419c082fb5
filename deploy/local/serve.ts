/**
 * npm start: serves on this machine until Ctrl-C.
 *
 * DDPNOPT_PORT             port of the edge, 8787 by default
 * DDPNOPT_WORKER_PORT      port of the worker, 8788 by default
 * DDPNOPT_EDGE             what the edge runs in: workerd, as on Cloudflare, by default; or node
 * DDPNOPT_ENGINE           tensor engine of the worker: tensorflow, wasm or reference; the best one there is by default
 * DDPNOPT_EDGE_STATE       folder that API keys and usage survive in; edge in DDPNOPT_STORAGE by default, where that is a folder
 * DDPNOPT_ADMIN_KEY        the operator's key: with it every request needs a key (docs/access.md)
 * DDPNOPT_STORAGE          folder, or s3://bucket/prefix, that sessions and checkpoints survive in; .ddpnopt by default, "memory" for none
 */
import { join, resolve } from 'node:path';
import * as z from 'zod';
import { EDGE_RUNTIMES } from './edge.ts';
import { untilInterrupted } from './interrupt.ts';
import { describeEngine, startStack } from './stack.ts';

const port = z.coerce.number().int().min(0).max(65_535);
const environmentSchema = z.object({
  DDPNOPT_PORT: port.default(8787),
  DDPNOPT_WORKER_PORT: port.default(8788),
  DDPNOPT_EDGE: z.enum(EDGE_RUNTIMES).default('workerd'),
  DDPNOPT_ENGINE: z.string().optional(),
  DDPNOPT_EDGE_STATE: z.string().min(1).optional(),
  DDPNOPT_STORAGE: z.string().min(1).default('.ddpnopt'),
});
const IN_MEMORY = 'memory';

function describeStorage(folder: string | undefined): string {
  return folder === undefined
    ? 'Sessions and checkpoints live in memory and end with the process.'
    : `Sessions and checkpoints are kept in ${folder} and go on after a restart or a crash.`;
}

const interrupted = untilInterrupted();
try {
  const environment = environmentSchema.safeParse(process.env);
  if (!environment.success) throw new Error(z.prettifyError(environment.error));
  const { DDPNOPT_PORT: edgePort, DDPNOPT_WORKER_PORT: workerPort, DDPNOPT_ENGINE: engine } = environment.data;
  const { DDPNOPT_EDGE: edge, DDPNOPT_STORAGE: folder } = environment.data;
  const storage = folder === IN_MEMORY ? undefined : folder.startsWith('s3://') ? folder : resolve(folder);
  // In a bucket there is no place for it.
  const beside = storage === undefined || storage.startsWith('s3://') ? undefined : join(storage, 'edge');
  const edgeState = environment.data.DDPNOPT_EDGE_STATE ?? beside;
  const stack = await startStack({ edgePort, workerPort, edge, edgeState, engine, storage });
  process.stdout.write(
    `DDPNOpt serves at ${stack.url}, ${describeEngine(stack)}\n` +
      `  API for people    ${stack.url}/docs\n` +
      `  API for programs  ${stack.url}/openapi.json\n` +
      `${describeStorage(storage)}\n` +
      'Ctrl-C stops it.\n',
  );
  const reason = await Promise.race([interrupted, stack.failed]);
  await stack.stop();
  if (reason !== 'interrupted') {
    process.stderr.write(`${reason}\n`);
    process.exitCode = 1;
  }
} catch (error) {
  process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 1;
}
