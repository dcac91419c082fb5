/** A token bucket: so many requests at once, so many a second in the long run. */

export interface BucketState {
  readonly isAdmitted: boolean;
  /** Requests that may come at once from now. */
  readonly remaining: number;
  /** Seconds until the next request is admitted; 0 if it is now. */
  readonly wait: number;
  /** Seconds until the bucket is full again. */
  readonly reset: number;
}

export class TokenBucket {
  #tokens: number;
  #at: number;

  /** @param now milliseconds */
  constructor(burst: number, now: number) {
    this.#tokens = burst;
    this.#at = now;
  }

  /** Takes a token if there is one. The rate is per second, the time in milliseconds; either limit may change between calls. */
  take(rate: number, burst: number, now: number): BucketState {
    const earned = (Math.max(0, now - this.#at) / 1000) * rate;
    this.#tokens = Math.min(burst, this.#tokens + earned);
    this.#at = now;
    const isAdmitted = this.#tokens >= 1;
    if (isAdmitted) this.#tokens -= 1;
    return {
      isAdmitted,
      remaining: Math.floor(this.#tokens),
      wait: this.#tokens >= 1 ? 0 : (1 - this.#tokens) / rate,
      reset: (burst - this.#tokens) / rate,
    };
  }
}
