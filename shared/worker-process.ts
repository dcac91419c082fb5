/** What a worker process tells whoever started it, on standard output and, if it was forked, through its channel. */
import * as z from 'zod';

export const workerReadySchema = z.object({
  event: z.literal('ready'),
  /** Where it serves. */
  url: z.url(),
  engine: z.string(),
});

export type WorkerReady = z.output<typeof workerReadySchema>;
