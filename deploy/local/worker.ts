/** The worker as a child process. */
import { startProcess, type ServiceProcess } from './child.ts';

const ENTRY = new URL('../../gpu-worker/index.ts', import.meta.url);

export interface WorkerOptions {
  /** 0 takes a free port. */
  readonly port: number;
  readonly engine?: string | undefined;
  readonly maximumSessions?: number | undefined;
  /** Folder that sessions survive in; unless given they live in the worker's memory alone. */
  readonly storage?: string | undefined;
  /** More of the worker's settings, see gpu-worker/index.ts. */
  readonly settings?: Readonly<Record<string, string>> | undefined;
}

/** Starts a worker on the loopback interface and waits until it serves. @throws Error if it does not */
export function startWorker({
  port,
  engine,
  maximumSessions,
  storage,
  settings,
}: WorkerOptions): Promise<ServiceProcess> {
  return startProcess('worker', ENTRY, {
    DDPNOPT_WORKER_HOST: '127.0.0.1',
    DDPNOPT_WORKER_PORT: String(port),
    ...(engine === undefined ? {} : { DDPNOPT_ENGINE: engine }),
    ...(maximumSessions === undefined ? {} : { DDPNOPT_MAX_SESSIONS: String(maximumSessions) }),
    DDPNOPT_STORAGE: storage,
    ...settings,
  });
}
