/** Which worker owns a session. */
import type { SessionId } from '../../shared/session.ts';

export interface Placement {
  /** Base URL of the worker that owns the session, or is to own it. */
  readonly workerFor: (session: SessionId) => string;
  /** Base URL of a worker for what needs no session. */
  readonly anyWorker: () => string;
}

/** All sessions on the one worker of the configuration. */
export function singleWorker(url: string): Placement {
  const base = url.replace(/\/+$/, '');
  return { workerFor: () => base, anyWorker: () => base };
}
