/** Which worker owns a session, as request handlers ask for it. */
import { sessionQuotaExceeded } from '../../shared/access.ts';
import { ProblemError } from '../../shared/errors.ts';
import { signLease } from '../../shared/lease.ts';
import { LIMITS } from '../../shared/limits.ts';
import type { SessionId } from '../../shared/session.ts';
import type { Tenant } from '../../shared/tenant.ts';
import type { Signer } from '../../shared/signature.ts';
import { withDeadline } from '../deadline.ts';
import type { FailedLease, PlacedLease, PlacementDirectory } from './placement-directory.ts';

/** The way to a session's worker. */
export interface Route {
  /** Base URL of the worker. */
  readonly url: string;
  /** The signed lease, and what of it concerns the edge; null where all sessions are on one worker for good. */
  readonly lease: { readonly token: string; readonly epoch: number; readonly expires: number } | null;
}

export interface Placement {
  /**
   * Finds a place for a session that is about to begin, and counts it as its tenant's.
   *
   * @param quota sessions that the tenant may hold; null for no limit. The one worker of a configuration counts its own
   * @throws ProblemError `quota_exceeded`, `worker_unavailable`
   */
  readonly reserve: (session: SessionId, tenant: Tenant, quota: number | null) => Promise<void>;
  /** The way to the worker that owns the session, or is to own it. @throws ProblemError `worker_unavailable` */
  readonly route: (session: SessionId) => Promise<Route>;
  /** Another way, after one has failed; null if there can be none. @throws ProblemError `worker_unavailable` */
  readonly reroute: (
    session: SessionId,
    failed: Route,
    failure: FailedLease['reason'],
    epoch: number,
  ) => Promise<Route | null>;
  /** Forgets a session that there is not, or not any more. */
  readonly release: (session: SessionId, route: Route) => Promise<void>;
  /** Base URL of a worker for what needs no session. @throws ProblemError `worker_unavailable` */
  readonly anyWorker: () => Promise<string>;
  /** Tells that such a worker cannot be reached. */
  readonly unreachable: (url: string) => Promise<void>;
  /** Where workers register; null where there is one for good. */
  readonly directory: AsyncDirectory | null;
}

type Method = 'heartbeat' | 'leave' | 'lease' | 'reserve' | 'release' | 'anyWorker' | 'workers';

/** The directory, wherever it is. */
export type AsyncDirectory = {
  readonly [Name in Method]: (
    ...parameters: Parameters<PlacementDirectory[Name]>
  ) => Promise<ReturnType<PlacementDirectory[Name]>>;
};

/** All sessions on the one worker of the configuration. */
export function singleWorker(url: string): Placement {
  const base = url.replace(/\/+$/, '');
  return {
    reserve: () => Promise.resolve(),
    route: () => Promise.resolve({ url: base, lease: null }),
    reroute: () => Promise.resolve(null),
    release: () => Promise.resolve(),
    anyWorker: () => Promise.resolve(base),
    unreachable: () => Promise.resolve(),
    directory: null,
  };
}

/** Ways that an isolate remembers. */
const REMEMBERED_ROUTES = 10_000;
/** Milliseconds for which the least busy worker is taken to be that. */
const ANY_WORKER_MILLISECONDS = 5000;

/** Sessions on the workers that have registered. Leases are remembered until they expire. */
export function registeredWorkers(remote: AsyncDirectory, signer: Signer, now: () => number): Placement {
  const directory = reachable(remote);
  const routes = new Map<SessionId, Route>();
  let any: { readonly url: string; readonly until: number } | null = null;

  async function ask(session: SessionId, failed: FailedLease | null): Promise<Route> {
    const placed = await directory.lease(session, failed);
    if (placed === null) {
      routes.delete(session);
      throw noWorkerFor();
    }
    return remember(session, placed);
  }

  async function remember(session: SessionId, { lease, url }: PlacedLease): Promise<Route> {
    const token = await signLease(lease, signer);
    const route: Route = { url, lease: { token, epoch: lease.epoch, expires: lease.expires } };
    // Somebody else may have asked meanwhile, and later.
    const known = routes.get(session);
    if (known?.lease != null && known.lease.epoch > lease.epoch) return known;
    // The longest not asked for is forgotten first.
    routes.delete(session);
    routes.set(session, route);
    const [oldest] = routes.keys();
    if (routes.size > REMEMBERED_ROUTES && oldest !== undefined) routes.delete(oldest);
    return route;
  }

  return {
    reserve: async (session, tenant, quota) => {
      const reservation = await directory.reserve(session, tenant, quota);
      if (reservation === null) throw noWorkerFor();
      if ('held' in reservation) throw sessionQuotaExceeded(tenant, reservation.held);
      await remember(session, reservation);
    },
    route: async (session) => {
      const known = routes.get(session);
      return known?.lease != null && known.lease.expires > now() ? known : ask(session, null);
    },
    reroute: (session, failed, reason, epoch) =>
      ask(session, { reason, epoch: Math.max(failed.lease?.epoch ?? 0, epoch) }),
    release: async (session, { lease }) => {
      routes.delete(session);
      if (lease !== null) await directory.release(session, lease.epoch);
    },
    anyWorker: async () => {
      if (any !== null && any.until > now()) return any.url;
      const url = await directory.anyWorker(null);
      if (url === null) throw noWorker('No worker is registered and answers.');
      any = { url, until: now() + ANY_WORKER_MILLISECONDS };
      return url;
    },
    unreachable: async (url) => {
      any = null;
      await directory.anyWorker(url);
    },
    directory,
  };
}

/** The directory, whose failures that pass are problems of the service. */
function reachable(directory: AsyncDirectory): AsyncDirectory {
  return {
    heartbeat: (report) => reached(() => directory.heartbeat(report)),
    leave: (id) => reached(() => directory.leave(id)),
    lease: (session, failed) => reached(() => directory.lease(session, failed)),
    reserve: (session, tenant, quota) => reached(() => directory.reserve(session, tenant, quota)),
    release: (session, epoch) => reached(() => directory.release(session, epoch)),
    anyWorker: (failed) => reached(() => directory.anyWorker(failed)),
    workers: () => reached(() => directory.workers()),
  };
}

/**
 * What the directory answers. A Durable Object that cannot be reached, or has too much to do, says so of its error:
 * https://developers.cloudflare.com/durable-objects/best-practices/error-handling/
 *
 * @throws ProblemError `worker_unavailable` if it may answer later
 */
async function reached<Result>(ask: () => Promise<Result>): Promise<Result> {
  try {
    return await withDeadline(LIMITS.answerMilliseconds, noDirectory, ask);
  } catch (cause) {
    const { retryable, overloaded } = cause as { readonly retryable?: boolean; readonly overloaded?: boolean };
    if (retryable !== true && overloaded !== true) throw cause;
    throw noDirectory(cause);
  }
}

function noDirectory(cause?: unknown): ProblemError {
  return new ProblemError(
    'worker_unavailable',
    { detail: 'The placement directory does not answer.', remedy: 'Send the same request again in a second.' },
    { cause },
  );
}

function noWorkerFor(): ProblemError {
  return noWorker('No worker that could take the session is registered and answers.');
}

function noWorker(detail: string): ProblemError {
  return new ProblemError('worker_unavailable', {
    detail,
    remedy: 'Send the same request again in a second; if it stays, start a worker with DDPNOPT_EDGE_URL.',
  });
}
