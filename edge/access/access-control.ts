/** Who may do what, and how much of it: what every request passes through. One for an isolate. */
import type { Scope, TenantLimits, Usage } from '../../shared/access.ts';
import { ProblemError } from '../../shared/errors.ts';
import { LIMITS } from '../../shared/limits.ts';
import type { AccessDirectory } from './access-directory.ts';
import { KeyRing } from './key-ring.ts';
import type { Principal } from './principal.ts';
import { TokenBucket } from './token-bucket.ts';
import { UsageMeter } from './usage-meter.ts';

const REMEMBERED_BUCKETS = 10_000;
const DAY_SECONDS = 86_400;

export interface AccessSettings {
  readonly directory: AccessDirectory;
  /** The operator's key; null for none: then the service answers on loopback alone, and to everybody there. */
  readonly adminKey: string | null;
  /** Does some work a while later, after the answer. */
  readonly later: (milliseconds: number, work: () => Promise<void>) => void;
  readonly reportFailure: (error: unknown) => void;
}

/** One limit and what is left of it, as the headers RateLimit-Policy and RateLimit say it. */
export interface RateLimit {
  readonly name: string;
  readonly quota: number;
  /** Seconds. */
  readonly window: number;
  readonly remaining: number;
  /** Seconds until the quota is whole again. */
  readonly reset: number;
}

export class AccessControl {
  readonly directory: AccessDirectory;
  readonly usage: UsageMeter;
  readonly #settings: AccessSettings;
  readonly #keys: KeyRing;
  readonly #buckets = new Map<string, TokenBucket>();
  #flushDue = -Infinity;

  constructor(settings: AccessSettings) {
    this.#settings = settings;
    this.directory = settings.directory;
    this.usage = new UsageMeter(settings.directory);
    this.#keys = new KeyRing(settings.directory, settings.adminKey, ({ standing }) => {
      this.usage.learn(standing);
    });
  }

  /** Whether keys are asked for. */
  get isClosed(): boolean {
    return this.#keys.isClosed;
  }

  /** @throws ProblemError `unauthenticated`, `forbidden`, `rate_limited`, `access_not_configured`, `access_unavailable` */
  async authorise(request: Request, scope: Scope): Promise<Principal> {
    const principal = await this.#keys.principalOf(request);
    if (principal.scopes.has(scope)) return principal;
    throw new ProblemError('forbidden', {
      param: 'Authorization',
      detail: `Key ${String(principal.key)} has the scopes ${[...principal.scopes].join(', ')}; this takes ${scope}.`,
      remedy: `Use a key with the scope ${scope}, or have one created.`,
    });
  }

  /**
   * Takes a request of a key from its token bucket.
   *
   * @param report takes the limits and what is left of them, whether the request is admitted or not
   * @throws ProblemError `rate_limited`, `quota_exceeded`
   */
  admit(principal: Principal, isWork: boolean, report: (limits: readonly RateLimit[]) => void): void {
    if (principal.key === null) return;
    const limits = this.usage.limitsOf(principal.tenant);
    const { requestsPerSecond: rate, burst } = limits;
    const bucket = this.#bucketOf(principal.key, burst).take(rate, burst, Date.now());
    const quotas = dailyQuotas(limits, this.usage.takenToday(principal.tenant));
    report([
      {
        name: 'requests',
        quota: burst,
        window: Math.ceil(burst / rate),
        remaining: bucket.remaining,
        reset: Math.ceil(bucket.reset),
      },
      ...quotas,
    ]);
    if (!bucket.isAdmitted) {
      throw new ProblemError('rate_limited', {
        detail: `Key ${principal.key} may make ${String(rate)} requests per second, ${String(burst)} at once.`,
        remedy: 'Send the same request again after the seconds that Retry-After says; send fewer at once.',
        retryAfter: Math.max(1, Math.ceil(bucket.wait)),
      });
    }
    const used = quotas.find(({ remaining }) => remaining <= 0);
    if (!isWork || used === undefined) return;
    throw new ProblemError('quota_exceeded', {
      detail: `Tenant ${principal.tenant} has used up its ${String(used.quota)} ${used.name} of today (UTC).`,
      remedy: 'Go on tomorrow, or have the tenant’s limits raised. What is there can be read and deleted.',
      retryAfter: used.reset,
    });
  }

  #bucketOf(key: string, burst: number): TokenBucket {
    const bucket = this.#buckets.get(key) ?? new TokenBucket(burst, Date.now());
    this.#buckets.delete(key);
    this.#buckets.set(key, bucket);
    const [oldest] = this.#buckets.keys();
    if (this.#buckets.size > REMEMBERED_BUCKETS && oldest !== undefined) this.#buckets.delete(oldest);
    return bucket;
  }

  /** Counts what a request has taken, and sees to it that it is reported. */
  account({ tenant, key }: Principal, usage: Usage): void {
    this.usage.count(tenant, key, usage);
    const interval = 1000 * LIMITS.usageFlushSeconds;
    const now = Date.now();
    // A flush that should have happened long since went with the request that was to make it.
    if (now < this.#flushDue + interval) return;
    this.#flushDue = now + interval;
    this.#settings.later(interval, async () => {
      this.#flushDue = -Infinity;
      try {
        await this.usage.flushAll();
      } catch (error) {
        this.#settings.reportFailure(error);
      }
    });
  }
}

function dailyQuotas(limits: TenantLimits, { steps, bytesIn, bytesOut, computeSeconds }: Usage): RateLimit[] {
  const second = Math.floor(Date.now() / 1000);
  const reset = DAY_SECONDS - (second % DAY_SECONDS);
  const quotas = [
    { name: 'steps', quota: limits.stepsPerDay, taken: steps },
    { name: 'bytes', quota: limits.bytesPerDay, taken: bytesIn + bytesOut },
    { name: 'compute-seconds', quota: limits.computeSecondsPerDay, taken: computeSeconds },
  ];
  return quotas.flatMap(({ name, quota, taken }) =>
    quota === null
      ? []
      : [{ name, quota, window: DAY_SECONDS, remaining: Math.max(0, Math.floor(quota - taken)), reset }],
  );
}
