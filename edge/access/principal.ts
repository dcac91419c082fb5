/** Who makes a request. */
import type { KeyId, Scope } from '../../shared/access.ts';
import type { Tenant } from '../../shared/tenant.ts';

export interface Principal {
  readonly tenant: Tenant;
  readonly scopes: ReadonlySet<Scope>;
  /** Null for the operator, whose key is a setting, and in development: neither has limits. */
  readonly key: KeyId | null;
}
