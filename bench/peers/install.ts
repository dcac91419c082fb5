/**
 * npm run bench:peers:install: PyTorch for the benchmarks' peers, in a virtual environment in .peers, and what the Python client's
 * tests take besides. About 2.4 GB to download on Linux. Does nothing if it is all there. PEERS_PYTHON names the interpreter, if it is not python3.
 */
import { spawnSync } from 'node:child_process';
import { copyFileSync, rmSync } from 'node:fs';
import {
  CLIENT_INSTALLED,
  CLIENT_REQUIREMENTS,
  clientInstalled,
  INSTALLED,
  peersInstalled,
  PYTHON,
  REQUIREMENTS,
  VENV,
} from './environment.ts';

function run(command: string, ...args: string[]): void {
  process.stdout.write(`${command} ${args.join(' ')}\n`);
  const { status, error } = spawnSync(command, args, { stdio: 'inherit' });
  if (error !== undefined) throw new Error(`${command} does not start: ${error.message}`);
  if (status !== 0) throw new Error(`${command} ends with ${String(status ?? 'a signal')}; what it says is above.`);
}

/** Without dependencies: a list is complete. */
function install(requirements: string): void {
  run(PYTHON, '-m', 'pip', 'install', '--no-deps', '--disable-pip-version-check', '-r', requirements);
}

const CHECK_VERSION = 'import sys; sys.exit(0 if sys.version_info >= (3, 10) else "Python 3.10 or later is needed")';
const CHECK_IMPORT = 'import torch; print("PyTorch", torch.__version__, "is ready")';

if (!peersInstalled()) {
  const interpreter = process.env['PEERS_PYTHON'] ?? 'python3';
  rmSync(INSTALLED, { force: true });
  rmSync(CLIENT_INSTALLED, { force: true });
  run(interpreter, '-c', CHECK_VERSION);
  run(interpreter, '-m', 'venv', '--clear', VENV);
  install(REQUIREMENTS);
  run(PYTHON, '-c', CHECK_IMPORT);
  copyFileSync(REQUIREMENTS, INSTALLED);
}
if (!clientInstalled()) {
  install(CLIENT_REQUIREMENTS);
  copyFileSync(CLIENT_REQUIREMENTS, CLIENT_INSTALLED);
}
process.stdout.write(`The peers and the Python client's tests are installed in ${VENV}.\n`);
