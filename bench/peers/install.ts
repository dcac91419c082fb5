/**
 * npm run bench:peers:install: PyTorch for the benchmarks' peers, in a virtual environment in .peers. About 2.4 GB to download on
 * Linux. Does nothing if it is all there. PEERS_PYTHON names the interpreter, if it is not python3.
 */
import { spawnSync } from 'node:child_process';
import { copyFileSync, rmSync } from 'node:fs';
import { INSTALLED, peersInstalled, PYTHON, REQUIREMENTS, VENV } from './environment.ts';

function run(command: string, ...args: string[]): void {
  process.stdout.write(`${command} ${args.join(' ')}\n`);
  const { status, error } = spawnSync(command, args, { stdio: 'inherit' });
  if (error !== undefined) throw new Error(`${command} does not start: ${error.message}`);
  if (status !== 0) throw new Error(`${command} ends with ${String(status ?? 'a signal')}; what it says is above.`);
}

const CHECK_VERSION = 'import sys; sys.exit(0 if sys.version_info >= (3, 10) else "Python 3.10 or later is needed")';
const CHECK_IMPORT = 'import torch; print("PyTorch", torch.__version__, "is ready")';

if (peersInstalled()) {
  process.stdout.write(`The peers are installed in ${VENV}.\n`);
} else {
  const interpreter = process.env['PEERS_PYTHON'] ?? 'python3';
  rmSync(INSTALLED, { force: true });
  run(interpreter, '-c', CHECK_VERSION);
  run(interpreter, '-m', 'venv', '--clear', VENV);
  run(PYTHON, '-m', 'pip', 'install', '--no-deps', '--disable-pip-version-check', '-r', REQUIREMENTS);
  run(PYTHON, '-c', CHECK_IMPORT);
  copyFileSync(REQUIREMENTS, INSTALLED);
}
