/** Worker and edge on this machine, started and stopped together. */
import type { ServiceProcess } from './child.ts';
import { startEdge, type EdgeRuntime } from './edge.ts';
import { startWorker } from './worker.ts';

const READINESS_MILLISECONDS = 10_000;

export interface LocalStack {
  /** The edge: what clients talk to. */
  readonly url: string;
  /** Name of the worker's tensor engine. */
  readonly engine: string;
  /** Resolves with the reason when one of them ends. */
  readonly failed: Promise<string>;
  readonly stop: () => Promise<void>;
}

export interface StackOptions {
  /** 0 takes a free port, which is the default for both. */
  readonly edgePort?: number;
  readonly workerPort?: number;
  readonly edge?: EdgeRuntime | undefined;
  /** Folder that the edge's memory survives in; unless given it ends with the edge. */
  readonly edgeState?: string | undefined;
  readonly engine?: string | undefined;
  readonly maximumSessions?: number | undefined;
  /** Folder that sessions survive in; unless given they live in the worker's memory alone. */
  readonly storage?: string | undefined;
}

/** Which engine computes, in words, and how to get a faster one where there is one to get. */
export function describeEngine({ engine }: Pick<LocalStack, 'engine'>): string {
  const isForced = (process.env['DDPNOPT_ENGINE'] ?? '') !== '';
  if (engine !== 'wasm' || isForced || process.platform !== 'linux' || process.arch !== 'x64')
    return `engine: ${engine}`;
  return `engine: ${engine} (npm run native builds a faster one)`;
}

/** Starts both and waits until the edge reports the worker ready. */
export async function startStack(options: StackOptions = {}): Promise<LocalStack> {
  const { edgePort = 0, workerPort = 0, edge: runtime, edgeState, engine, maximumSessions, storage } = options;
  const started: ServiceProcess[] = [];
  const stopAll = async (): Promise<void> => {
    await Promise.all(started.map((process) => process.stop()));
  };
  let stopping: Promise<void> | undefined;
  const stop = (): Promise<void> => (stopping ??= stopAll());
  try {
    const worker = await startWorker({ port: workerPort, engine, maximumSessions, storage });
    started.push(worker);
    const edge = await startEdge({
      port: edgePort,
      workerUrl: worker.ready.url,
      runtime,
      settings: edgeState === undefined ? {} : { DDPNOPT_EDGE_STATE: edgeState },
    });
    started.push(edge);
    const readiness = await fetch(new URL('/readyz', edge.ready.url), {
      signal: AbortSignal.timeout(READINESS_MILLISECONDS),
    });
    if (!readiness.ok) throw new Error(`edge and worker started, but steps cannot be taken: ${await readiness.text()}`);
    const failed = Promise.race([
      worker.ended.then((reason) => `the worker ended: ${reason}`),
      edge.ended.then((reason) => `the edge ended: ${reason}`),
    ]);
    return { url: edge.ready.url, engine: worker.ready.engine ?? 'unknown', failed, stop };
  } catch (error) {
    await stop();
    throw error;
  }
}
