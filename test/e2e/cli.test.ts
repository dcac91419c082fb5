/** The command line as a process, against a service with access control. */
import { execFile } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { DdpnoptClient, DdpnoptError } from '../../clients/js/index.ts';
import type { ServiceProcess } from '../../deploy/local/child.ts';
import { startEdge } from '../../deploy/local/edge.ts';
import { startWorker } from '../../deploy/local/worker.ts';
import { apiKeyListSchema, newApiKeySchema, tenantLimitsSchema, usageListSchema } from '../../shared/access.ts';
import { sessionSchema } from '../../shared/session.ts';
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

function run(line: readonly string[], environment: Record<string, string> = {}): Promise<Outcome> {
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
  expect(stderr).toBe('');
  expect(code).toBe(0);
  return stdout;
}

const document = async (line: readonly string[], key = ADMIN_KEY): Promise<unknown> =>
  JSON.parse(await succeed([...line, '--json'], key)) as unknown;

it('trains on digits, says how far it is, and leaves no session behind', async () => {
  const { code, stdout, stderr } = await run(['train', '--epochs', '2', '--learning-rate', '5', '--json'], {
    DDPNOPT_API_KEY: ADMIN_KEY,
  });
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
    const { code, stdout, stderr } = await run(['keys', 'list']);
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
    const { code, stderr } = await run(['sessions', 'list', '--url', 'http://127.0.0.1:9']);
    expect(code).toBe(3);
    expect(stderr).toContain('--url');
  });
});

it('has help for everything, with examples that are commands', async () => {
  const all = await succeed([]);
  const names = [...all.matchAll(/^((?:keys|limits|sessions) \w+|usage)\b(?= )/gm)].map(([, name]) => name!);
  expect(names).toEqual(expect.arrayContaining(['keys create', 'keys list', 'keys revoke', 'sessions list', 'usage']));
  expect(all).toContain('DDPNOPT_API_KEY');
  const help = await succeed(['keys', 'create', '--help']);
  expect(help).toMatch(/--tenant TENANT +.*\(required\)/);
  expect(help).toMatch(/examples:\n {2}ddpnopt keys create /);
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
