/** When a request that failed is sent again: after a random wait, a bounded number of times, and not beyond a time. */
import type { ConnectionError, DdpnoptError } from './errors.ts';

export interface RetryPolicy {
  /** How often a request is sent at most, the first time included; 1 sends nothing twice. */
  readonly attempts: number;
  /** Bound of the first wait, which every attempt doubles: the waits are drawn uniformly from 0 to it ("full jitter"). */
  readonly baseMilliseconds: number;
  /** What that bound grows to at most. A Retry-After is waited for on top of it. */
  readonly maximumMilliseconds: number;
  /** From the first attempt on: no attempt begins later than that. */
  readonly totalMilliseconds: number;
}

const DEFAULT_RETRY: RetryPolicy = {
  attempts: 6,
  baseMilliseconds: 200,
  maximumMilliseconds: 10_000,
  totalMilliseconds: 120_000,
};

/** The clock and the random numbers of a client, to be replaced in tests. */
export interface Timing {
  /** Milliseconds; only differences matter. */
  readonly now: () => number;
  /** Uniform in [0, 1). */
  readonly random: () => number;
  /** Calls back after so many milliseconds; what it returns calls that off. */
  readonly schedule: (milliseconds: number, callback: () => void) => () => void;
}

export const SYSTEM_TIMING: Timing = {
  now: () => performance.now(),
  random: () => Math.random(),
  schedule: (milliseconds, callback) => {
    const timer = setTimeout(callback, milliseconds);
    return () => {
      clearTimeout(timer);
    };
  },
};

export interface Failure {
  readonly error: DdpnoptError | ConnectionError;
  /** Whether the same request may succeed when it is sent again. */
  readonly isRetryable: boolean;
  /** Of the answer's Retry-After; null without one. */
  readonly retryAfterMilliseconds: number | null;
}

/**
 * How long to wait before the next attempt, in milliseconds; null if there is to be none.
 *
 * @param attempt the number of the attempt that failed, from 1
 * @param elapsed milliseconds since the first one began
 */
export function waitBeforeRetry(
  policy: RetryPolicy,
  { isRetryable, retryAfterMilliseconds }: Failure,
  attempt: number,
  elapsed: number,
  random: () => number,
): number | null {
  if (!isRetryable || attempt >= policy.attempts) return null;
  const bound = Math.min(policy.maximumMilliseconds, policy.baseMilliseconds * 2 ** (attempt - 1));
  const wait = (retryAfterMilliseconds ?? 0) + random() * bound;
  return elapsed + wait > policy.totalMilliseconds ? null : wait;
}

/** Retry-After in its two forms, seconds or a date, as milliseconds from now; null for neither. @param today of the calendar */
export function parseRetryAfter(text: string | null, today: number): number | null {
  if (text === null) return null;
  if (/^\d+$/.test(text.trim())) return 1000 * Number(text);
  const date = Date.parse(text);
  return Number.isNaN(date) ? null : Math.max(0, date - today);
}

/** Ends after so many milliseconds, or at once with the signal's reason. */
export async function wait(timing: Timing, milliseconds: number, signal: AbortSignal | undefined): Promise<void> {
  signal?.throwIfAborted();
  await new Promise<void>((resolve) => {
    const end = (): void => {
      callOff();
      signal?.removeEventListener('abort', end);
      resolve();
    };
    const callOff = timing.schedule(milliseconds, end);
    signal?.addEventListener('abort', end);
  });
  signal?.throwIfAborted();
}

/** @throws RangeError naming the field that is out of its range */
export function completePolicy(given: Partial<RetryPolicy>): RetryPolicy {
  const policy = { ...DEFAULT_RETRY, ...given };
  if (!Number.isInteger(policy.attempts) || policy.attempts < 1) {
    throw new RangeError(`retry.attempts is ${String(policy.attempts)}; a whole number from 1 was expected`);
  }
  for (const field of ['baseMilliseconds', 'maximumMilliseconds', 'totalMilliseconds'] as const) {
    if (policy[field] >= 0) continue;
    throw new RangeError(`retry.${field} is ${String(policy[field])}; a number from 0 was expected`);
  }
  return policy;
}
