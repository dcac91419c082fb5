/** A fresh process that computes what it is told to, seen from outside. */
import { fork, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import type { Reply, Request } from './messages.ts';

const PROCESS = fileURLToPath(new URL('process.ts', import.meta.url));

export class MeasuredProcess {
  readonly #child: ChildProcess;
  /** Of the operating system. */
  readonly id: number;

  private constructor(child: ChildProcess, id: number) {
    this.#child = child;
    this.id = id;
  }

  /** @param settings beside this process's environment */
  static async start(settings: Readonly<Record<string, string>> = {}): Promise<MeasuredProcess> {
    const child = fork(PROCESS, { execArgv: ['--expose-gc'], env: { ...process.env, ...settings } });
    await once(child, 'spawn');
    if (child.pid === undefined) throw new Error('a process without a number');
    return new MeasuredProcess(child, child.pid);
  }

  /** @throws Error if the process ends instead; it says why on the standard error */
  async ask(request: Request): Promise<readonly number[]> {
    const ended = new AbortController();
    try {
      const reply = once(this.#child, 'message', { signal: ended.signal });
      const end = once(this.#child, 'exit', { signal: ended.signal });
      this.#child.send(request);
      const first = await Promise.race([reply.then(([message]) => message as Reply), end.then(() => null)]);
      if (first === null) throw new Error(`the measured process ended while it was asked to ${request.kind}`);
      return first.milliseconds;
    } finally {
      ended.abort();
    }
  }

  async stop(): Promise<void> {
    if (!this.#child.connected) return;
    const ended = once(this.#child, 'exit');
    this.#child.disconnect();
    await ended;
  }
}
