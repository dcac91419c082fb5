/**
 * Before the tests: where a server runs them (CI=true), the native engine is assembled, so that they judge it, too. Elsewhere they
 * take the engines that are there.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { presentEngines } from '../gpu-worker/tensor/index.ts';

const ASSEMBLY = fileURLToPath(new URL('../deploy/native/main.ts', import.meta.url));

export default async function setup(): Promise<void> {
  if (process.env['CI'] !== 'true' || presentEngines().includes('tensorflow')) return;
  const assembly = spawn(process.execPath, [ASSEMBLY, '--cpu'], { stdio: 'inherit' });
  const [code] = (await once(assembly, 'exit')) as [number | null];
  if (code === 0) return;
  // Its own lines have said why.
  process.stdout.write('CI=true: the native engine could not be installed; the tests go on without it.\n');
}
