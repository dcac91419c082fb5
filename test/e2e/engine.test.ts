/** Which engine a worker takes, and what it says where it cannot have the one it is told to take. */
import { describe, expect, it } from 'vitest';
import { startWorker } from '../../deploy/local/worker.ts';
import { ENGINE_NAMES } from '../../gpu-worker/tensor/engine.ts';
import { presentEngines } from '../../gpu-worker/tensor/index.ts';

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

  it('names the engines if told to take another', async () => {
    expect(await engineOf('abacus')).toMatch(/"tensorflow"\|"wasm"\|"reference"[^]*DDPNOPT_ENGINE/);
  });
});
