/** The compute thread from the main thread's side: requests are answered while it computes. */
import { SHARE_ENV, Worker } from 'node:worker_threads';
import { asError } from '../../shared/errors.ts';
import type { EngineName } from '../tensor/engine.ts';
import type { Compute } from './compute.ts';
import {
  toError,
  type Request,
  type Response,
  type Results,
  type ThreadOptions,
  type WorkKind,
  type WorkOf,
} from './messages.ts';

export interface ComputeThread {
  readonly compute: Compute;
  /** Rejects when the thread fails, with the reason; its sessions are lost. */
  readonly failed: Promise<never>;
  readonly stop: () => Promise<void>;
}

interface Call {
  readonly resolve: (result: Results[WorkKind]) => void;
  readonly reject: (error: Error) => void;
}

/** Starts the thread and waits until its tensor engine is loaded. @throws Error if that fails */
export async function startComputeThread(options: ThreadOptions): Promise<ComputeThread> {
  const thread = new Worker(new URL('./thread.ts', import.meta.url), {
    workerData: options,
    // TensorFlow reads its settings from the process's own environment, of which a thread would otherwise get a copy.
    env: SHARE_ENV,
  });
  const calls = new Map<number, Call>();
  let lastCall = 0;
  let stopping = false;
  let end: Error | null = null;

  const ended = new Promise<Error>((resolve) => {
    thread.once('error', (error) => {
      resolve(asError(error));
    });
    thread.once('exit', (code) => {
      resolve(new Error(`the compute thread ended with code ${String(code)}`));
    });
  });
  let fail: (reason: unknown) => void = () => undefined;
  const failed = new Promise<never>((_, reject) => {
    fail = reject;
  });
  void ended.then((reason) => {
    end = reason;
    for (const { reject } of calls.values()) reject(reason);
    calls.clear();
    // A thread that was told to stop has not failed.
    if (!stopping) fail(reason);
  });

  const engine = await new Promise<EngineName>((resolve, reject) => {
    failed.catch((cause: unknown) => {
      const reason = cause instanceof Error ? cause.message : String(cause);
      // The reason names an engine that was asked for.
      reject(new Error(options.engine === null ? `no tensor engine loads: ${reason}` : reason, { cause }));
    });
    thread.on('message', (response: Response) => {
      if (response.kind === 'ready') {
        resolve(response.engine);
        return;
      }
      const call = calls.get(response.call);
      calls.delete(response.call);
      if (response.kind === 'result') call?.resolve(response.result);
      else call?.reject(toError(response.failure));
    });
  });

  function ask<Kind extends WorkKind>(work: WorkOf<Kind>, moved: ArrayBuffer[] = []): Promise<Results[Kind]> {
    const call = ++lastCall;
    return new Promise<Results[Kind]>((resolve, reject) => {
      // A thread that has ended takes messages and answers none.
      if (end !== null) {
        reject(end);
        return;
      }
      thread.postMessage({ call, work } satisfies Request, moved);
      // The thread answers each kind of work with its own kind of result.
      calls.set(call, { resolve: resolve as Call['resolve'], reject });
    });
  }

  const compute: Compute = {
    engine,
    open: async (id, definition) => {
      await ask<'open'>({ kind: 'open', id, definition });
    },
    restore: (id, file) => ask<'restore'>({ kind: 'restore', id, file }, [file.buffer]),
    redefine: async (id, definition) => {
      await ask<'redefine'>({ kind: 'redefine', id, definition });
    },
    save: (id, origin) => ask<'save'>({ kind: 'save', id, origin }),
    inspect: (file) => ask<'inspect'>({ kind: 'inspect', file }, [file.buffer]),
    step: (id, body) => ask<'step'>({ kind: 'step', id, body }, [body.buffer]),
    weights: (id) => ask<'weights'>({ kind: 'weights', id }),
    predict: (id, body) => ask<'predict'>({ kind: 'predict', id, body }, [body.buffer]),
    checkChunk: (id, body) => ask<'checkChunk'>({ kind: 'checkChunk', id, body }, [body.buffer]),
    solve: (options, body) => ask<'solve'>({ kind: 'solve', options, body }, [body.buffer]),
    close: (id) => {
      // Nobody waits for it: that it cannot be done is a failure of the thread.
      ask<'close'>({ kind: 'close', id }).catch((reason: unknown) => {
        if (!stopping) fail(reason);
      });
    },
  };
  return {
    compute,
    failed,
    stop: async () => {
      stopping = true;
      await thread.terminate();
    },
  };
}
