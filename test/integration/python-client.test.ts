/** The Python client: its own tests against real processes, its types and style, its package, and the examples. */
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { buffer, text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { CLIENT_MISSING, clientInstalled, PYTHON } from '../../bench/peers/environment.ts';
import { startEdge } from '../../deploy/local/edge.ts';
import type { ServiceProcess } from '../../deploy/local/child.ts';
import { startStack, type LocalStack } from '../../deploy/local/stack.ts';
import { startWorker } from '../../deploy/local/worker.ts';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));
const CLIENT = path.join(ROOT, 'clients/python');
const ORACLE = fileURLToPath(new URL('./python-oracle.ts', import.meta.url));

/** What a command prints. @throws Error with it unless the command succeeds */
async function run(command: string, args: readonly string[], environment: NodeJS.ProcessEnv = {}): Promise<string> {
  const child = spawn(command, args, { cwd: CLIENT, env: { ...process.env, ...environment } });
  const closed = once(child, 'close') as Promise<[number | null]>;
  const [stdout, stderr, [code]] = await Promise.all([text(child.stdout), text(child.stderr), closed]);
  if (code !== 0) throw new Error(`${path.basename(command)} ${args.join(' ')} ends with ${code}\n${stdout}${stderr}`);
  return stdout + stderr;
}

const installed = clientInstalled();
if (!installed) process.stdout.write(`Skipped: ${CLIENT_MISSING}\n`);

describe.skipIf(!installed)('the Python client', () => {
  const storage = mkdtempSync(path.join(tmpdir(), 'ddpnopt-python-'));
  let stack: LocalStack;
  let worker: ServiceProcess;
  let edge: ServiceProcess;
  let control: Server;
  beforeAll(async () => {
    stack = await startStack({ maximumSessions: 500 });
    const start = (port: number): Promise<ServiceProcess> =>
      startWorker({ port, engine: 'reference', storage, maximumSessions: 500, settings: { DDPNOPT_SNAPSHOT_STEPS: '100' } });
    worker = await start(0);
    edge = await startEdge({ port: 0, workerUrl: worker.ready.url });
    control = createServer((request, response) => {
      void (async () => {
        const part = await buffer(request);
        await worker.stop();
        damage(path.join(storage, 'sessions.sqlite'), part);
        worker = await start(Number(new URL(worker.ready.url).port));
        response.writeHead(204).end();
      })();
    });
    control.listen(0, '127.0.0.1');
    await once(control, 'listening');
  });
  afterAll(async () => {
    control.close();
    await Promise.all([stack.stop(), edge.stop(), worker.stop()]);
    rmSync(storage, { recursive: true });
  });

  const environment = (): NodeJS.ProcessEnv => ({
    DDPNOPT_TEST_URL: stack.url,
    DDPNOPT_TEST_EXACT_URL: edge.ready.url,
    DDPNOPT_TEST_CONTROL_URL: `127.0.0.1:${(control.address() as AddressInfo).port}`,
    DDPNOPT_TEST_ORACLE: JSON.stringify([process.execPath, ORACLE]),
    DDPNOPT_URL: stack.url,
    PYTHONPATH: path.join(CLIENT, 'src'),
    // Two cores, and a service that wants them as well.
    OMP_WAIT_POLICY: 'PASSIVE',
  });

  it('passes its own tests', { timeout: 300_000 }, async () => {
    const output = await run(PYTHON, ['-m', 'pytest', ...(process.env['PYTEST_ARGS']?.split(' ') ?? []), '-q', '-rs', '--tb=short', '--durations=5'], environment());
    expect(output).toMatch(/\d+ passed/);
    expect(output).not.toMatch(/skipped|deselected/);
  });
});

/** Changes a byte wherever the file has these: pages that SQLite has moved leave copies behind. */
function damage(file: string, part: Uint8Array): void {
  const bytes = readFileSync(file);
  let found = 0;
  for (let at = bytes.indexOf(part); at >= 0; at = bytes.indexOf(part, at + 1), found++) bytes[at]! ^= 0xff;
  expect(found).toBeGreaterThan(0);
  writeFileSync(file, bytes);
}
