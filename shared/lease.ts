/**
 * Leases: which worker owns a session. The epoch grows by one whenever a session changes hands, so that of two workers that both
 * believe to own it everybody can tell the later one.
 */
import * as z from 'zod';
import { sessionIdSchema } from './session.ts';
import type { Signer } from './signature.ts';
import { workerIdSchema } from './worker-report.ts';

export const leaseSchema = z.object({
  session: sessionIdSchema,
  worker: workerIdSchema,
  /** From 1. */
  epoch: z.coerce.number().int().min(1),
  /** When to ask for it again, in milliseconds since the Unix epoch. */
  expires: z.coerce.number().int(),
});

export type Lease = z.output<typeof leaseSchema>;

const LEASE_TEXT = 'ddpnopt-lease';

/** @returns the lease as a text of one line that a worker can check */
export async function signLease({ session, worker, epoch, expires }: Lease, signer: Signer): Promise<string> {
  const text = [session, worker, epoch, expires].join('.');
  return `${text}.${await signer.sign(`${LEASE_TEXT}\n${text}`)}`;
}

/** @returns null for what was not signed with the same secret */
export async function verifyLease(token: string, signer: Signer): Promise<Lease | null> {
  const end = token.lastIndexOf('.');
  const text = token.slice(0, Math.max(0, end));
  if (!(await signer.verify(`${LEASE_TEXT}\n${text}`, token.slice(end + 1)))) return null;
  const [session, worker, epoch, expires] = text.split('.');
  return leaseSchema.parse({ session, worker, epoch, expires });
}
