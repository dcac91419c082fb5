/** The npm package as it would be published: built, packed, installed into a clean folder, compiled against, run. */
import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { build } from 'esbuild';
import { convertV4MiniflareOptions, Log, LogLevel, Miniflare } from 'miniflare';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { buildPackage, PACKAGE, type BuiltFile } from '../../deploy/npm/build.ts';
import { startStack, type LocalStack } from '../../deploy/local/stack.ts';

const run = promisify(execFile);
const ROOT = path.join(import.meta.dirname, '../..');
const TSC = path.join(ROOT, 'node_modules/typescript/bin/tsc');

/** A program of somebody who has the package and nothing else; it takes the address as its first argument. */
const TRAINING = `
import { DdpnoptClient } from 'ddpnopt';

export async function train(url) {
  const client = new DdpnoptClient({ url });
  const session = await client.createHostedSession({
    model: { input: [2], layers: [{ kind: 'dense', name: 'line', outputs: 1 }] },
    loss: { kind: 'mse' },
  });
  const x = Float32Array.of(0, 0, 0, 1, 1, 0, 1, 1);
  for (let step = 0; step < 12; step++) await session.step({ x, y: [1, -1, 4, 2] });
  const { loss } = await session.predict({ x, y: [1, -1, 4, 2] });
  await session.delete();
  return { steps: session.history.columns.step, loss };
}
`;

let stack: LocalStack;
let folder: string;
let built: BuiltFile[];

/** npm's way of taking a folder into a tarball. */
async function pack(source: string): Promise<string> {
  const { stdout } = await run('npm', ['pack', source, '--pack-destination', folder, '--silent'], { cwd: folder });
  return `./${stdout.trim()}`;
}

beforeAll(async () => {
  [stack, folder, built] = await Promise.all([
    startStack({ engine: 'reference' }),
    mkdtemp(path.join(tmpdir(), 'ddpnopt-package-')),
    buildPackage(),
  ]);
  await writeFile(path.join(folder, 'package.json'), JSON.stringify({ type: 'module', private: true }));
  // The dependency from this project's own folder, so that no registry is needed.
  const tarballs = [await pack(PACKAGE.pathname), await pack(path.join(ROOT, 'node_modules/zod'))];
  await run('npm', ['install', '--offline', '--no-audit', '--no-fund', ...tarballs], { cwd: folder });
  await writeFile(path.join(folder, 'train.js'), TRAINING);
});

afterAll(async () => {
  await stack.stop();
  await rm(folder, { recursive: true });
});

function expectTrained(result: unknown): void {
  expect(result).toMatchObject({ steps: Array.from({ length: 12 }, (_, step) => step) });
  expect((result as { loss: number }).loss).toBeLessThan(0.1);
}

it('holds the built files, its declarations, licence and README, and no sources', async () => {
  const manifest = JSON.parse(await readFile(new URL('package.json', PACKAGE), 'utf8')) as { dependencies: object };
  expect(Object.keys(manifest.dependencies)).toEqual(['zod']);
  const { stdout } = await run('npm', ['pack', '--dry-run', '--json', '--ignore-scripts'], { cwd: PACKAGE });
  const [{ files }] = JSON.parse(stdout) as [{ files: { path: string }[] }];
  const names = files.map((file) => file.path);
  for (const name of ['LICENSE', 'README.md', 'package.json', ...built.map((file) => `dist/${file.name}`)]) {
    expect(names).toContain(name);
  }
  expect(names.filter((name) => name.endsWith('.ts') && !name.endsWith('.d.ts'))).toEqual([]);
});

it('trains under Node', async () => {
  await writeFile(
    path.join(folder, 'main.js'),
    "import { train } from './train.js';\nconsole.log(JSON.stringify(await train(process.argv[2])));\n",
  );
  const { stdout } = await run(process.execPath, ['main.js', stack.url], { cwd: folder });
  expectTrained(JSON.parse(stdout));
});

