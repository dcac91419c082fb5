/** The import rules fire: a deliberate violation of each kind is found. */
import { execFile } from 'node:child_process';
import { mkdtemp, mkdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, it } from 'vitest';

const run = promisify(execFile);
const ROOT = path.join(import.meta.dirname, '..');

const VIOLATIONS = [
  { rule: 'edge', file: 'edge/a.ts', imports: '../gpu-worker/a.ts', target: 'gpu-worker/a.ts' },
  { rule: 'edge', file: 'edge/b.ts', imports: 'node:fs', target: null },
  { rule: 'shared', file: 'shared/a.ts', imports: '../edge/c.ts', target: 'edge/c.ts' },
  { rule: 'server', file: 'gpu-worker/server/a.ts', imports: '../tensor/a.ts', target: 'gpu-worker/tensor/a.ts' },
  {
    rule: 'optimizer',
    file: 'gpu-worker/optimizer/a.ts',
    imports: '../session/a.ts',
    target: 'gpu-worker/session/a.ts',
  },
  {
    rule: 'optimizer-downwards',
    file: 'gpu-worker/optimizer/ddp/a.ts',
    imports: '../step.ts',
    target: 'gpu-worker/optimizer/step.ts',
  },
  {
    rule: 'layers-and-losses-at-the-bottom',
    file: 'gpu-worker/optimizer/layers/a.ts',
    imports: '../curvature/a.ts',
    target: 'gpu-worker/optimizer/curvature/a.ts',
  },
  { rule: 'oracle-is-independent', file: 'test/oracle/a.ts', imports: '../../shared/b.ts', target: 'shared/b.ts' },
  { rule: 'nothing-imports-test', file: 'clients/js/a.ts', imports: '../../test/b.ts', target: 'test/b.ts' },
] as const;

let folder: string;

beforeAll(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'boundaries-'));
  const write = async (file: string, text: string): Promise<void> => {
    const full = path.join(folder, file);
    await mkdir(path.dirname(full), { recursive: true });
    await writeFile(full, text);
  };
  await write('tsconfig.json', '{"compilerOptions": {"module": "nodenext", "allowImportingTsExtensions": true}}');
  await write('package.json', '{"type": "module"}');
  for (const { file, imports, target } of VIOLATIONS) {
    await write(file, `import '${imports}';\n`);
    if (target !== null) await write(target, 'export {};\n');
  }
});

afterAll(async () => {
  await rm(folder, { recursive: true });
});

it('names every violated rule with the importing file', async () => {
  const config = path.join(ROOT, '.dependency-cruiser.cjs');
  const depcruise = path.join(ROOT, 'node_modules/.bin/depcruise');
  const failure = await run(process.execPath, [depcruise, '--config', config, '--output-type', 'json', '.'], {
    cwd: folder,
  }).then(
    ({ stdout }) => stdout,
    (error: unknown) => (error as { stdout: string }).stdout,
  );
  const { summary } = JSON.parse(failure) as { summary: { violations: { from: string; rule: { name: string } }[] } };
  const found = summary.violations.map(({ from, rule }) => `${rule.name}: ${from}`);
  for (const { rule, file } of VIOLATIONS) expect(found).toContain(`${rule}: ${file}`);
});
