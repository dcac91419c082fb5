/** Who may call the worker: the edge, which signs its calls, and about a session only with a lease that names this worker. */
import type { MiddlewareHandler } from 'hono';
import { verifyLease } from '../../shared/lease.ts';
import { LIMITS } from '../../shared/limits.ts';
import { sessionMoved } from '../../shared/session.ts';
import type { Signer } from '../../shared/signature.ts';
import { callRefused, SIGNED_CALL_HEADER, verifyCall } from '../../shared/signed-call.ts';
import type { WorkerId } from '../../shared/worker-report.ts';
import { WORKER_HEADER } from '../../shared/worker-protocol.ts';
import type { SessionRegistry } from '../session/registry.ts';
import type { WorkerEnv } from './app.ts';

/** Where anybody may ask whether the worker is alive, and what it has counted. */
const OPEN_PATHS: readonly string[] = ['/healthz', '/metrics'];

/**
 * Lets through what is signed, after the sessions have been told in which epoch this worker owns the one concerned.
 *
 * @param worker null where it has not registered: it owns all its sessions for good
 */
export function authentication(
  signer: Signer,
  worker: WorkerId | null,
  sessions: Pick<SessionRegistry, 'own'>,
): MiddlewareHandler<WorkerEnv> {
  return async (c, next) => {
    const { method = 'GET', url: path = '/', headers } = c.env.incoming;
    if (OPEN_PATHS.includes(path)) return next();
    const token = c.req.header(SIGNED_CALL_HEADER.lease) ?? '';
    const length = Number(headers['content-length'] ?? 0);
    const now = Date.now();
    const tenant = c.req.header(WORKER_HEADER.tenant) ?? '';
    const call = { method, path, length, lease: token, tenant, digest: '' };
    await verifyCall(call, (name) => c.req.header(name), signer, now);
    if (worker !== null && path.startsWith('/sessions/')) {
      const lease = await verifyLease(token, signer);
      if (lease === null || !`${path}/`.startsWith(`/sessions/${lease.session}/`)) {
        throw callRefused('it has no lease of this session, signed with this secret');
      }
      if (lease.expires < now - 1000 * LIMITS.clockSkewSeconds) throw callRefused('its lease has expired');
      // The address was another process's, which has ended.
      if (lease.worker !== worker) throw sessionMoved(lease.session, lease.epoch);
      sessions.own(lease.session, lease.epoch);
    }
    return next();
  };
}
