/** The edge as a child process: in workerd, as on Cloudflare, or under Node alone. */
import { startProcess, type ServiceProcess } from './child.ts';

/** What the edge runs in. */
export const EDGE_RUNTIMES = ['workerd', 'node'] as const;
export type EdgeRuntime = (typeof EDGE_RUNTIMES)[number];

const ENTRIES: Readonly<Record<EdgeRuntime, URL>> = {
  workerd: new URL('./edge-process.ts', import.meta.url),
  node: new URL('../node/edge-process.ts', import.meta.url),
};

export interface EdgeOptions {
  /** 0 takes a free port. */
  readonly port: number;
  /** Empty where workers register themselves. */
  readonly workerUrl: string;
  readonly runtime?: EdgeRuntime | undefined;
  /** More of the edge's settings, see edge-process.ts. */
  readonly settings?: Readonly<Record<string, string>> | undefined;
}

/** Starts the edge on the loopback interface and waits until it serves. @throws Error if it does not */
export function startEdge({ port, workerUrl, runtime = 'workerd', settings }: EdgeOptions): Promise<ServiceProcess> {
  return startProcess('edge', ENTRIES[runtime], {
    // Of node:sqlite, which Node 22 calls experimental.
    ...(runtime === 'node' ? { NODE_OPTIONS: '--disable-warning=ExperimentalWarning' } : {}),
    DDPNOPT_PORT: String(port),
    DDPNOPT_WORKER_URL: workerUrl,
    ...settings,
  });
}
