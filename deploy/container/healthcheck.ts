/** Ends with 0 if the worker of this container answers that it is well, with 1 if not. */
const port = process.env['DDPNOPT_WORKER_PORT'] ?? '8788';
const TIMEOUT_MILLISECONDS = 3_000;

try {
  const { ok } = await fetch(`http://127.0.0.1:${port}/healthz`, { signal: AbortSignal.timeout(TIMEOUT_MILLISECONDS) });
  process.exitCode = ok ? 0 : 1;
} catch (error) {
  process.stderr.write(`the worker does not answer: ${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 1;
}
