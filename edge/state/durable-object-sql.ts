/** The database of a Durable Object. */
import type { Sql, SqlValue } from './sql.ts';

export function durableObjectSql(storage: DurableObjectStorage): Sql {
  return {
    all: (statement, ...bindings) => storage.sql.exec<Record<string, SqlValue>>(statement, ...bindings).toArray(),
    transaction: (work) => storage.transactionSync(work),
  };
}
