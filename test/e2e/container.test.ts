/**
 * The container without a container engine: the Dockerfile copies what is there and what suffices, its base is pinned, and from the
 * files of the worker alone a worker starts in an empty folder, as another user, and takes a step.
 */
import { spawn, spawnSync, type ChildProcess, type SpawnOptions } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { chmod, copyFile, cp, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { RECIPES } from '../../deploy/native/packages.ts';
import { NATIVE_ENGINE_FOLDER } from '../../shared/native-engine.ts';
import { processReadySchema } from '../../shared/service-process.ts';
import { newSessionId } from '../../shared/session.ts';
import { BATCH, LAYERS, stepBody } from './support.ts';

const ROOT = path.join(import.meta.dirname, '../..');
const FOLDER = 'deploy/container';
/** Nobody's, on the machine that runs this; a user that is not root runs it as itself. */
const USER = process.getuid?.() === 0 ? { uid: 65_534, gid: 65_534 } : {};

interface Instruction {
  readonly name: string;
  readonly text: string;
}
interface Stage {
  readonly base: string;
  readonly name: string;
  readonly instructions: readonly Instruction[];
}

function parseDockerfile(text: string): { defaults: Map<string, string>; stages: Stage[] } {
  const lines = text.replaceAll(/^#.*\n/gm, '').replaceAll(/\\\n/g, ' ').split('\n').filter((line) => line.trim() !== ''); // prettier-ignore
  const defaults = new Map<string, string>();
  const stages: (Stage & { instructions: Instruction[] })[] = [];
  for (const line of lines) {
    const [, name, rest] = /^(\w+)\s+(.*)$/.exec(line)!;
    const stage = /^(\S+) AS (\w[\w-]*)$/.exec(rest!);
    if (name === 'ARG') defaults.set(rest!.split('=')[0]!, rest!.slice(rest!.indexOf('=') + 1));
    else if (name === 'FROM') stages.push({ base: stage![1]!, name: stage![2]!, instructions: [] });
    else stages.at(-1)!.instructions.push({ name: name!, text: rest!.trim() });
  }
  return { defaults, stages };
}

const { defaults, stages } = parseDockerfile(await readFile(path.join(ROOT, FOLDER, 'Dockerfile'), 'utf8'));
const names = stages.map(({ name }) => name);

/** What a stage copies from the project, and where to. */
function copies(stage: string): { sources: string[]; target: string }[] {
  const { instructions } = stages.find(({ name }) => name === stage)!;
  return instructions
    .filter(({ name, text }) => name === 'COPY' && !text.startsWith('--from='))
    .map(({ text }) => ({ sources: text.split(/\s+/).slice(0, -1), target: text.split(/\s+/).at(-1)! }));
}

let temporary: string;
let worker: string;
/** Node where any user can run it: the project's own may lie in somebody's home. */
let node: string;

beforeAll(async () => {
  temporary = await mkdtemp(path.join(tmpdir(), 'ddpnopt-container-'));
  await chmod(temporary, 0o755);
  worker = path.join(temporary, 'worker');
  node = path.join(temporary, 'node');
  await copyFile(process.execPath, node);
  const { status, stderr } = spawnSync(process.execPath, [path.join(ROOT, FOLDER, 'worker-files.ts'), worker], {
    encoding: 'utf8',
  });
  expect([status, stderr]).toEqual([0, '']);
});

afterAll(async () => {
  await rm(temporary, { recursive: true });
});

describe('the Dockerfile', () => {
  it('has a stage for each target of the compose file', async () => {
    const compose = await readFile(path.join(ROOT, FOLDER, 'compose.yaml'), 'utf8');
    const targets = [...compose.matchAll(/dockerfile: (\S+), target: (\w+)/g)].map(([, file, target]) => [
      file,
      target,
    ]);
    expect(targets).toEqual([[`${FOLDER}/Dockerfile`, 'cpu'], [`${FOLDER}/Dockerfile`, 'nvidia']]); // prettier-ignore
    expect(names).toEqual(expect.arrayContaining(['cpu', 'nvidia']));
  });

  it('pins every image that is not a stage of its own by its digest', () => {
    for (const { base } of stages) {
      const argument = /^\$\{(\w+)\}$/.exec(base)?.[1];
      if (argument === undefined) expect(names).toContain(base);
      else expect(defaults.get(argument)).toMatch(/^[\w./-]+:[\w.-]+@sha256:[0-9a-f]{64}$/);
    }
  });

  it('copies what is there, and what its ignore file lets through', async () => {
    const ignore = await readFile(path.join(ROOT, FOLDER, 'Dockerfile.dockerignore'), 'utf8');
    const [first, ...allowed] = ignore.trim().split('\n');
    expect(first).toBe('*');
    const sources = names.flatMap((name) => copies(name).flatMap((copy) => copy.sources));
    expect(sources.length).toBeGreaterThan(5);
    for (const source of sources) {
      expect(existsSync(path.join(ROOT, source)), source).toBe(true);
      expect(allowed.some((rule) => source === rule.slice(1) || source.startsWith(`${rule.slice(1)}/`)), source).toBe(true); // prettier-ignore
    }
  });

  it('runs as a user that is not root, with a health check, on files of the worker', async () => {
    const { instructions } = stages.find(({ name }) => name === 'worker')!;
    const text = (name: string): string => instructions.find((each) => each.name === name)!.text;
    expect(text('USER')).toMatch(/^[1-9]\d*:[1-9]\d*$/);
    expect(text('HEALTHCHECK')).toContain('CMD ["node"');
    for (const name of ['HEALTHCHECK', 'CMD']) {
      const [, file] = /"node", "([^"]+)"/.exec(text(name))!;
      expect(existsSync(path.join(worker, file!)), file).toBe(true);
    }
    // And nothing else of the project: no tests, no clients, nothing that only a build needs.
    expect((await readdir(worker)).sort()).toEqual(['LICENSE', 'deploy', 'gpu-worker', 'node_modules', 'package.json', 'shared']); // prettier-ignore
    expect(await readdir(path.join(worker, 'deploy'))).toEqual(['container']);
  });

  it('copies what suffices to assemble the engine, which leaves another one in its place if it fails', async () => {
    const build = path.join(temporary, 'build');
    for (const { sources, target } of copies('engine')) {
      for (const source of sources) {
        const isFolder = target.endsWith('/');
        await cp(path.join(ROOT, source), path.join(build, target, isFolder ? path.basename(source) : ''), { recursive: true }); // prettier-ignore
      }
    }
    for (const source of Object.values(RECIPES).flatMap((recipe) => recipe.sources)) {
      expect(existsSync(path.join(build, source)), source).toBe(true);
    }
    await writeFile(path.join(build, 'package.json'), '{ "type": "module" }');
    const present = path.join(build, NATIVE_ENGINE_FOLDER, 'engine.json');
    await mkdir(path.dirname(present), { recursive: true });
    await writeFile(present, '{}');
    const run = (...parameters: string[]) =>
      spawnSync(node, parameters, { cwd: build, encoding: 'utf8', env: { ...process.env, PYTHON: 'no-such-python' } });

    const assembly = run('deploy/native/main.ts', '--gpu');
    expect(assembly.stdout).toMatch(/^Assembling the native engine, TensorFlow [\d.]+ with CUDA/);
    expect(assembly.stderr).toMatch(/not assembled: no-such-python cannot be run.*\nPython 3 with pip is needed/);
    expect(assembly.status).toBe(1);
    expect(await readFile(present, 'utf8')).toBe('{}');
    expect(run('gpu-worker/tensor/tensorflow/check.ts').stderr).toMatch(/usage: node check\.ts/);
    expect(run('deploy/native/main.ts', '--gpu', '--cpu').stderr).toMatch(/exclude each other/);
    expect(run('deploy/native/main.ts', '--tpu').stderr).toMatch(/Give --cpu, --gpu or nothing/);
  });
});

