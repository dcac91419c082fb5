/**
 * What this isolate’s requests have taken, and what is known of what their tenants took elsewhere. It is reported to the directory
 * every few seconds, in one call: an isolate that is lost loses what it had not reported.
 */
import {
  addUsage,
  DEFAULT_LIMITS,
  NO_USAGE,
  type DailyUsage,
  type KeyId,
  type TenantLimits,
  type Usage,
} from '../../shared/access.ts';
import type { Tenant } from '../../shared/tenant.ts';
import { today, type AccessDirectory, type AccessReport, type Standing } from './access-directory.ts';

const REMEMBERED_TENANTS = 10_000;

export class UsageMeter {
  readonly #directory: AccessDirectory;
  /** Random: Workers have no randomness before the first request. */
  #reporter: string | null = null;
  #sequence = 0;
  /** Not reported yet, by tenant and day. */
  #days = new Map<string, DailyUsage>();
  #used = new Map<KeyId, string>();
  /** On its way, or to be sent again: nothing says whether it has arrived, and the directory takes it once. */
  #report: AccessReport | null = null;
  readonly #standings = new Map<Tenant, Standing>();

  constructor(directory: AccessDirectory) {
    this.#directory = directory;
  }

  count(tenant: Tenant, key: KeyId | null, usage: Usage): void {
    const day = today();
    const name = `${day} ${tenant}`;
    const counted = this.#days.get(name) ?? { tenant, day, ...NO_USAGE };
    this.#days.set(name, { tenant, day, ...addUsage(counted, usage) });
    if (key !== null) this.#used.set(key, new Date().toISOString());
  }

  limitsOf(tenant: Tenant): TenantLimits {
    return this.#standings.get(tenant)?.limits ?? DEFAULT_LIMITS;
  }

  /** As far as is known here. */
  takenToday(tenant: Tenant): Usage {
    const day = today();
    const standing = this.#standings.get(tenant);
    const unreported = [...(this.#report?.days ?? []), ...this.#days.values()];
    return unreported
      .filter((usage) => usage.tenant === tenant && usage.day === day)
      .reduce(addUsage, standing?.day === day ? standing.usage : NO_USAGE);
  }

  /** Takes in what the directory says of a tenant. */
  learn(standing: Standing): void {
    // It may or may not contain what is on its way; the answer to that will.
    if (this.#report === null) this.#learn(standing);
  }

  #learn(standing: Standing): void {
    const known = this.#standings.get(standing.tenant);
    // Answers may overtake each other.
    const isOlder = known?.day === standing.day && known.usage.requests > standing.usage.requests;
    this.#standings.delete(standing.tenant);
    this.#standings.set(standing.tenant, isOlder ? known : standing);
    const [oldest] = this.#standings.keys();
    if (this.#standings.size > REMEMBERED_TENANTS && oldest !== undefined) this.#standings.delete(oldest);
  }

  /**
   * Reports what was counted. If that fails it stays, and the next call sends it again. Calls may overlap: no request waits for
   * another’s, whose end it might never see.
   */
  async flush(): Promise<void> {
    const report = this.#report ?? this.#nextReport();
    if (report === null) return;
    this.#report = report;
    const standings = await this.#directory.report(report);
    if (this.#report === report) this.#report = null;
    for (const standing of standings) this.#learn(standing);
  }

  /** Reports everything that has been counted until now. */
  async flushAll(): Promise<void> {
    if (this.#report !== null) await this.flush();
    await this.flush();
  }

  #nextReport(): AccessReport | null {
    if (this.#days.size === 0) return null;
    const used = [...this.#used].map(([id, at]) => ({ id, at }));
    this.#reporter ??= crypto.randomUUID();
    const report = { reporter: this.#reporter, sequence: ++this.#sequence, days: [...this.#days.values()], used };
    this.#days = new Map();
    this.#used = new Map();
    return report;
  }
}
