/**
 * The queue in front of the device: one job at a time, sessions in turn, bounded.
 *
 * A device computes one step at a time. The queue takes the sessions in turn, so that a session with many waiting steps does not
 * hold up the others.
 */
import { asError, ProblemError } from '../../shared/errors.ts';

/** Settles when the job is done, and never rejects: the job's error goes to whoever waits for it. */
type Job = () => Promise<void>;

export interface QueueLimits {
  /** Jobs of one session that may wait. */
  readonly perSession: number;
  /** Jobs that may wait altogether. */
  readonly total: number;
}

export class ComputeQueue {
  /** Sessions with waiting jobs, in the order of their turns. */
  readonly #waiting = new Map<string, Job[]>();
  readonly #limits: QueueLimits;
  #length = 0;
  #running = false;

  constructor(limits: QueueLimits) {
    this.#limits = limits;
  }

  /** Jobs that wait, without the one that runs. */
  get length(): number {
    return this.#length;
  }

  /**
   * Runs a job in the session's turn.
   *
   * @param signal takes the job out of the queue while it waits; once it runs, it runs to its end
   * @throws ProblemError `queue_full`, at once, if the session or the worker has too many jobs waiting; the signal's reason
   */
  run<Result>(session: string, compute: () => Result | Promise<Result>, signal?: AbortSignal): Promise<Result> {
    if (signal?.aborted === true) return Promise.reject(asError(signal.reason));
    const jobs = this.#waiting.get(session) ?? [];
    if (jobs.length >= this.#limits.perSession || this.#length >= this.#limits.total) {
      return Promise.reject(
        new ProblemError('queue_full', {
          detail: `${String(jobs.length)} requests of this session and ${String(this.#length)} of all sessions are waiting.`,
          remedy: 'Send the next step of a session after the reply to the one before, and retry this one in a second.',
        }),
      );
    }
    return this.#enqueue(session, compute, signal);
  }

  /** As {@link run}, for what the worker itself has to do: never refused, and so to be asked for one after the other. */
  runAlways<Result>(session: string, compute: () => Result | Promise<Result>, signal?: AbortSignal): Promise<Result> {
    if (signal?.aborted === true) return Promise.reject(asError(signal.reason));
    return this.#enqueue(session, compute, signal);
  }

  #enqueue<Result>(session: string, compute: () => Result | Promise<Result>, signal?: AbortSignal): Promise<Result> {
    const jobs = this.#waiting.get(session) ?? [];
    return new Promise<Result>((resolve, reject) => {
      const job = async (): Promise<void> => {
        signal?.removeEventListener('abort', leave);
        try {
          resolve(await compute());
        } catch (error) {
          reject(asError(error));
        }
      };
      const leave = (): void => {
        this.#remove(session, job);
        reject(asError(signal?.reason));
      };
      signal?.addEventListener('abort', leave, { once: true });
      jobs.push(job);
      this.#waiting.set(session, jobs);
      this.#length++;
      if (!this.#running) {
        this.#running = true;
        void this.#drain();
      }
    });
  }

  async #drain(): Promise<void> {
    for (let job = this.#next(); job !== undefined; job = this.#next()) await job();
    this.#running = false;
  }

  #remove(session: string, job: Job): void {
    const jobs = (this.#waiting.get(session) ?? []).filter((other) => other !== job);
    // Whoever has nothing waiting has no turn.
    if (jobs.length === 0) this.#waiting.delete(session);
    else this.#waiting.set(session, jobs);
    this.#length--;
  }

  /** Takes the first job of the session whose turn it is. */
  #next(): Job | undefined {
    const turn = this.#waiting.entries().next();
    if (turn.done) return undefined;
    const [session, jobs] = turn.value;
    const job = jobs.shift();
    // To the back of the line, or out of it.
    this.#waiting.delete(session);
    if (jobs.length > 0) this.#waiting.set(session, jobs);
    this.#length--;
    return job;
  }
}
