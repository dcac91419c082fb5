/** The README's example runs as it stands. */
import { execFile } from 'node:child_process';
import { readFile, rm, writeFile } from 'node:fs/promises';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { startStack, type LocalStack } from '../../deploy/local/stack.ts';

const ROOT = new URL('../../', import.meta.url);
// Beside the README, where it tells the reader to put it.
const EXAMPLE = new URL(`example-${String(process.pid)}.mjs`, ROOT);

let stack: LocalStack;

beforeAll(async () => {
  stack = await startStack();
});

afterAll(async () => {
  await stack.stop();
  await rm(EXAMPLE, { force: true });
});

it('fits the line', async () => {
  const readme = await readFile(new URL('README.md', ROOT), 'utf8');
  const code = /```js\n(.*?)```/s.exec(readme)![1]!;
  expect(code).toContain('http://127.0.0.1:8787');
  await writeFile(EXAMPLE, code.replace('http://127.0.0.1:8787', stack.url));
  const { stdout } = await promisify(execFile)(process.execPath, [EXAMPLE.pathname]);
  const losses = [...stdout.matchAll(/loss ([0-9.e+-]+)/g)].map((match) => Number(match[1]));
  expect(losses).toHaveLength(8);
  expect(losses.at(-1)).toBeLessThan(1e-3 * losses[0]!);
});
