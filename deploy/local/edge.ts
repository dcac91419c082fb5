/** The edge as a child process. */
import { startProcess, type ServiceProcess } from './child.ts';

const ENTRY = new URL('./edge-process.ts', import.meta.url);

export interface EdgeOptions {
  /** 0 takes a free port. */
  readonly port: number;
  readonly workerUrl: string;
}

/** Starts the edge on the loopback interface and waits until it serves. @throws Error if it does not */
export function startEdge({ port, workerUrl }: EdgeOptions): Promise<ServiceProcess> {
  return startProcess('edge', ENTRY, { DDPNOPT_PORT: String(port), DDPNOPT_WORKER_URL: workerUrl });
}