describe('the files of the worker, in an empty folder, as another user', () => {
  let child: ChildProcess | null = null;

  afterEach(() => {
    child?.kill('SIGKILL');
  });

  const options = (environment: Readonly<Record<string, string>>): SpawnOptions => ({
    cwd: worker,
    env: environment,
    stdio: ['ignore', 'pipe', 'inherit'],
    ...USER,
  });

  it('serve: a session, a step, a health check; and end when they are told to', async () => {
    child = spawn(node, ['gpu-worker/index.ts'], options({ DDPNOPT_WORKER_PORT: '0', NODE_ENV: 'production' }));
    const exit = once(child, 'exit').then(([code]) => Promise.reject(new Error(`it ended with ${String(code)}`)));
    const [line] = await Promise.race([once(child.stdout!, 'data') as Promise<[Buffer]>, exit]);
    const { url } = processReadySchema.parse(JSON.parse(line.toString()));
    const health = spawn(
      node,
      ['deploy/container/healthcheck.ts'],
      options({ DDPNOPT_WORKER_PORT: new URL(url).port }),
    );
    expect(await once(health, 'exit')).toEqual([0, null]);

    const session = `${url}/sessions/${newSessionId()}`;
    const definition = { mode: 'layers', reply: 'auto', layers: LAYERS, optimizer: {}, ttlSeconds: 60 };
    const created = await fetch(session, { method: 'PUT', body: JSON.stringify(definition) });
    expect([created.status, await created.text()]).toEqual([201, expect.any(String)]);
    const stepped = await fetch(`${session}/steps/0`, { method: 'PUT', body: new Uint8Array(stepBody(0)) });
    expect([stepped.status, (await stepped.arrayBuffer()).byteLength > BATCH]).toEqual([200, true]);

    child.kill('SIGTERM');
    await expect(exit).rejects.toThrow('it ended with 0');
    const unwell = spawn(node, ['deploy/container/healthcheck.ts'], {
      ...options({ DDPNOPT_WORKER_PORT: new URL(url).port }),
      stdio: 'ignore',
    });
    expect(await once(unwell, 'exit')).toEqual([1, null]);
  });

  it('say that there is no native engine where none was put', async () => {
    const check = spawn(node, ['gpu-worker/check/main.ts'], { ...options({}), stdio: 'ignore' });
    expect(await once(check, 'exit')).toEqual([2, null]);
  });
});
