/** npm run quickstart, as a person runs it: to the end, and interrupted at any moment. */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { describe, expect, it } from 'vitest';

const ROOT = path.join(import.meta.dirname, '../..');
const MARK = 'DDPNOPT_TEST_MARK';
const PATIENCE_MILLISECONDS = 60_000;

let marks = 0;

interface Quickstart {
  readonly process: ChildProcess;
  /** A variable of the environment that every process it starts inherits. */
  readonly mark: string;
  readonly lines: AsyncIterable<string>;
  readonly ended: Promise<{ code: number | null; signal: string | null; stderr: string }>;
}

/** Starts a command in a process group of its own, as a shell does. */
function start(command: string, args: string[]): Quickstart {
  const mark = `${MARK}=${String(process.pid)}-${String(marks++)}`;
  const child = spawn(command, args, {
    cwd: ROOT,
    detached: true,
    env: { ...process.env, [MARK]: mark.slice(MARK.length + 1) },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let stderr = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text));
  const ended = once(child, 'close').then(([code, signal]) => ({
    code: code as number | null,
    signal: signal as string | null,
    stderr,
  }));
  return { process: child, mark, lines: createInterface(child.stdout), ended };
}

const quickstart = (): Quickstart =>
  start(process.execPath, ['--import', './deploy/local/require-node.js', 'demo/quickstart/main.ts']);

/** Reads until a line matches. */
async function untilLine({ lines }: Quickstart, pattern: RegExp): Promise<void> {
  for await (const line of lines) if (pattern.test(line)) return;
  throw new Error(`the output ended without ${String(pattern)}`);
}

/** Processes that carry the mark in their environment; zombies have none. */
function marked(mark: string): string[] {
  return readdirSync('/proc')
    .filter((entry) => /^[0-9]+$/.test(entry))
    .filter((pid) => {
      try {
        return readFileSync(`/proc/${pid}/environ`, 'utf8').split('\0').includes(mark);
      } catch {
        return false; // It ended while we looked, or is not ours to read.
      }
    })
    .map((pid) => `${pid} ${readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ')}`);
}

async function untilGone(mark: string): Promise<void> {
  const deadline = Date.now() + PATIENCE_MILLISECONDS;
  while (marked(mark).length > 0) {
    if (Date.now() > deadline) throw new Error(`still running: ${marked(mark).join('; ')}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

describe('npm run quickstart', { timeout: PATIENCE_MILLISECONDS }, () => {
  it('reaches 96 % in ten epochs, and after five a smaller loss than either baseline at its best', async () => {
    const run = start('npm', ['run', 'quickstart']);
    const output: string[] = [];
    for await (const line of run.lines) output.push(line);
    expect(await run.ended).toMatchObject({ code: 0, signal: null });

    const epochs = output
      .map((line) => /^ +([0-9]+) +([0-9.]+) +([0-9.]+) %/.exec(line))
      .filter((match) => match !== null);
    expect(epochs).toHaveLength(10);
    expect(Math.max(...epochs.map((match) => Number(match[3])))).toBeGreaterThanOrEqual(96);

    const row = (name: string): number[] => {
      const line = output.find((text) => text.startsWith(name))!;
      return line.replace(name, '').trim().split(/ {2,}/).map(Number.parseFloat);
    };
    const [, service] = row('DDPNOpt through the service');
    for (const baseline of ['SGD with momentum, here', 'Adam, here']) expect(service).toBeLessThan(row(baseline)[1]!);
    await untilGone(run.mark);
  });

  // What is left running is read from /proc.
  if (process.platform === 'linux')
    describe('leaves no process behind', () => {
      it.each([
        ['while it starts', /^Network/],
        ['when the service is ready', /are ready/],
        ['while it trains', /^ +2 /],
        ['while the baselines run', /^ +10 /],
      ])('on Ctrl-C %s', async (_, moment) => {
        const run = quickstart();
        await untilLine(run, moment);
        // The terminal sends the signal to every process of the group.
        process.kill(-run.process.pid!, 'SIGINT');
        const { code, stderr } = await run.ended;
        expect(stderr).toContain('Interrupted');
        expect(code).toBe(130);
        await untilGone(run.mark);
      });

      it('when its edge is killed: it says so, and stops the rest', async () => {
        const run = quickstart();
        await untilLine(run, /^ +1 /);
        const edge = marked(run.mark).find((line) => line.includes('edge-process'))!;
        process.kill(Number(edge.split(' ')[0]), 'SIGKILL');
        const { code, stderr } = await run.ended;
        expect(stderr).toMatch(/the edge ended: SIGKILL|no answer|incomplete/);
        expect(code).toBe(1);
        await untilGone(run.mark);
      });

      it('when it is killed', async () => {
        const run = quickstart();
        await untilLine(run, /^ +1 /);
        expect(marked(run.mark).length).toBeGreaterThanOrEqual(3);
        run.process.kill('SIGKILL');
        await untilGone(run.mark);
      });
    });
});
