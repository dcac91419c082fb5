/** A job in the queue that several requests wait for: it leaves the queue when all of them have gone away. */
export class SharedJob<Result> {
  readonly #abandoned = new AbortController();
  readonly #result: Promise<Result>;
  #waiting = 0;

  /** @param enqueue enqueues the job; the signal takes it out of the queue again, unless it runs already */
  constructor(enqueue: (abandoned: AbortSignal) => Promise<Result>) {
    this.#result = enqueue(this.#abandoned.signal);
  }

  get isAbandoned(): boolean {
    return this.#abandoned.signal.aborted;
  }

  /** Resolves when the job has ended, however it has. */
  async ended(): Promise<void> {
    await Promise.allSettled([this.#result]);
  }

  /**
   * Waits with the others. Whoever goes away while others wait gets the result all the same.
   *
   * @throws what the job throws; the signal's reason if everybody has gone away before the job's turn
   */
  async wait(signal?: AbortSignal): Promise<Result> {
    const leave = (): void => {
      this.#waiting--;
      if (this.#waiting === 0) this.#abandoned.abort(signal?.reason);
    };
    this.#waiting++;
    signal?.addEventListener('abort', leave, { once: true });
    try {
      return await this.#result;
    } finally {
      signal?.removeEventListener('abort', leave);
    }
  }
}
