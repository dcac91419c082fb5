/** Which engine a worker takes, and what it says where it cannot have the one it is told to take. */
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { cp, mkdtemp, rm, symlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it, onTestFinished } from 'vitest';
import { startWorker } from '../../deploy/local/worker.ts';
import { ENGINE_NAMES } from '../../gpu-worker/tensor/engine.ts';
import { presentEngines } from '../../gpu-worker/tensor/index.ts';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));

/** The engine that a worker says it has; the reason if it does not start. */
async function engineOf(engine?: string): Promise<string> {
  try {
    const worker = await startWorker({ port: 0, engine });
    await worker.stop();
    return worker.ready.engine ?? 'none';
  } catch (error) {
    return (error as Error).message;
  }
}

describe('the worker', () => {
  it('takes the best engine there is', async () => {
    expect(await engineOf()).toBe(process.env['DDPNOPT_ENGINE'] ?? presentEngines()[0]);
  });

  it.each(ENGINE_NAMES)('takes %s if told to, or says how to get it', async (name) => {
    const expected = presentEngines().includes(name) ? new RegExp(`^${name}$`) : /npm run native/;
    expect(await engineOf(name)).toMatch(expected);
  });

  // An installed package brings the engine along with node_modules.
  const hasPackage = ['tfjs-node', 'tfjs-node-gpu'].some((name) =>
    existsSync(path.join(ROOT, 'node_modules/@tensorflow', name)),
  );
  it.skipIf(hasPackage)('says once that it cannot have the engine, and why', async () => {
    // A working copy without the engine, of links to what this one consists of.
    const folder = await mkdtemp(path.join(tmpdir(), 'without-engine-'));
    onTestFinished(() => rm(folder, { recursive: true }));
    for (const part of ['gpu-worker', 'shared', 'package.json'])
      await cp(path.join(ROOT, part), path.join(folder, part), { recursive: true });
    await symlink(path.join(ROOT, 'node_modules'), path.join(folder, 'node_modules'));
    const entry = path.join(folder, 'gpu-worker/index.ts');
    const env = { ...process.env, DDPNOPT_ENGINE: 'tensorflow' };
    const { status, stderr } = spawnSync(process.execPath, [entry], { env, encoding: 'utf8' });
    expect(status).toBe(2);
    expect(stderr).toBe(
      'DDPNOPT_ENGINE=tensorflow: the tensorflow engine is not there; npm run native builds it, and wasm is always there\n',
    );
  });

  it('names the engines if told to take another', async () => {
    expect(await engineOf('abacus')).toMatch(/"tensorflow"\|"wasm"\|"reference"[^]*DDPNOPT_ENGINE/);
  });
});
