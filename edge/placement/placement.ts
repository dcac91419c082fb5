/** Which worker owns a session. */
import type { SessionId } from '../../shared/session.ts';

/** The right to call a session's worker, and until when it need not be asked for again. */
export interface Lease {
  /** Base URL of the worker. */
  readonly url: string;
}

export interface Placement {
  /** The worker that owns the session, or is to own it. @throws ProblemError `worker_unavailable` */
  readonly lease: (session: SessionId) => Promise<Lease>;
  /** Base URL of a worker for what needs no session. @throws ProblemError `worker_unavailable` */
  readonly anyWorker: () => Promise<string>;
}

/** All sessions on the one worker of the configuration. */
export function singleWorker(url: string): Placement {
  const base = url.replace(/\/+$/, '');
  return { lease: () => Promise.resolve({ url: base }), anyWorker: () => Promise.resolve(base) };
}
