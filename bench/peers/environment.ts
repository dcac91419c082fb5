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
  try {
    return readFileSync(INSTALLED, 'utf8') === readFileSync(REQUIREMENTS, 'utf8');
  } catch {
    return false;
  }
}

export const MISSING = 'The PyTorch peers are not installed; run `npm run bench:peers:install`.';
