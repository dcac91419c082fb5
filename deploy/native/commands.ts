/** Other programs, run with a line that says what is going on for as long as it takes. */
import { spawn } from 'node:child_process';

const TICK_MILLISECONDS = 1_000;

/** Why the engine cannot be assembled, and what can be done about it. */
export class AssemblyError extends Error {
  readonly remedy: string;

  constructor(message: string, remedy: string) {
    super(message);
    this.remedy = remedy;
  }
}

/** Shows what is being done and for how long: a line that redraws itself on a terminal, a line at the end elsewhere. */
export async function announced<Result>(text: string, work: () => Promise<Result>): Promise<Result> {
  const { stdout } = process;
  const began = performance.now();
  const seconds = (): string => `${((performance.now() - began) / 1000).toFixed(0)} s`;
  const draw = (): void => void stdout.write(`\r\u001b[K  ${text} … ${seconds()}`);
  if (stdout.isTTY) draw();
  else stdout.write(`  ${text} …\n`);
  const ticks = stdout.isTTY ? setInterval(draw, TICK_MILLISECONDS) : undefined;
  try {
    const result = await work();
    stdout.write(`${stdout.isTTY ? '\r\u001b[K' : ''}  ${text}: ${seconds()}\n`);
    return result;
  } catch (error) {
    if (stdout.isTTY) stdout.write('\n');
    throw error;
  } finally {
    clearInterval(ticks);
  }
}

/**
 * Runs a program to its end.
 *
 * @param remedy what to do if it fails
 * @returns what it wrote to its standard output
 * @throws AssemblyError with the program's own words if it is not there or fails
 */
export async function run(
  program: string,
  parameters: readonly string[],
  { folder, remedy }: { readonly folder: string; readonly remedy: string },
): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, parameters, { cwd: folder, stdio: ['ignore', 'pipe', 'pipe'] });
    let output = '';
    let errors = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => (output += text));
    child.stderr.setEncoding('utf8').on('data', (text: string) => (errors += text));
    child.once('error', (error) => {
      reject(new AssemblyError(`${program} cannot be run: ${error.message}`, remedy));
    });
    child.once('close', (code, signal) => {
      if (code === 0) resolve(output);
      else {
        const words = errors.trim() === '' ? output.trim() : errors.trim();
        reject(new AssemblyError(`${program} failed (${signal ?? `exit code ${String(code)}`}): ${words}`, remedy));
      }
    });
  });
}
