/** The worker as a child process. */
import { startProcess, type ServiceProcess } from './child.ts';

const ENTRY = new URL('../../gpu-worker/index.ts', import.meta.url);

export interface WorkerOptions {
  /** 0 takes a free port. */
  readonly port: number;
  readonly engine?: string | undefined;
  readonly maximumSessions?: number | undefined;
}

/** Starts a worker on the loopback interface and waits until it serves. @throws Error if it does not */
export function startWorker({ port, engine, maximumSessions }: WorkerOptions): Promise<ServiceProcess> {
  return startProcess('worker', ENTRY, {
    DDPNOPT_WORKER_HOST: '127.0.0.1',
    DDPNOPT_WORKER_PORT: String(port),
    ...(engine === undefined ? {} : { DDPNOPT_ENGINE: engine }),
    ...(maximumSessions === undefined ? {} : { DDPNOPT_MAX_SESSIONS: String(maximumSessions) }),
  });
}
