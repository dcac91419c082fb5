/** What a worker says of itself with every heartbeat. */
import * as z from 'zod';

export const workerIdSchema = z
  .string()
  .regex(/^wrk_[0-9a-f]{32}$/)
  .brand('WorkerId');

/** Names one process: a worker that is started again is another one. */
export type WorkerId = z.output<typeof workerIdSchema>;

export function newWorkerId(): WorkerId {
  return workerIdSchema.parse(`wrk_${crypto.randomUUID().replaceAll('-', '')}`);
}

const count = z.int().min(0);

export const workerReportSchema = z.strictObject({
  id: workerIdSchema,
  /** Where the edge reaches it. */
  url: z.url({ protocol: /^https?$/ }),
  engine: z.string().max(100),
  /** Names the store that its sessions survive in; null where they end with the process. */
  store: z.string().max(2000).nullable(),
  /** Sessions that it can hold. */
  capacity: count.min(1),
  sessions: count,
  /** Steps and other work that wait for its device. */
  queued: count,
  /** Of the states of its sessions. */
  bytes: count,
  /** Whether it is about to end: it takes no new sessions, and gives up those that it has. */
  isDraining: z.boolean(),
  /** Milliseconds from one heartbeat to the next. */
  heartbeatMilliseconds: count.min(1),
});

export type WorkerReport = z.output<typeof workerReportSchema>;

/** Heartbeats that may be missing before a worker counts as lost; as long a lease lasts. */
export const LOST_HEARTBEATS = 3;

/** What the edge answers. */
export const heartbeatAnswerSchema = z.object({
  /** Of sessions that others have left behind, signed as `signLease` does. */
  leases: z.array(z.string()),
});

export type HeartbeatAnswer = z.output<typeof heartbeatAnswerSchema>;
