/** The examples of README and guide run as they stand. */
import { execFile } from 'node:child_process';
import { readFile, rm, writeFile } from 'node:fs/promises';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { startStack, type LocalStack } from '../../deploy/local/stack.ts';

const ROOT = new URL('../../', import.meta.url);
// Beside the README, where they tell the reader to put them.
const EXAMPLE = new URL(`example-${String(process.pid)}.mjs`, ROOT);

let stack: LocalStack;

beforeAll(async () => {
  stack = await startStack();
});

afterAll(async () => {
  await stack.stop();
  await rm(EXAMPLE, { force: true });
});

/** What a JavaScript example of a document prints, the first one unless said otherwise. */
async function run(document: string, index = 0): Promise<string> {
  const text = await readFile(new URL(document, ROOT), 'utf8');
  const code = [...text.matchAll(/```js\n(.*?)```/gs)][index]![1]!;
  expect(code).toContain('http://127.0.0.1:8787');
  await writeFile(EXAMPLE, code.replace('http://127.0.0.1:8787', stack.url));
  const { stdout } = await promisify(execFile)(process.execPath, [EXAMPLE.pathname]);
  return stdout;
}

it('README: fits the line', async () => {
  const stdout = await run('README.md');
  const losses = [...stdout.matchAll(/loss ([0-9.e+-]+)/g)].map((match) => Number(match[1]));
  expect(losses).toHaveLength(8);
  expect(losses.at(-1)).toBeLessThan(1e-3 * losses[0]!);
});

it('the guide’s hosted mode: learns the circle', async () => {
  const stdout = await run('docs/guide.md');
  const losses = [...stdout.matchAll(/loss ([0-9.]+), after the step ([0-9.]+)/g)];
  expect(losses).toHaveLength(20);
  expect(Number(losses.at(-1)![2])).toBeLessThan(0.2 * Number(losses[0]![1]));
  expect(stdout).toMatch(/^inside\noutside$/m);
  for (const line of ['hidden.weight [ 2, 16 ]', 'hidden.bias [ 16 ]', 'out.weight [ 16, 2 ]', 'out.bias [ 2 ]']) {
    expect(stdout).toContain(`layers.${line}\n`);
  }
});

it('the guide’s data set: many steps in one call', async () => {
  const stdout = await run('docs/guide.md', 1);
  const losses = [...stdout.matchAll(/^(\d+)\/50: loss ([0-9.]+)$/gm)];
  expect(losses.map(([, step]) => Number(step))).toEqual(Array.from({ length: 50 }, (_, step) => step + 1));
  expect(Number(losses.at(-1)![2])).toBeLessThan(0.3 * Number(losses[0]![2]));
  expect(stdout).toMatch(/^finished after 50 steps on 200 samples$/m);
});

/** What the examples in shell of a document print, one after the other. */
async function runShell(document: string): Promise<string[]> {
  const text = await readFile(new URL(document, ROOT), 'utf8');
  const examples = [...text.matchAll(/```sh\n(curl.*?|session=.*?)```/gs)].map((match) => match[1]!);
  return Promise.all(
    examples.map(async (code) => {
      const { stdout } = await promisify(execFile)('sh', ['-c', code.replaceAll('http://127.0.0.1:8787', stack.url)]);
      return stdout;
    }),
  );
}

it('the guide’s curl: solves a kernel, runs on a data set, takes a step, changes options, and estimates', async () => {
  const [solved, trained, stepped, changed, estimated] = await runShell('docs/guide.md');
  const { coefficients } = JSON.parse(solved!) as { coefficients: number[][] };
  expect(coefficients.map((row) => row.length)).toEqual([2]);
  expect(trained!.match(/^event: step$/gm)).toHaveLength(10);
  expect(trained).toMatch(/event: run\ndata: \{[^\n]*"state":"finished"[^\n]*\}\n\n$/);
  expect(JSON.parse(stepped!)).toMatchObject({
    'layers.fc.update.weight': [[expect.any(Number)], [expect.any(Number)]],
    'layers.fc.update.bias': [expect.any(Number)],
    __metadata__: { metrics: { step: 0, batch: 2, loss: 1.25 } },
  });
  expect(JSON.parse(changed!)).toMatchObject({
    optimizer: { learningRate: { kind: 'leverage', value: 1 }, metric: { kind: 'kronecker', damping: 0.1 } },
    optimizerFromStep: 0,
    ttlSeconds: 7200,
  });
  expect(JSON.parse(estimated!)).toMatchObject({ accepted: true, request: { bytes: expect.any(Number) as number } });
});
