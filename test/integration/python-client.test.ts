/** The Python client: its own tests against real processes, its types and style, its package, and the examples. */
import { spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { buffer, text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { CLIENT_MISSING, clientInstalled, PYTHON, VENV } from '../../bench/peers/environment.ts';
import { startEdge } from '../../deploy/local/edge.ts';
import type { ServiceProcess } from '../../deploy/local/child.ts';
import { startStack, type LocalStack } from '../../deploy/local/stack.ts';
import { startWorker } from '../../deploy/local/worker.ts';
import { LIMITS } from '../../shared/limits.ts';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));
const EXAMPLES = path.join(ROOT, 'examples');
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
      startWorker({
        port,
        engine: 'reference',
        storage,
        maximumSessions: 500,
        settings: { DDPNOPT_SNAPSHOT_STEPS: '100' },
      });
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
    const output = await run(PYTHON, ['-m', 'pytest', '-q', '-rs', '--tb=short'], environment());
    expect(output).toMatch(/\d+ passed/);
    expect(output).not.toMatch(/skipped|deselected/);
  });

  it('waits on a silent stream of events for as long as the JavaScript client', async () => {
    const code = 'from ddpnopt.connection import EVENT_TIMEOUT; print(EVENT_TIMEOUT.read)';
    expect(Number(await run(PYTHON, ['-c', code], environment()))).toBe((3 * LIMITS.heartbeatMilliseconds) / 1000);
  });

  it('keeps to its style and its types', { timeout: 240_000 }, async () => {
    await run(PYTHON, ['-m', 'ruff', 'check', '.', EXAMPLES]);
    await run(PYTHON, ['-m', 'ruff', 'format', '--check', '.', EXAMPLES]);
    await run(PYTHON, ['-m', 'mypy']);
  });

  const accuracies = (output: string): number[] =>
    [...output.matchAll(/test accuracy ([0-9.]+) %/g)].map((match) => Number(match[1]));
  // DIGITS, which is in the repository, in the place of the large sets.
  const slice = ['--data', storage, '--training', '768'];

  it.each(['layers', 'kernel'])('examples/pytorch_mnist_mlp.py, mode %s', async (mode) => {
    const script = path.join(EXAMPLES, 'pytorch_mnist_mlp.py');
    const output = await run(PYTHON, [script, ...slice, '--batch', '64', '--mode', mode], environment());
    expect(accuracies(output)).toHaveLength(2);
    expect(accuracies(output)[1]).toBeGreaterThan(85);
    expect(output).toMatch(/24 steps of 6570 parameters: \d+ kB sent and \d+ kB received per step/);
  });

  it('examples/pytorch_fashion_cnn.py, and goes on from its checkpoint', async () => {
    const script = path.join(EXAMPLES, 'pytorch_fashion_cnn.py');
    const checkpoint = path.join(storage, 'cnn.pt');
    const train = (epochs: string): Promise<string> =>
      run(PYTHON, [script, ...slice, '--checkpoint', checkpoint, '--epochs', epochs], environment());
    const first = await train('1');
    const second = await train('2');
    expect(first).not.toContain('going on');
    expect(second).toContain('going on after epoch 1');
    expect(accuracies(first)).toHaveLength(1);
    expect(accuracies(second)).toHaveLength(1);
    expect(accuracies(second)[0]).toBeGreaterThan(70);
  });

  it('examples/numpy_client.py', async () => {
    const output = await run(PYTHON, [path.join(EXAMPLES, 'numpy_client.py'), '--epochs', '2'], environment());
    expect(accuracies(output)[1]).toBeGreaterThan(90);
  });

  it('examples/jax_client.py', async (context) => {
    if (spawnSync(PYTHON, ['-c', 'import jax']).status !== 0) {
      const requirements = path.join('examples', 'requirements-jax.txt');
      process.stdout.write(`Skipped: no JAX; ${path.relative(ROOT, PYTHON)} -m pip install -r ${requirements}\n`);
      context.skip();
    }
    const output = await run(PYTHON, [path.join(EXAMPLES, 'jax_client.py'), '--epochs', '2'], environment());
    expect(accuracies(output)[1]).toBeGreaterThan(90);
  });

  it('docs/python.md: both examples learn the circle', async () => {
    const document = readFileSync(path.join(ROOT, 'docs/python.md'), 'utf8');
    const examples = [...document.matchAll(/```python\n(.*?)```/gs)].map((match) => match[1]!);
    expect(examples).toHaveLength(2);
    for (const code of examples) {
      const losses = [
        ...(await run(PYTHON, ['-c', code], environment())).matchAll(/loss ([0-9.]+), after the step ([0-9.]+)/g),
      ];
      expect(losses).toHaveLength(20);
      expect(Number(losses.at(-1)![2])).toBeLessThan(0.25 * Number(losses[0]![1]));
    }
  });

  it('README: ten lines turn a PyTorch script into one that uses the service', async () => {
    const document = readFileSync(path.join(ROOT, 'README.md'), 'utf8');
    const lines = /```diff\n(.*?)```/s.exec(document)![1]!.trimEnd().split('\n');
    expect(lines.filter((line) => /^[+-]/.test(line)).length).toBeLessThanOrEqual(10);
    const script = (without: string): string =>
      lines
        .map((line) => line.replace('http://127.0.0.1:8787', stack.url))
        .filter((line) => !line.startsWith(without))
        .map((line) => line.slice(1))
        .join('\n');
    const losses = async (code: string): Promise<number[]> =>
      [...(await run(PYTHON, ['-c', code], environment())).matchAll(/loss ([0-9.]+)/g)].map((match) =>
        Number(match[1]),
      );
    const before = await losses(script('+'));
    const after = await losses(script('-'));
    expect(before.length).toBeGreaterThan(1);
    expect(after).toHaveLength(before.length);
    expect(after.at(-1)).toBeLessThan(0.5 * after[0]!);
  });

  it('installs into a clean environment, and runs from there', { timeout: 240_000 }, async (context) => {
    const venv = path.join(storage, 'venv');
    await run(PYTHON, ['-m', 'venv', venv]);
    const python = path.join(venv, path.relative(VENV, PYTHON));
    const install = ['-m', 'pip', 'install', '--retries', '0', '--disable-pip-version-check', '-q', '.'];
    try {
      await run(python, install);
    } catch (error) {
      // Whatever else goes wrong is a defect of the package.
      if (!/No matching distribution|Could not find a version|Connection|Temporary failure/.test(String(error)))
        throw error;
      process.stdout.write(`Skipped: no package registry can be reached\n${String(error)}\n`);
      context.skip();
    }
    const code =
      'import ddpnopt, importlib.util, pathlib; assert importlib.util.find_spec("torch") is None; ' +
      'assert (pathlib.Path(ddpnopt.__file__).parent / "py.typed").exists(); ' +
      'print(ddpnopt.Client().solve_kernels([1.0], [[[2.0]]], learningRate=1)["coefficients"])';
    expect(await run(python, ['-I', '-c', code], { DDPNOPT_URL: stack.url })).toContain('[[');
  });
});

it('examples/curl_json.sh fits the line', async (context) => {
  const missing = ['curl', 'jq'].filter((command) => spawnSync(command, ['--version']).error !== undefined);
  if (missing.length > 0) {
    process.stdout.write(`Skipped: ${missing.join(' and ')} not found\n`);
    context.skip();
  }
  const stack = await startStack();
  try {
    const output = await run('bash', [path.join(EXAMPLES, 'curl_json.sh')], { DDPNOPT_URL: stack.url });
    const losses = [...output.matchAll(/loss ([0-9.e+-]+)/g)].map((match) => Number(match[1]));
    expect(losses).toHaveLength(6);
    expect(losses.at(-1)).toBeLessThan(0.01 * losses[0]!);
  } finally {
    await stack.stop();
  }
});

/** Changes a byte wherever the file has these: pages that SQLite has moved leave copies behind. */
function damage(file: string, part: Uint8Array): void {
  const bytes = readFileSync(file);
  let found = 0;
  for (let at = bytes.indexOf(part); at >= 0; at = bytes.indexOf(part, at + 1), found++) bytes[at]! ^= 0xff;
  expect(found).toBeGreaterThan(0);
  writeFileSync(file, bytes);
}
