/** What every tenant has taken, by day. Reports of isolates are added to it, each once however often it is sent. */
import * as z from 'zod';
import { NO_USAGE, dailyUsageSchema, type DailyUsage, type Usage } from '../../shared/access.ts';
import type { Tenant } from '../../shared/tenant.ts';
import type { Sql, SqlValue } from '../state/sql.ts';

/** Milliseconds after which an isolate that has sent nothing is forgotten. */
const REPORTER_RETENTION = 86_400_000;

/** What an isolate has counted since its last report. */
export interface UsageReport {
  /** Random name of the isolate. */
  readonly reporter: string;
  /** From 1 on, without gaps: a report that is sent again has its number again. */
  readonly sequence: number;
  readonly days: readonly DailyUsage[];
}

export class UsageLedger {
  readonly #sql: Sql;

  constructor(sql: Sql) {
    this.#sql = sql;
    sql.all(`CREATE TABLE IF NOT EXISTS usage (
      tenant TEXT NOT NULL, day TEXT NOT NULL, requests INTEGER NOT NULL, steps INTEGER NOT NULL,
      bytes_in INTEGER NOT NULL, bytes_out INTEGER NOT NULL, compute_seconds REAL NOT NULL, PRIMARY KEY (tenant, day))`);
    sql.all(`CREATE TABLE IF NOT EXISTS usage_reporters (
      reporter TEXT PRIMARY KEY, sequence INTEGER NOT NULL, reported_at INTEGER NOT NULL)`);
  }

  /** @param now milliseconds since the epoch */
  add({ reporter, sequence, days }: UsageReport, now: number): void {
    this.#sql.transaction(() => {
      const [last] = this.#sql.all('SELECT sequence FROM usage_reporters WHERE reporter = ?', reporter);
      if (last !== undefined && z.number().parse(last['sequence']) >= sequence) return;
      this.#sql.all(
        'INSERT OR REPLACE INTO usage_reporters (reporter, sequence, reported_at) VALUES (?, ?, ?)',
        reporter,
        sequence,
        now,
      );
      this.#sql.all('DELETE FROM usage_reporters WHERE reported_at < ?', now - REPORTER_RETENTION);
      for (const { tenant, day, requests, steps, bytesIn, bytesOut, computeSeconds } of days) {
        this.#sql.all(
          `INSERT INTO usage (tenant, day, requests, steps, bytes_in, bytes_out, compute_seconds) VALUES (?, ?, ?, ?, ?, ?, ?)
           ON CONFLICT (tenant, day) DO UPDATE SET requests = requests + excluded.requests, steps = steps + excluded.steps,
             bytes_in = bytes_in + excluded.bytes_in, bytes_out = bytes_out + excluded.bytes_out,
             compute_seconds = compute_seconds + excluded.compute_seconds`,
          tenant,
          day,
          requests,
          steps,
          bytesIn,
          bytesOut,
          computeSeconds,
        );
      }
    });
  }

  on(tenant: Tenant, day: string): Usage {
    const [row] = this.#sql.all('SELECT * FROM usage WHERE tenant = ? AND day = ?', tenant, day);
    return row === undefined ? NO_USAGE : readUsage(row);
  }

  /** Latest day first. @param tenant null for all */
  between(tenant: Tenant | null, from: string, to: string): DailyUsage[] {
    const order = 'ORDER BY day DESC, tenant';
    const rows =
      tenant === null
        ? this.#sql.all(`SELECT * FROM usage WHERE day BETWEEN ? AND ? ${order}`, from, to)
        : this.#sql.all(`SELECT * FROM usage WHERE tenant = ? AND day BETWEEN ? AND ? ${order}`, tenant, from, to);
    return rows.map(readUsage);
  }
}

function readUsage(row: Record<string, SqlValue>): DailyUsage {
  const { tenant, day, requests, steps, bytes_in: bytesIn, bytes_out: bytesOut, compute_seconds: computeSeconds } = row;
  return dailyUsageSchema.parse({ tenant, day, requests, steps, bytesIn, bytesOut, computeSeconds });
}
