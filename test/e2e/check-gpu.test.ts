/** npm run check:gpu says what it computes on, and ends with the exit code that it documents. */
import { spawnSync } from 'node:child_process';
import path from 'node:path';
import { expect, it } from 'vitest';
import { findBinding, loadBinding } from '../../gpu-worker/tensor/tensorflow/binding.ts';

const MAIN = path.join(import.meta.dirname, '../../gpu-worker/check/main.ts');

it('compares the native engine with the reference, or says that there is none', { timeout: 300_000 }, () => {
  const { status, stdout, stderr } = spawnSync(process.execPath, [MAIN], { encoding: 'utf8' });
  const file = findBinding();
  if (file === null) {
    expect(stderr).toMatch(/no native engine.*npm run native/);
    expect(status).toBe(2);
    return;
  }
  const device = loadBinding(file).isUsingGpuDevice() ? 'GPU' : 'CPU';
  expect(stdout).toMatch(new RegExp(`^Computes on +the ${device}$`, 'm'));
  expect(stdout.match(/ compared, all as the float64 reference/g)).toHaveLength(3);
  expect(stdout).toMatch(/^A step moves +0\.4\d MB to the device and 0\.00 MB back/m);
  expect(stdout).toMatch(new RegExp(`^Result +it computes on the ${device}, as it should`, 'm'));
  expect(status).toBe(device === 'GPU' ? 0 : 3);
});
