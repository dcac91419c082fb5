/** Which requests edge and worker write a line about. */
import * as z from 'zod';

export const logLevelSchema = z.enum(['info', 'warn']).default('warn');

export type LogLevel = z.output<typeof logLevelSchema>;

/** `info`: every request; `warn`: those that the service failed. */
export function isLogged(level: LogLevel, status: number): boolean {
  return level === 'info' || status >= 500;
}
