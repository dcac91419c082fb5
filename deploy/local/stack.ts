/** Worker and edge on this machine, started and stopped together. */
import type { ServiceProcess } from './child.ts';
import type { LogLevel } from '../../shared/log-level.ts';
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
  /** Of both. */
  readonly logLevel?: LogLevel | undefined;
  /** Called with a line when one of them is about to start, and when it serves. */
  readonly onProgress?: ((line: string) => void) | undefined;
}

/**
 * Which engine computes, in words, and how to get a faster one where there is one to get.
 *
 * @param isForced whether somebody asked for this one
 */
export function describeEngine({ engine }: Pick<LocalStack, 'engine'>, isForced: boolean): string {
  if (engine !== 'wasm' || isForced || process.platform !== 'linux' || process.arch !== 'x64')
    return `engine: ${engine}`;
  return `engine: ${engine} (npm run native builds a faster one)`;
}

/** Starts both and waits until the edge reports the worker ready. */
export async function startStack(options: StackOptions = {}): Promise<LocalStack> {
  const { edgePort = 0, workerPort = 0, edge: runtime, edgeState, engine, maximumSessions, storage } = options;
  const { logLevel, onProgress } = options;
  const logging = logLevel === undefined ? {} : { DDPNOPT_LOG_LEVEL: logLevel };
  const started: ServiceProcess[] = [];
  const stopAll = async (): Promise<void> => {
    await Promise.all(started.map((process) => process.stop()));
  };
  let stopping: Promise<void> | undefined;
  const stop = (): Promise<void> => (stopping ??= stopAll());
  try {
    onProgress?.('starting the worker …');
    const worker = await startWorker({ port: workerPort, engine, maximumSessions, storage, settings: logging });
    started.push(worker);
    onProgress?.(`the worker serves at ${worker.ready.url}, engine ${worker.ready.engine ?? 'unknown'}`);
    onProgress?.(`starting the edge (${runtime ?? 'workerd'}) …`);
    const edge = await startEdge({
      port: edgePort,
      workerUrl: worker.ready.url,
      runtime,
      settings: { ...logging, ...(edgeState === undefined ? {} : { DDPNOPT_EDGE_STATE: edgeState }) },
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