describe('brings the command line along', () => {
  const command = (...line: string[]) =>
    run('npx', ['--offline', 'ddpnopt', ...line], { cwd: folder, env: { ...process.env, DDPNOPT_URL: stack.url } });

  it('which trains on the digits that come with it', async () => {
    const { stdout } = await command('train', '--epochs', '2', '--json');
    const { epochs } = JSON.parse(stdout) as { epochs: { testAccuracy: number }[] };
    expect(epochs[1]!.testAccuracy).toBeGreaterThan(0.85);
  });

  it('and on the other sets that do', async () => {
    for (const data of ['wine', 'breast-cancer']) {
      const { stdout } = await command('train', '--data', data, '--epochs', '1', '--json');
      expect((JSON.parse(stdout) as { epochs: object[] }).epochs).toHaveLength(1);
    }
  });

  it('and says where the service itself is', async () => {
    expect((await command('--help')).stdout).toContain('ddpnopt bench');
    await expect(command('serve')).rejects.toMatchObject({
      code: 1,
      stderr: expect.stringContaining('npm start') as string,
    });
  });
});

describe('type-checks in a strict program', () => {
  const PROGRAM = `
import { DdpnoptClient, type StepReply } from 'ddpnopt';

const client = new DdpnoptClient({ url: 'http://127.0.0.1:8787', retry: { attempts: 3 } });
const session = await client.createSession({ layers: [{ kind: 'dense', name: 'a', inputs: 2, outputs: 1 }] });
const reply: StepReply = await session.step({
  losses: new Float32Array(1),
  layers: { a: { input: new Float32Array(2), outputGradient: new Float32Array(1) } },
});
if (reply.kind === 'update') console.log(reply.changes.get('a')?.weight?.length);
// @ts-expect-error a layer has no such kind
await client.createSession({ layers: [{ kind: 'dens', name: 'a', inputs: 2, outputs: 1 }] });
`;
  it.each([
    // The declarations themselves are checked where that takes the least.
    { where: 'browsers', options: { module: 'esnext', moduleResolution: 'bundler', lib: ['es2022', 'dom'], types: [], skipLibCheck: true } }, // prettier-ignore
    { where: 'Node', options: { module: 'nodenext', lib: ['es2022'], types: ['node'], skipLibCheck: false } },
  ])('for $where', async ({ options }) => {
    const compilerOptions = { strict: true, exactOptionalPropertyTypes: true, noEmit: true, target: 'es2022', typeRoots: [path.join(ROOT, 'node_modules/@types')], ...options }; // prettier-ignore
    await writeFile(path.join(folder, 'program.ts'), PROGRAM);
    await writeFile(path.join(folder, 'tsconfig.json'), JSON.stringify({ compilerOptions, files: ['program.ts'] }));
    await run(process.execPath, [TSC, '-p', folder]).catch((error: unknown) => {
      throw new Error((error as { stdout: string }).stdout);
    });
  });
});

describe('needs nothing of Node', () => {
  const bundle = async (conditions: string[], contents: string) => {
    const { outputFiles, metafile } = await build({
      stdin: { contents, resolveDir: folder },
      bundle: true,
      write: false,
      metafile: true,
      format: 'esm',
      platform: 'browser',
      target: 'es2022',
      conditions,
    });
    const imports = Object.values(metafile.inputs).flatMap((input) => input.imports);
    expect(imports.filter(({ external }) => external === true)).toEqual([]);
    return outputFiles[0]!.text;
  };

  it('in a bundle for browsers', async () => {
    const text = await bundle([], "export * from 'ddpnopt';");
    expect(text).not.toMatch(/\b(process|Buffer|require|__dirname)\b[.(]/);
  });

  it('in a Worker: it trains in workerd', async () => {
    const contents = await bundle(
      ['workerd', 'worker'],
      `import { train } from './train.js';
      export default { fetch: async (request) => Response.json(await train(new URL(request.url).searchParams.get('url'))) };`,
    );
    const miniflare = new Miniflare(
      convertV4MiniflareOptions({
        host: '127.0.0.1',
        port: 0,
        log: new Log(LogLevel.ERROR),
        workers: [
          {
            name: 'consumer',
            compatibilityDate: '2026-10-01',
            modules: [{ type: 'ESModule', path: 'index.js', contents }],
          },
        ],
      }),
    );
    try {
      const answer = await fetch(new URL(`?url=${encodeURIComponent(stack.url)}`, await miniflare.ready));
      expectTrained(await answer.json());
    } finally {
      await miniflare.dispose();
    }
  });

  it('as one file, for a page without a bundler', async () => {
    const standalone = path.join(folder, 'node_modules/ddpnopt/dist/standalone.js');
    expect(await readFile(standalone, 'utf8')).not.toMatch(/^import |\bfrom\s*["'](?!\.)/m);
    expect(Object.keys((await import(standalone)) as object)).toContain('DdpnoptClient');
  });
});
