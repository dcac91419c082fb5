/** The command line as a process, against a service with access control. */
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { DdpnoptClient, DdpnoptError } from '../../clients/js/index.ts';
import { COMMANDS } from '../../clients/cli/commands.ts';
import { execute } from '../../clients/cli/program.ts';
import { serveCommand } from '../../clients/cli/serve.ts';
import type { ServiceProcess } from '../../deploy/local/child.ts';
import { startEdge } from '../../deploy/local/edge.ts';
import { startWorker } from '../../deploy/local/worker.ts';
import { apiKeyListSchema, newApiKeySchema, tenantLimitsSchema, usageListSchema } from '../../shared/access.ts';
import { sessionSchema, type SessionDefinitionInput } from '../../shared/session.ts';
import { LAYERS } from './support.ts';

const ADMIN_KEY = 'operator-0123456789abcdef0123456789abcdef';
const MAIN = path.join(import.meta.dirname, '../../clients/cli/main.ts');

interface Outcome {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

let worker: ServiceProcess;
let edge: ServiceProcess;
beforeAll(async () => {
  worker = await startWorker({ port: 0, engine: 'reference' });
  const settings = { DDPNOPT_ADMIN_KEY: ADMIN_KEY };
  edge = await startEdge({ port: 0, workerUrl: worker.ready.url, settings });
});
afterAll(async () => {
  await edge.stop();
  await worker.stop();
});

/** The program in this process, which is one less to start for every line. */
async function run(line: readonly string[], environment: Record<string, string> = {}): Promise<Outcome> {
  const written = { stdout: '', stderr: '' };
  const code = await execute([serveCommand, ...COMMANDS], {
    line,
    environment: { DDPNOPT_URL: edge.ready.url, ...environment },
    stdout: (text) => (written.stdout += text),
    stderr: (text) => (written.stderr += text),
    interruption: () => new AbortController().signal,
  });
  return { code, ...written };
}

/** The program as a process of its own. */
function runProcess(line: readonly string[], environment: Record<string, string> = {}): Promise<Outcome> {
  const env = {
    ...process.env,
    DDPNOPT_API_KEY: undefined,
    DDPNOPT_ADMIN_KEY: undefined,
    DDPNOPT_URL: edge.ready.url,
    ...environment,
  };
  return new Promise((resolve) => {
    const child = execFile(process.execPath, [MAIN, ...line], { env }, (_error, stdout, stderr) => {
      resolve({ code: child.exitCode ?? -1, stdout, stderr });
    });
  });
}

async function succeed(line: readonly string[], key = ADMIN_KEY): Promise<string> {
  const { code, stdout, stderr } = await run(line, { DDPNOPT_API_KEY: key });
  if (line[0] !== 'train') expect(stderr).toBe('');
  expect(code).toBe(0);
  return stdout;
}

const document = async (line: readonly string[], key = ADMIN_KEY): Promise<unknown> =>
  JSON.parse(await succeed([...line, '--json'], key)) as unknown;

it.each([
  { how: 'step by step', options: [] },
  { how: 'an epoch a call', options: ['--hosted'] },
])('trains on digits $how, says how far it is, and leaves no session behind', async ({ options }) => {
  const line = ['train', '--epochs', '2', '--learning-rate', '5', '--json', ...options];
  const { code, stdout, stderr } = await runProcess(line, { DDPNOPT_API_KEY: ADMIN_KEY });
  expect({ code, stderr: stderr.split('\n') }).toEqual({
    code: 0,
    stderr: [
      expect.stringMatching(/^epoch 1 of 2: loss [\d.]+, test accuracy [\d.]+ %$/),
      expect.stringMatching(/^epoch 2 of 2: /),
      '',
    ],
  });
  const { epochs } = JSON.parse(stdout) as { epochs: { trainLoss: number; testAccuracy: number }[] };
  expect(epochs).toHaveLength(2);
  expect(epochs[1]!.testAccuracy).toBeGreaterThan(0.85);
  expect(await document(['sessions', 'list'])).toEqual({ sessions: [] });
});

it.each([
  ['wine', []],
  ['breast-cancer', ['--hosted']],
])('trains on %s, which comes along', async (data, options) => {
  const line = ['train', '--data', data, '--epochs', '8', '--batch', '32', ...options];
  const { epochs } = (await document(line)) as { epochs: { testAccuracy: number }[] };
  expect(epochs.at(-1)!.testAccuracy).toBeGreaterThan(0.9);
});

it('estimates a session that is in a file, and passes on why it would be refused', async () => {
  const folder = await mkdtemp(path.join(tmpdir(), 'ddpnopt-cli-'));
  const file = path.join(folder, 'session.json');
  await writeFile(file, JSON.stringify({ layers: LAYERS }));
  expect(await document(['estimate', file, '--batch', '32'])).toMatchObject({ accepted: true, problems: [] });
  expect(await succeed(['estimate', file])).toMatch(/^request +[\d.]+ KB$/m);
  await writeFile(file, JSON.stringify({ layers: [{ ...LAYERS[0], inputs: -1 }] }));
  const refused = await run(['estimate', file], { DDPNOPT_API_KEY: ADMIN_KEY });
  expect(refused).toMatchObject({ code: 1, stderr: expect.stringContaining('session.layers[0].inputs') as string });
  const missing = await run(['estimate', path.join(folder, 'none.json')]);
  expect(missing).toMatchObject({ code: 2, stderr: expect.stringContaining('none.json') as string });
  await rm(folder, { recursive: true });
});

it.each([
  ['--epochs', '0', 'at least 1'],
  ['--epochs', '1.5', 'whole number'],
  ['--batch', 'many', '"many"'],
])('train refuses %s %s', async (option, value, mention) => {
  const { code, stderr } = await run(['train', option, value]);
  expect({ code, stderr }).toMatchObject({ code: 2, stderr: expect.stringContaining(mention) as string });
});

it('trains on MNIST’s files in a folder, and says which are missing', async () => {
  const folder = await mkdtemp(path.join(tmpdir(), 'ddpnopt-cli-'));
  onTestFinished(() => rm(folder, { recursive: true }));
  const missing = await run(['train', '--data', 'mnist', '--folder', folder]);
  expect(missing).toMatchObject({ code: 1, stderr: expect.stringContaining('train-images-idx3-ubyte') as string });
  const idx = (shape: number[], value: (index: number) => number): Uint8Array => {
    const header = Uint8Array.of(
      0,
      0,
      8,
      shape.length,
      ...shape.flatMap((length) => [0, 0, length >> 8, length & 255]),
    );
    const size = shape.reduce((product, length) => product * length, 1);
    return Uint8Array.of(...header, ...Array.from({ length: size }, (_, index) => value(index)));
  };
  // A class is the row that is white: anything that learns at all learns it.
  const classOf = (sample: number): number => sample % 10;
  for (const [part, count] of [
    ['train', 60],
    ['t10k', 20],
  ] as const) {
    const pixel = (index: number): number =>
      Math.floor((index % 784) / 28) === classOf(Math.floor(index / 784)) ? 255 : 0;
    await writeFile(path.join(folder, `${part}-images-idx3-ubyte`), idx([count, 28, 28], pixel));
    await writeFile(path.join(folder, `${part}-labels-idx1-ubyte`), idx([count], classOf));
  }
  const line = ['train', '--data', 'mnist', '--folder', folder, '--epochs', '3', '--batch', '20', '--json'];
  const { code, stdout } = await run(line, { DDPNOPT_API_KEY: ADMIN_KEY });
  expect(code).toBe(0);
  const { epochs } = JSON.parse(stdout) as { epochs: { testAccuracy: number }[] };
  expect(epochs.map(({ testAccuracy }) => testAccuracy).at(-1)).toBe(1);
});

describe('bench', () => {
  const SMALL = ['--widths', '6,5,3', '--batch', '8', '--steps', '12', '--warm-up', '1'];
  const keyed = { DDPNOPT_API_KEY: ADMIN_KEY };
  interface Bench {
    readonly parameters: number;
    readonly step: {
      readonly milliseconds: Record<'p50' | 'p99' | 'mean' | 'maximum', number>;
      readonly bytesSentPerStep: number;
    };
    readonly gradientStep: object | null;
    readonly ratioOfMedians: number | null;
  }

  it.each(['layers', 'kernel', 'hosted'])('times steps in mode %s, and leaves no session behind', async (mode) => {
    const { code, stdout, stderr } = await run(['bench', '--mode', mode, ...SMALL, '--sessions', '2', '--json'], keyed);
    expect({ code, stderr: stderr.split('\n').map((line) => line.replace(/median .*/, '')) }).toEqual({
      code: 0,
      stderr: ['step 10 of 12: ', 'step 12 of 12: ', ''],
    });
    const result = JSON.parse(stdout) as Bench;
    expect(result).toMatchObject({ mode, engine: 'reference', batch: 8, sessions: 2, steps: 12, warmUp: 1 });
    expect(result.parameters).toBe(7 * 5 + 6 * 3);
    const { p50, p99, mean, maximum } = result.step.milliseconds;
    expect(p50).toBeGreaterThan(0);
    expect(p99).toBeGreaterThanOrEqual(p50);
    expect(maximum).toBeGreaterThanOrEqual(Math.max(p99, mean));
    // Only there the service does what a plain gradient step consists of.
    expect(result.gradientStep === null).toBe(mode !== 'hosted');
    expect(result.ratioOfMedians === null).toBe(mode !== 'hosted');
    expect(await document(['sessions', 'list'])).toEqual({ sessions: [] });
  });

  it('sends what an estimate says, for the session of a file', async () => {
    const folder = await mkdtemp(path.join(tmpdir(), 'ddpnopt-cli-'));
    onTestFinished(() => rm(folder, { recursive: true }));
    const file = path.join(folder, 'session.json');
    const definition = {
      layers: [
        { name: 'words', kind: 'embedding', inputs: 9, outputs: 4 },
        { name: 'mix', kind: 'dense', inputs: 4, outputs: 3, sequence: true },
        { name: 'own', kind: 'generic', parameters: 2 },
      ],
      optimizer: {
        coupling: 'value',
        terminalCurvature: { kind: 'gauss-newton', columns: 2 },
        weightDecay: { kind: 'decoupled', rate: 1e-3 },
      },
    };
    await writeFile(file, JSON.stringify(definition));
    const line = ['bench', '--session', file, '--batch', '4', '--positions', '5', '--steps', '2', '--json'];
    const { code, stdout, stderr } = await run(line, keyed);
    expect({ code, stderr }).toMatchObject({ code: 0 });
    const client = new DdpnoptClient({ url: edge.ready.url, apiKey: ADMIN_KEY });
    const positions = { words: 5, mix: 5 };
    const { request } = await client.estimate(definition as SessionDefinitionInput, 4, { positions });
    const { step } = JSON.parse(stdout) as Bench;
    expect(step.bytesSentPerStep).toBe(request.bytes);
  });

  it('says it in words', async () => {
    const { stdout } = await run(['bench', '--mode', 'hosted', ...SMALL], keyed);
    expect(stdout).toMatch(/^mode hosted, batch 8, 53 parameters, engine reference, 12 steps in one session\n/);
    expect(stdout).toMatch(/^OF A STEP +THIS SESSION +GRADIENT STEP$/m);
    expect(stdout).toMatch(/^p99 +[\d.e+]+ ms +[\d.e+]+ ms$/m);
    expect(stdout).toMatch(/^ratio of the medians: [\d.]+$/m);
  });

  it.each([
    [['--mode', 'hostile'], 'hostile'],
    [['--widths', '3'], '--widths'],
    [['--widths', '3,x'], '"3,x"'],
    [['--session', 'a.json', '--mode', 'layers'], '--session'],
    [['--warm-up', '-1'], '--warm-up'],
  ])('refuses %j', async (line, mention) => {
    const { code, stderr } = await run(['bench', ...line], keyed);
    expect({ code, stderr }).toMatchObject({ code: 2, stderr: expect.stringContaining(mention) as string });
  });

  it.each(['SIGINT', 'SIGTERM'] as const)('%s ends it, and its sessions', async (signal) => {
    const env = { ...process.env, DDPNOPT_API_KEY: ADMIN_KEY, DDPNOPT_URL: edge.ready.url };
    const child = spawn(process.execPath, [MAIN, 'bench', ...SMALL, '--steps', '100000'], { env });
    await once(child.stderr, 'data');
    expect(await document(['sessions', 'list'])).toMatchObject({ sessions: [{ mode: 'layers' }] });
    child.kill(signal);
    expect(await once(child, 'exit')).toEqual([130, null]);
    expect(await document(['sessions', 'list'])).toEqual({ sessions: [] });
  });
});

describe('nobody reads any more', () => {
  /** Runs a program whose standard output, or error, is closed before it writes, as that of `program | true`. */
  async function closed(stream: 'stdout' | 'stderr', line: readonly string[]): Promise<[number | null, string]> {
    const env = { ...process.env, DDPNOPT_API_KEY: ADMIN_KEY, DDPNOPT_URL: edge.ready.url };
    const child = spawn(process.execPath, [...line], { env, stdio: ['ignore', 'pipe', 'pipe'] });
    child[stream].destroy();
    let other = '';
    child[stream === 'stdout' ? 'stderr' : 'stdout'].setEncoding('utf8').on('data', (text: string) => (other += text));
    const [code] = (await once(child, 'close')) as [number | null];
    return [code, other];
  }

  it('ends without a word', async () => {
    expect(await closed('stdout', [MAIN, '--help'])).toEqual([141, '']);
    const results = path.join(import.meta.dirname, '../../bench/results/main.ts');
    expect(await closed('stdout', [results, '--list'])).toEqual([141, '']);
  });

  it('leaves no session behind', async () => {
    expect(await closed('stderr', [MAIN, 'train', '--epochs', '50', '--json'])).toEqual([130, '']);
    expect(await document(['sessions', 'list'])).toEqual({ sessions: [] });
  });
});

it('makes, lists and revokes keys', async () => {
  const order = ['keys', 'create', '--name', 'laptop', '--tenant', 'cli', '--expires-in-days', '2'];
  const made = newApiKeySchema.parse(await document(order));
  expect(made).toMatchObject({ name: 'laptop', tenant: 'cli', revokedAt: null });
  expect(Date.parse(made.expiresAt!) - Date.parse(made.createdAt)).toBeCloseTo(2 * 86_400_000, -5);
  const shown = await succeed(['keys', 'create', '--name', 'reader', '--tenant', 'cli', '--scopes', 'sessions:read']);
  expect(shown).toMatch(/^ddpnopt_[0-9a-f]{16}_[0-9a-f]{64}\n\nKey [0-9a-f]{16} of tenant cli: sessions:read\./);

  const table = await succeed(['keys', 'list', '--tenant', 'cli']);
  expect(table).toMatch(/^ID +TENANT +NAME +STATE +LAST USED +SCOPES\n/);
  expect(table).toMatch(new RegExp(`^${made.id} +cli +laptop +active +never +sessions:read,`, 'm'));
  expect(table).not.toContain(made.key.slice(-64));

  expect(await succeed(['workers', 'list'])).toMatch(/^ID +STATE +ENGINE /);
  await succeed(['keys', 'revoke', made.id]);
  const { keys } = apiKeyListSchema.parse(await document(['keys', 'list', '--tenant', 'cli']));
  expect(keys.find(({ id }) => id === made.id)!.revokedAt).not.toBeNull();
});

it('lists, shows and deletes sessions, and shows usage and limits', async () => {
  const { key } = newApiKeySchema.parse(await document(['keys', 'create', '--name', 'x', '--tenant', 'cli-sessions']));
  const client = new DdpnoptClient({ url: edge.ready.url, apiKey: key });
  const { session } = await client.createSession({ layers: LAYERS });
  const table = await succeed(['sessions', 'list'], key);
  expect(table).toMatch(new RegExp(`^ID +MODE +NEXT STEP +CREATED +EXPIRES\n${session.id} +layers +0 `));
  expect(sessionSchema.parse(await document(['sessions', 'show', session.id], key))).toMatchObject({ layers: LAYERS });
  expect(await succeed(['sessions', 'delete', session.id], key)).toContain(session.id);
  expect(await document(['sessions', 'list'], key)).toEqual({ sessions: [] });

  const { days } = usageListSchema.parse(await document(['usage', '--tenant', 'cli-sessions']));
  expect(days).toMatchObject([{ tenant: 'cli-sessions', steps: 0 }]);
  expect(await succeed(['usage'], key)).toMatch(/^DAY +TENANT .*\n\d{4}-\d\d-\d\d +cli-sessions +\d+ +0 /);

  await succeed(['limits', 'set', 'cli-sessions', '--sessions', '3', '--steps-per-day', '100']);
  const limits = await document(['limits', 'set', 'cli-sessions', '--steps-per-day', 'none', '--burst', '7']);
  expect(tenantLimitsSchema.parse(limits)).toMatchObject({ sessions: 3, stepsPerDay: null, burst: 7 });
  expect(await succeed(['limits', 'show', 'cli-sessions'])).toMatch(/^sessions +3$/m);
});

describe('says what went wrong, and what to do', () => {
  it('the service refuses: 1', async () => {
    const { code, stdout, stderr } = await runProcess(['keys', 'list']);
    expect([code, stdout]).toEqual([1, '']);
    expect(stderr).toMatch(/no API key.*DDPNOPT_API_KEY.*\(unauthenticated, request \S+\)/s);
    const refused = await run(['keys', 'create', '--name', 'x', '--tenant', 'No'], { DDPNOPT_ADMIN_KEY: ADMIN_KEY });
    expect(refused.code).toBe(1);
    expect(refused.stderr).toContain('tenant is "No"');
    expect(refused.stderr).not.toContain(ADMIN_KEY);
  });

  it.each([
    [['key', 'list'], 'key list'],
    [['keys', 'create', '--name', 'x'], '--tenant'],
    [['keys', 'revoke'], 'keys revoke ID'],
    [['keys', 'list', '--nothing'], '--nothing'],
    [['limits', 'set', 'x', '--burst', 'many'], '"many"'],
    [['usage', '--url', 'nowhere'], '"nowhere"'],
  ])('%j means nothing: 2', async (line, mentions) => {
    const { code, stderr } = await run(line, { DDPNOPT_ADMIN_KEY: ADMIN_KEY });
    expect(code).toBe(2);
    expect(stderr).toContain(mentions);
    expect(stderr).toContain('--help');
  });

  it('nobody answers: 3', async () => {
    const { code, stderr } = await runProcess(['sessions', 'list', '--url', 'http://127.0.0.1:9']);
    expect(code).toBe(3);
    expect(stderr).toContain('--url');
  });
});

it('has help for everything, with examples that are commands', async () => {
  const all = await succeed([]);
  const rows = /^COMMAND .*\n((?:.+\n)*)/m.exec(all)![1]!.trimEnd().split('\n');
  const names = rows.map((row) => row.split('  ')[0]!.replaceAll(/ [A-Z]+/g, ''));
  expect(names).toEqual(
    ['serve', 'train', 'estimate', 'bench', 'sessions list', 'sessions show', 'sessions delete', 'usage', 'keys create',
      'keys list', 'keys revoke', 'limits show', 'limits set', 'workers list'].map((name) => expect.stringContaining(name) as string), // prettier-ignore
  );
  expect(all).toContain('DDPNOPT_API_KEY');
  const helps = await Promise.all(names.map((name) => succeed([...name.split(' '), '--help'])));
  for (const [index, help] of helps.entries()) {
    const name = names[index]!;
    const examples = /^examples:\n((?: {2}.+\n)+)/m.exec(help)![1]!.trimEnd().split('\n');
    for (const example of examples)
      expect(example).toMatch(new RegExp(`^ {2}(DDPNOPT_\\w+=\\S+ )?ddpnopt ${name}( |$)`));
    const offered = [...help.matchAll(/^--([a-z-]+)/gm)].map(([, option]) => option!);
    for (const [, option] of examples.join(' ').matchAll(/ --([a-z-]+)/g)) expect(offered).toContain(option);
  }
  expect(await succeed(['keys', 'create', '--help'])).toMatch(/--tenant TENANT +.*\(required\)/);
});

describe('serve', () => {
  /** A worker that leaves nothing behind. */
  const THROWAWAY = ['--worker-port', '0', '--engine', 'reference', '--storage', 'memory'];

  interface Serving {
    readonly exit: Promise<unknown>;
    readonly kill: (signal: NodeJS.Signals) => void;
    /** Resolves when the text has been written. */
    readonly stdout: (until: RegExp) => Promise<string>;
    readonly stderr: (until: RegExp) => Promise<string>;
  }

  function start(line: readonly string[], environment: Record<string, string> = {}): Serving {
    return startProgram(process.execPath, [MAIN, 'serve', ...line], environment);
  }

  /** In a process group of its own, which ends with the test whatever has become of it. */
  function startProgram(program: string, line: readonly string[], environment: Record<string, string> = {}): Serving {
    const child = spawn(program, line, { env: { ...process.env, ...environment }, detached: true });
    onTestFinished(() => {
      try {
        process.kill(-child.pid!, 'SIGKILL');
      } catch (error) {
        // Nobody is left of it, as it should be.
        if (!(error instanceof Error && 'code' in error && error.code === 'ESRCH')) throw error;
      }
    });
    const read = (stream: NodeJS.ReadableStream) => {
      let text = '';
      stream.setEncoding('utf8').on('data', (chunk: string) => (text += chunk));
      return async (until: RegExp): Promise<string> => {
        while (!until.test(text)) await once(stream, 'data');
        return text;
      };
    };
    return {
      exit: once(child, 'exit'),
      kill: (signal) => void child.kill(signal),
      stdout: read(child.stdout),
      stderr: read(child.stderr),
    };
  }

  it('says how far it is, serves, keeps what it is told to keep, and ends when it is told to', async () => {
    const folder = await mkdtemp(path.join(tmpdir(), 'ddpnopt-serve-'));
    onTestFinished(() => rm(folder, { recursive: true }));
    const free = ['--port', '0', '--worker-port', '0', '--engine', 'reference', '--storage', folder, '--edge', 'node'];
    const first = start([...free, '--json']);
    const { url, engine, storage } = JSON.parse(await first.stdout(/\n/)) as Record<string, string>;
    expect({ engine, storage }).toEqual({ engine: 'reference', storage: folder });
    const progress = await first.stderr(/edge/);
    expect(progress).toMatch(
      /^starting the worker …\nthe worker serves at \S+, engine reference\nstarting the edge \(node\) …\n/,
    );
    const { session } = await new DdpnoptClient({ url: url! }).createSession({ layers: LAYERS });
    first.kill('SIGTERM');
    expect(await first.exit).toEqual([0, null]);
    await expect(fetch(url!)).rejects.toThrow();

    // In words, and with a variable in an option's place.
    const second = start(free.slice(2), { DDPNOPT_PORT: '0' });
    const text = await second.stdout(/Ctrl-C stops it/);
    const [, again] = /^DDPNOpt serves at (\S+), engine: reference\n/.exec(text)!;
    expect((await new DdpnoptClient({ url: again! }).openSession(session.id)).nextStep).toBe(0);
    second.kill('SIGINT');
    expect(await second.exit).toEqual([0, null]);
    expect(await second.stderr(/stopping/)).toMatch(/stopping …\n$/);
  });

  it('ends with npm, which started it', async () => {
    const serving = startProgram('npm', [
      'start',
      '--silent',
      '--',
      '--port',
      '0',
      ...THROWAWAY,
      '--edge',
      'node',
      '--json',
    ]);
    const { url } = JSON.parse(await serving.stdout(/\n/)) as { url: string };
    serving.kill('SIGTERM');
    await serving.exit;
    await expect(fetch(url)).rejects.toThrow();
  });

  it('stops what it has started when it is interrupted before it serves', async () => {
    const serving = start(['--port', '0', ...THROWAWAY]);
    const [, worker] = /the worker serves at (\S+),/.exec(await serving.stderr(/starting the edge/))!;
    serving.kill('SIGINT');
    expect(await serving.exit).toEqual([0, null]);
    expect(await serving.stdout(/\n/)).toBe('It was stopped before it served.\n');
    await expect(fetch(worker!)).rejects.toThrow();
  });

  it('says what keeps it from serving: 1, or 2 where the command line does', async () => {
    const taken = new URL(edge.ready.url).port;
    const busy = await runProcess(['serve', '--port', taken, ...THROWAWAY]);
    expect(busy).toMatchObject({
      code: 1,
      stdout: '',
      stderr: expect.stringContaining(`127.0.0.1:${taken}`) as string,
    });
    const option = await runProcess(['serve', '--port', 'x', '--edge', 'cloud']);
    expect(option).toMatchObject({
      code: 2,
      stderr: expect.stringMatching(/^--port is "x": .*\n--edge is "cloud": /) as string,
    });
    const variable = await runProcess(['serve'], { DDPNOPT_LOG_LEVEL: 'loud' });
    expect(variable).toMatchObject({
      code: 2,
      stderr: expect.stringContaining('DDPNOPT_LOG_LEVEL is "loud"') as string,
    });
  });
});

describe('the JavaScript client', () => {
  it('sends its key', async () => {
    const refused = new DdpnoptClient({ url: edge.ready.url }).createSession({ layers: LAYERS });
    await expect(refused).rejects.toMatchObject({ problem: { code: 'unauthenticated' } });
    await expect(refused).rejects.toBeInstanceOf(DdpnoptError);
    const client = new DdpnoptClient({ url: edge.ready.url, apiKey: ADMIN_KEY });
    const session = await client.createSession({ layers: LAYERS });
    await session.delete();
  });

  it('refuses a key that cannot be one without repeating it', () => {
    const make = (): DdpnoptClient => new DdpnoptClient({ url: edge.ready.url, apiKey: 'secret\n' });
    expect(make).toThrow(TypeError);
    expect(make).not.toThrow(/secret/);
  });
});
