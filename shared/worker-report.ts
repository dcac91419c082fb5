/** What a worker says of itself with every heartbeat. */
import * as z from 'zod';
import { sessionIdSchema } from './session.ts';
import { tenantSchema } from './tenant.ts';

export const workerIdSchema = z
  .string()
  .regex(/^wrk_[0-9a-f]{32}$/)
  .brand('WorkerId');

/** Names one process: a worker that is started again is another one. */
export type WorkerId = z.output<typeof workerIdSchema>;

export function newWorkerId(): WorkerId {
  return workerIdSchema.parse(`wrk_${crypto.randomUUID().replaceAll('-', '')}`);
}

/** Sessions that have begun or ended, of which one heartbeat tells at most. */
export const CHANGES_AT_ONCE = 100;

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
  /** Sessions that it has since a while ago, and whose; those that are over for good with null: expired, deleted, or in no store. */
  changes: z
    .array(z.strictObject({ session: sessionIdSchema, tenant: tenantSchema.nullable() }))
    .max(CHANGES_AT_ONCE)
    .default([]),
  /** Milliseconds from one heartbeat to the next. */
  heartbeatMilliseconds: count.min(1),
});

export type WorkerReport = z.output<typeof workerReportSchema>;

export type SessionChange = WorkerReport['changes'][number];

/** Heartbeats that may be missing before a worker counts as lost; as long a lease lasts. */
export const LOST_HEARTBEATS = 3;

/** What the edge answers. */
export const heartbeatAnswerSchema = z.object({
  /** Of sessions that others have left behind, signed as `signLease` does. */
  leases: z.array(z.string()),
});

export type HeartbeatAnswer = z.output<typeof heartbeatAnswerSchema>;
