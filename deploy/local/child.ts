/** Processes of the service as children: started, awaited until they serve, stopped. */
import { fork, type ChildProcess } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { processReadySchema, type ProcessReady } from '../../shared/service-process.ts';

const STOP_MILLISECONDS = 5_000;
const KEPT_ERROR_CHARACTERS = 10_000;

export interface ServiceProcess {
  readonly pid: number;
  /** What the process said when it began to serve. */
  readonly ready: ProcessReady;
  /** Resolves when the process has ended for whatever reason, with its exit code or signal in words. */
  readonly ended: Promise<string>;
  readonly stop: () => Promise<void>;
  /** Ends it at once, as a crash does. */
  readonly kill: () => Promise<void>;
  /** What it has written to its standard error, at least the end of it. */
  readonly errors: () => string;
}

/**
 * Starts a process and waits until it serves.
 *
 * @param name for messages
 * @param entry URL of the module to run; it ends by itself when the channel to its parent closes, however the parent ended
 * @throws Error with the process's own words if it ends before it serves
 */
export async function startProcess(
  name: string,
  entry: URL,
  environment: Readonly<Record<string, string | undefined>>,
): Promise<ServiceProcess> {
  const child = fork(fileURLToPath(entry), {
    execArgv: [],
    // In a process group of its own: Ctrl-C reaches the parent alone, which then stops its children in order.
    detached: true,
    stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
    env: { ...process.env, ...environment },
  });
  let errors = '';
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    errors = (errors + text).slice(-KEPT_ERROR_CHARACTERS);
    process.stderr.write(text);
  });
  const ended = new Promise<string>((resolve) => {
    child.once('exit', (code, signal) => {
      // Killed, it had no time to end the processes it started itself.
      if (signal !== null) killGroup(child);
      resolve(signal ?? `exit code ${String(code)}`);
    });
    child.once('error', (error) => {
      resolve(error.message);
    });
  });
  const ready = new Promise<ProcessReady>((resolve, reject) => {
    child.once('message', (message) => {
      const parsed = processReadySchema.safeParse(message);
      if (parsed.success) resolve(parsed.data);
      else reject(new Error(`the ${name} said something unexpected`, { cause: parsed.error }));
    });
  });
  const first = await Promise.race([ready, ended]);
  const { pid } = child;
  if (typeof first === 'string') throw new Error(`the ${name} did not start (${first}): ${errors.trim()}`);
  if (pid === undefined) throw new Error(`the ${name} has no process`);

  const stop = async (): Promise<void> => {
    child.kill('SIGTERM');
    const forced = setTimeout(() => {
      killGroup(child);
    }, STOP_MILLISECONDS);
    await ended;
    clearTimeout(forced);
  };
  const kill = async (): Promise<void> => {
    killGroup(child);
    await ended;
  };
  return { pid, ready: first, ended, stop, kill, errors: () => errors };
}

/** Ends the child and whatever it started: it leads a process group of its own. */
function killGroup({ pid }: ChildProcess): void {
  if (pid === undefined) return;
  try {
    process.kill(-pid, 'SIGKILL');
  } catch {
    // The whole group has ended already.
  }
}
