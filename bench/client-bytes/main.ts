/**
 * npm run bench:client-bytes: what the Python client sends and receives in a step, mode by mode. Writes
 * docs/results/client-bytes.json and, from it, docs/results/client-bytes.md.
 */
import { execFileSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { startStack } from '../../deploy/local/stack.ts';
import { CLIENT_MISSING, clientInstalled, PYTHON } from '../peers/environment.ts';
import { provenance } from '../provenance.ts';
import { writeResults } from '../results-folder.ts';
import { renderClientBytes, type ClientBytesMeasurement, type ClientBytesResults } from './report.ts';

const SCRIPT = fileURLToPath(new URL('./measure.py', import.meta.url));
const CLIENT = fileURLToPath(new URL('../../clients/python/src', import.meta.url));

if (!clientInstalled()) throw new Error(CLIENT_MISSING);
const stack = await startStack({ engine: process.env['DDPNOPT_ENGINE'] });
let measurement: ClientBytesMeasurement;
try {
  const env = { ...process.env, DDPNOPT_URL: stack.url, PYTHONPATH: CLIENT };
  measurement = JSON.parse(execFileSync(PYTHON, [SCRIPT], { env, encoding: 'utf8' })) as ClientBytesMeasurement;
} finally {
  await stack.stop();
}
const results: ClientBytesResults = {
  command: 'npm run bench:client-bytes',
  ...provenance(stack.engine),
  ...measurement,
};
await writeResults('client-bytes', results, new Map([['client-bytes.md', renderClientBytes(results)]]));
process.stdout.write(renderClientBytes(results));
