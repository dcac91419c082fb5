/** npm run package: builds the npm package `ddpnopt` in clients/js/dist, and packs it there as it would be published. */
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { buildPackage, PACKAGE } from './build.ts';

for (const { name, bytes, gzipped } of await buildPackage()) {
  process.stdout.write(`${name.padEnd(24)}${kilobytes(bytes)}, gzipped ${kilobytes(gzipped)}\n`);
}
const destination = fileURLToPath(new URL('dist/', PACKAGE));
const { stdout } = await promisify(execFile)('npm', ['pack', '--pack-destination', destination, '--silent'], {
  cwd: PACKAGE,
});
process.stdout.write(`packed: ${destination}${stdout}`);

function kilobytes(bytes: number): string {
  return `${(bytes / 1000).toFixed(1).padStart(7)} KB`;
}
