/** Calls to a worker thread from the thread that has started it: each is answered under its number, in any order. */
import type { Worker } from 'node:worker_threads';
import { asError } from '../../shared/errors.ts';
import { toError, type Failure } from './failure.ts';

/** What a thread is asked. */
export interface ThreadRequest<Work> {
  readonly call: number;
  readonly work: Work;
}

/** What it answers. The first message says that it is there. */
export type ThreadResponse<Ready, Result> =
  | { readonly kind: 'ready'; readonly ready: Ready }
  | { readonly kind: 'result'; readonly call: number; readonly result: Result }
  | { readonly kind: 'failure'; readonly call: number; readonly failure: Failure };

interface Call<Result> {
  readonly resolve: (result: Result) => void;
  readonly reject: (error: Error) => void;
}

export class ThreadCalls<Work, Ready, Result> {
  /** Rejects with the reason if the thread ends before it is there. */
  readonly ready: Promise<Ready>;
  /** Rejects when the thread fails, with the reason. */
  readonly failed: Promise<never>;
  /** Resolves with the reason when the thread has ended, failed or not. */
  readonly ended: Promise<Error>;
  readonly #thread: Worker;
  readonly #calls = new Map<number, Call<Result>>();
  #lastCall = 0;
  #isStopping = false;
  #end: Error | null = null;
  #fail: (reason: unknown) => void = () => undefined;

  /**
   * @param name of the thread, in words
   * @param refusal what calls are rejected with once it has ended
   */
  constructor(thread: Worker, name: string, refusal: (reason: Error) => Error) {
    this.#thread = thread;
    this.ended = new Promise((resolve) => {
      thread.once('error', (error) => {
        resolve(asError(error));
      });
      thread.once('exit', (code) => {
        resolve(new Error(`the ${name} thread ended with code ${String(code)}`));
      });
    });
    this.failed = new Promise<never>((_, reject) => {
      this.#fail = reject;
    });
    void this.ended.then((reason) => {
      const end = refusal(reason);
      this.#end = end;
      for (const { reject } of this.#calls.values()) reject(end);
      this.#calls.clear();
      this.fail(reason);
    });
    this.ready = new Promise((resolve, reject) => {
      this.failed.catch(reject);
      thread.on('message', (response: ThreadResponse<Ready, Result>) => {
        if (response.kind === 'ready') {
          resolve(response.ready);
          return;
        }
        const call = this.#calls.get(response.call);
        this.#calls.delete(response.call);
        if (response.kind === 'result') call?.resolve(response.result);
        else call?.reject(toError(response.failure));
      });
    });
  }

  get hasEnded(): boolean {
    return this.#end !== null;
  }

  /** @param moved buffers that go to the thread instead of being copied */
  ask(work: Work, moved: ArrayBuffer[] = []): Promise<Result> {
    const call = ++this.#lastCall;
    return new Promise((resolve, reject) => {
      // A thread that has ended takes messages and answers none.
      if (this.#end !== null) {
        reject(this.#end);
        return;
      }
      this.#thread.postMessage({ call, work } satisfies ThreadRequest<Work>, moved);
      this.#calls.set(call, { resolve, reject });
    });
  }

  /** Has the thread count as failed, unless it was told to stop. */
  fail(reason: unknown): void {
    if (!this.#isStopping) this.#fail(reason);
  }

  /** From now on that the thread ends is no failure. */
  expectEnd(): void {
    this.#isStopping = true;
  }
}
