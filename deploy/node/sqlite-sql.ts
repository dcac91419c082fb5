/** A SQLite file as the edge's database under Node. */
import { DatabaseSync, type SQLOutputValue } from 'node:sqlite';
import type { Sql, SqlValue } from '../../edge/state/sql.ts';

export interface SqliteSql extends Sql {
  readonly close: () => void;
}

/** @param file path, or ":memory:". @throws Error if it cannot be opened, or another process has it */
export function openSqliteSql(file: string): SqliteSql {
  const database = new DatabaseSync(file);
  // One process has the file: it is the edge's only memory, and nobody else's.
  database.exec('PRAGMA locking_mode = EXCLUSIVE');
  database.exec('PRAGMA journal_mode = WAL');
  database.exec('BEGIN EXCLUSIVE');
  database.exec('COMMIT');
  return {
    all: (statement, ...bindings) =>
      database
        .prepare(statement)
        .all(...bindings)
        .map((row) => Object.fromEntries(Object.entries(row).map(([column, value]) => [column, sqlValue(value)]))),
    transaction: (work) => {
      database.exec('BEGIN IMMEDIATE');
      try {
        const result = work();
        database.exec('COMMIT');
        return result;
      } catch (error) {
        // A full disk ends the transaction by itself.
        if (database.isTransaction) database.exec('ROLLBACK');
        throw error;
      }
    },
    close: () => {
      database.close();
    },
  };
}

function sqlValue(value: SQLOutputValue): SqlValue {
  if (value === null || typeof value === 'string' || typeof value === 'number') return value;
  throw new TypeError('the edge keeps texts and numbers alone');
}
