/** Keys, limits and usage of all tenants, in one place for all isolates: what is asked of it now and then, never in a step's way. */
import type { ApiKey, DailyUsage, KeyId, TenantLimits, Usage } from '../../shared/access.ts';
import type { Tenant } from '../../shared/tenant.ts';
import type { Sql } from '../state/sql.ts';
import { KeyDirectory, type StoredKey } from './key-directory.ts';
import { UsageLedger, type UsageReport } from './usage-ledger.ts';

/** What a tenant may take, and has taken today. */
export interface Standing {
  readonly tenant: Tenant;
  readonly limits: TenantLimits;
  /** UTC. */
  readonly day: string;
  readonly usage: Usage;
}

export interface FoundKey extends StoredKey {
  readonly standing: Standing;
}

/** What an isolate tells now and then. */
export interface AccessReport extends UsageReport {
  /** Keys, and when they were last used. */
  readonly used: readonly { readonly id: KeyId; readonly at: string }[];
}

/** The same as an isolate reaches it: over the network on Cloudflare, at once under Node. */
export type AccessDirectory = {
  readonly [Method in keyof LocalAccessDirectory]: (
    ...parameters: Parameters<LocalAccessDirectory[Method]>
  ) => Promise<ReturnType<LocalAccessDirectory[Method]>>;
};

export class LocalAccessDirectory {
  readonly #keys: KeyDirectory;
  readonly #usage: UsageLedger;

  constructor(sql: Sql) {
    this.#keys = new KeyDirectory(sql);
    this.#usage = new UsageLedger(sql);
  }

  addKey(key: StoredKey): void {
    this.#keys.add(key);
  }

  findKey(id: KeyId): FoundKey | null {
    const stored = this.#keys.find(id);
    return stored === null ? null : { ...stored, standing: this.standing(stored.key.tenant) };
  }

  listKeys(tenant: Tenant | null): ApiKey[] {
    return this.#keys.list(tenant);
  }

  /** @returns whether there is such a key */
  revokeKey(id: KeyId): boolean {
    return this.#keys.revoke(id, new Date().toISOString());
  }

  limits(tenant: Tenant): TenantLimits {
    return this.#keys.limitsOf(tenant);
  }

  setLimits(tenant: Tenant, limits: TenantLimits): void {
    this.#keys.setLimits(tenant, limits);
  }

  standing(tenant: Tenant): Standing {
    const day = today();
    return { tenant, limits: this.#keys.limitsOf(tenant), day, usage: this.#usage.on(tenant, day) };
  }

  /** Takes in a report, once. @returns how the tenants in it stand */
  report({ used, ...report }: AccessReport): Standing[] {
    this.#usage.add(report, Date.now());
    for (const { id, at } of used) this.#keys.used(id, at);
    return [...new Set(report.days.map(({ tenant }) => tenant))].map((tenant) => this.standing(tenant));
  }

  usage(tenant: Tenant | null, from: string, to: string): DailyUsage[] {
    return this.#usage.between(tenant, from, to);
  }
}

/** The day in UTC. */
export function today(): string {
  return new Date().toISOString().slice(0, 10);
}

/** Does what a method of the directory does, given its arguments; both are plain values. */
type Perform = (method: keyof LocalAccessDirectory, parameters: unknown[]) => Promise<unknown>;

/** The directory that is reached through a function. */
export function directoryThrough(perform: Perform): AccessDirectory {
  const method = <Method extends keyof LocalAccessDirectory>(name: Method): AccessDirectory[Method] => {
    const call = (...parameters: unknown[]): Promise<unknown> => perform(name, parameters);
    // What comes back is what the method of this name returns.
    return call as AccessDirectory[Method];
  };
  return {
    addKey: method('addKey'),
    findKey: method('findKey'),
    listKeys: method('listKeys'),
    revokeKey: method('revokeKey'),
    limits: method('limits'),
    setLimits: method('setLimits'),
    standing: method('standing'),
    report: method('report'),
    usage: method('usage'),
  };
}

/** The directory of this process. What it throws becomes a rejection, as of one that is elsewhere. */
export function localDirectory(sql: Sql): AccessDirectory {
  const directory = new LocalAccessDirectory(sql);
  return directoryThrough((method, parameters) =>
    Promise.resolve().then(() => performOn(directory, method, parameters)),
  );
}

export function performOn(
  directory: LocalAccessDirectory,
  method: keyof LocalAccessDirectory,
  parameters: unknown[],
): unknown {
  const operation = directory[method].bind(directory) as (...values: unknown[]) => unknown;
  return operation(...parameters);
}
