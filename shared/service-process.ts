/** What a process of the service tells whoever started it, through the channel of child_process.fork. */
import * as z from 'zod';

export const processReadySchema = z.object({
  event: z.literal('ready'),
  /** Where it serves. */
  url: z.url(),
  /** The tensor engine, if the process has one. */
  engine: z.string().optional(),
  /** Where it keeps what survives it, if it keeps anything; "memory" for nowhere. */
  storage: z.string().optional(),
});

export type ProcessReady = z.output<typeof processReadySchema>;
