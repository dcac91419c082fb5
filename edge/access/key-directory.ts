/** The API keys there are, and what each tenant may take. */
import * as z from 'zod';
import {
  apiKeySchema,
  DEFAULT_LIMITS,
  tenantLimitsSchema,
  type ApiKey,
  type KeyId,
  type TenantLimits,
} from '../../shared/access.ts';
import type { Tenant } from '../../shared/tenant.ts';
import type { Sql, SqlValue } from '../state/sql.ts';

/** A key and the SHA-256 of the whole of it. */
export interface StoredKey {
  readonly key: ApiKey;
  readonly hash: string;
}

const COLUMNS = 'id, hash, name, tenant, scopes, created_at, expires_at, revoked_at, last_used_at';

export class KeyDirectory {
  readonly #sql: Sql;

  constructor(sql: Sql) {
    this.#sql = sql;
    sql.all(`CREATE TABLE IF NOT EXISTS api_keys (
      id TEXT PRIMARY KEY, hash TEXT NOT NULL, name TEXT NOT NULL, tenant TEXT NOT NULL, scopes TEXT NOT NULL,
      created_at TEXT NOT NULL, expires_at TEXT, revoked_at TEXT, last_used_at TEXT)`);
    sql.all('CREATE TABLE IF NOT EXISTS tenant_limits (tenant TEXT PRIMARY KEY, limits TEXT NOT NULL)');
  }

  add({ key, hash }: StoredKey): void {
    const { id, name, tenant, scopes, createdAt, expiresAt, revokedAt, lastUsedAt } = key;
    this.#sql.all(
      `INSERT INTO api_keys (${COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`,
      id,
      hash,
      name,
      tenant,
      JSON.stringify(scopes),
      createdAt,
      expiresAt,
      revokedAt,
      lastUsedAt,
    );
  }

  find(id: KeyId): StoredKey | null {
    const [row] = this.#sql.all(`SELECT ${COLUMNS} FROM api_keys WHERE id = ?`, id);
    return row === undefined ? null : { key: readKey(row), hash: z.string().parse(row['hash']) };
  }

  /** Newest first. @param tenant null for those of all */
  list(tenant: Tenant | null): ApiKey[] {
    const order = 'ORDER BY created_at DESC, id';
    const rows =
      tenant === null
        ? this.#sql.all(`SELECT ${COLUMNS} FROM api_keys ${order}`)
        : this.#sql.all(`SELECT ${COLUMNS} FROM api_keys WHERE tenant = ? ${order}`, tenant);
    return rows.map(readKey);
  }

  /** Refuses a key from now on; one that is revoked stays so since then. @returns whether there is such a key */
  revoke(id: KeyId, now: string): boolean {
    const set = 'UPDATE api_keys SET revoked_at = coalesce(revoked_at, ?) WHERE id = ? RETURNING id';
    return this.#sql.all(set, now, id).length > 0;
  }

  used(id: KeyId, at: string): void {
    this.#sql.all('UPDATE api_keys SET last_used_at = max(coalesce(last_used_at, ?), ?) WHERE id = ?', at, at, id);
  }

  limitsOf(tenant: Tenant): TenantLimits {
    const [row] = this.#sql.all('SELECT limits FROM tenant_limits WHERE tenant = ?', tenant);
    if (row === undefined) return DEFAULT_LIMITS;
    return tenantLimitsSchema.parse(JSON.parse(z.string().parse(row['limits'])));
  }

  setLimits(tenant: Tenant, limits: TenantLimits): void {
    this.#sql.all(
      'INSERT OR REPLACE INTO tenant_limits (tenant, limits) VALUES (?, ?)',
      tenant,
      JSON.stringify(limits),
    );
  }
}

function readKey(row: Record<string, SqlValue>): ApiKey {
  const { id, name, tenant, created_at: createdAt, expires_at: expiresAt } = row;
  const { revoked_at: revokedAt, last_used_at: lastUsedAt } = row;
  const scopes: unknown = JSON.parse(z.string().parse(row['scopes']));
  return apiKeySchema.parse({ id, name, tenant, scopes, createdAt, expiresAt, revokedAt, lastUsedAt });
}
