/**
 * npm start: serves on this machine until Ctrl-C.
 *
 * DDPNOPT_PORT             port of the edge, 8787 by default
 * DDPNOPT_WORKER_PORT      port of the worker, 8788 by default
 * DDPNOPT_ENGINE           tensor engine of the worker
 */
import { untilInterrupted } from './interrupt.ts';
import { startStack } from './stack.ts';

const interrupted = untilInterrupted();
const starting = startStack({
  edgePort: Number(process.env['DDPNOPT_PORT'] ?? 8787),
  workerPort: Number(process.env['DDPNOPT_WORKER_PORT'] ?? 8788),
  engine: process.env['DDPNOPT_ENGINE'],
});
try {
  const stack = await starting;
  process.stdout.write(
    `DDPNOpt serves at ${stack.url} (engine: ${stack.engine})\n` +
      `  API for people    ${stack.url}/docs\n` +
      `  API for programs  ${stack.url}/openapi.json\n` +
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
