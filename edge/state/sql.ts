/**
 * What the edge remembers, in SQL: within a Durable Object on Cloudflare, in a SQLite file under Node. What is kept and why is
 * written once, in classes over this interface. Both stores are SQLite, and both are synchronous.
 */

export type SqlValue = string | number | null;

export interface Sql {
  /** Runs one statement, `?` its bindings. @returns its rows, by column */
  readonly all: (statement: string, ...bindings: SqlValue[]) => Record<string, SqlValue>[];
  /** Keeps all that the work changes, or nothing if it throws. Not to be nested. */
  readonly transaction: <Result>(work: () => Result) => Result;
}
