/** The Python environment of the peers: PyTorch in a folder of its own, which only benchmarks and their tests use. */
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const FOLDER = new URL('../../.peers/', import.meta.url);

export const VENV = fileURLToPath(new URL('venv', FOLDER));
export const PYTHON = fileURLToPath(
  new URL(process.platform === 'win32' ? 'venv/Scripts/python.exe' : 'venv/bin/python', FOLDER),
);
export const REQUIREMENTS = fileURLToPath(new URL('requirements.txt', import.meta.url));
/** A copy of the requirements, written once they are all installed. */
export const INSTALLED = fileURLToPath(new URL('installed.txt', FOLDER));

/** Whether the environment is there, with what the requirements ask for now. */
export function peersInstalled(): boolean {
  return isCopy(INSTALLED, REQUIREMENTS);
}

function isCopy(copy: string, original: string): boolean {
  try {
    return readFileSync(copy, 'utf8') === readFileSync(original, 'utf8');
  } catch {
    return false;
  }
}

export const MISSING = 'The PyTorch peers are not installed; run `npm run bench:peers:install`.';

/** What the Python client's tests take besides, in the same environment. */
export const CLIENT_REQUIREMENTS = fileURLToPath(
  new URL('../../clients/python/requirements-development.txt', import.meta.url),
);
/** A copy of them, written once they are all installed. */
export const CLIENT_INSTALLED = fileURLToPath(new URL('client-installed.txt', FOLDER));

export function clientInstalled(): boolean {
  return peersInstalled() && isCopy(CLIENT_INSTALLED, CLIENT_REQUIREMENTS);
}

export const CLIENT_MISSING = 'The Python client’s environment is not there; run `npm run bench:peers:install`.';
