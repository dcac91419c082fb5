/** The worker as a child process. */
import { fork, type ChildProcess } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { workerReadySchema, type WorkerReady } from '../../shared/worker-process.ts';

const ENTRY = fileURLToPath(new URL('../../gpu-worker/index.ts', import.meta.url));
const STOP_MILLISECONDS = 5_000;

export interface WorkerProcess {
  readonly url: string;
  readonly engine: string;
  readonly pid: number;
  /** Resolves when the process has ended for whatever reason, with its exit code or signal. */
  readonly ended: Promise<string>;
  readonly stop: () => Promise<void>;
}

export interface WorkerOptions {
  /** 0 takes a free port. */
  readonly port: number;
  readonly engine?: string | undefined;
  readonly maximumSessions?: number | undefined;
}

/** Starts a worker and waits until it serves. @throws Error with the worker's own output if it ends before that */
export async function startWorker({ port, engine, maximumSessions }: WorkerOptions): Promise<WorkerProcess> {
  const child = fork(ENTRY, {
    execArgv: [],
    // Its own handling of Ctrl-C would race with ours: the supervisor stops it.
    detached: true,
    stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
    env: {
      ...process.env,
      DDPNOPT_WORKER_HOST: '127.0.0.1',
      DDPNOPT_WORKER_PORT: String(port),
      ...(engine === undefined ? {} : { DDPNOPT_ENGINE: engine }),
      ...(maximumSessions === undefined ? {} : { DDPNOPT_MAX_SESSIONS: String(maximumSessions) }),
    },
  });
  let errors = '';
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    errors = (errors + text).slice(-10_000);
    process.stderr.write(text);
  });
  const ended = new Promise<string>((resolve) => {
    child.once('exit', (code, signal) => {
      resolve(signal ?? `exit code ${String(code)}`);
    });
    child.once('error', (error) => {
      resolve(error.message);
    });
  });
  const ready = new Promise<WorkerReady>((resolve) => {
    child.once('message', (message) => {
      resolve(workerReadySchema.parse(message));
    });
  });
  const first = await Promise.race([ready, ended]);
  if (typeof first === 'string') throw new Error(`the worker did not start (${first}): ${errors.trim()}`);
  return { url: first.url, engine: first.engine, pid: child.pid ?? 0, ended, stop: () => stop(child, ended) };
}

async function stop(child: ChildProcess, ended: Promise<string>): Promise<void> {
  child.kill('SIGTERM');
  const forced = setTimeout(() => child.kill('SIGKILL'), STOP_MILLISECONDS);
  await ended;
  clearTimeout(forced);
}
