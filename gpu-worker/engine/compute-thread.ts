/** The compute thread from the main thread's side: requests are answered while it computes. */
import { SHARE_ENV, Worker } from 'node:worker_threads';
import type { EngineName } from '../tensor/engine.ts';
import { ThreadCalls } from '../thread/thread-calls.ts';
import type { Compute } from './compute.ts';
import type { Results, ThreadOptions, ThreadReady, Work, WorkKind, WorkOf } from './messages.ts';

export interface ComputeThread {
  readonly compute: Compute;
  /** Rejects when the thread fails, with the reason; its sessions are lost. */
  readonly failed: Promise<never>;
  readonly stop: () => Promise<void>;
}

/** Starts the thread and waits until its tensor engine is loaded. @throws Error if that fails */
export async function startComputeThread(options: ThreadOptions): Promise<ComputeThread> {
  const thread = new Worker(new URL('./thread.ts', import.meta.url), {
    workerData: options,
    // TensorFlow reads its settings from the process's own environment, of which a thread would otherwise get a copy.
    env: SHARE_ENV,
  });
  const calls = new ThreadCalls<Work, ThreadReady, Results[WorkKind]>(thread, 'compute', (reason) => reason);
  let engine: EngineName;
  try {
    ({ engine } = await calls.ready);
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    // The reason names an engine that was asked for.
    throw new Error(options.engine === null ? `no tensor engine loads: ${reason}` : reason, { cause });
  }

  async function ask<Kind extends WorkKind>(work: WorkOf<Kind>, moved: ArrayBuffer[] = []): Promise<Results[Kind]> {
    // The thread answers each kind of work with its own kind of result.
    return (await calls.ask(work, moved)) as Results[Kind];
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
        calls.fail(reason);
      });
    },
  };
  return {
    compute,
    failed: calls.failed,
    stop: async () => {
      calls.expectEnd();
      await thread.terminate();
    },
  };
}
