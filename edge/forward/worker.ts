/** Calls to the worker that owns a session. */
import type { Context } from 'hono';
import { PROBLEM_CONTENT_TYPE, ProblemError, problemSchema } from '../../shared/errors.ts';
import type { SessionId } from '../../shared/session.ts';
import type { EdgeEnv } from '../environment.ts';
import { singleWorker } from '../placement/placement.ts';

/**
 * Sends a request to the session's worker.
 *
 * @param path below the session: '' or '/steps/3'
 * @returns the worker's answer, which is a success
 * @throws ProblemError the worker's own problem; `worker_unavailable` if no answer comes; `worker_protocol` if it is no success
 *   and no problem either
 */
export async function callWorker(
  c: Context<EdgeEnv>,
  session: SessionId,
  path: string,
  init: { method: string; body?: BodyInit; headers?: Record<string, string> },
): Promise<Response> {
  const base = singleWorker(c.env.WORKER_URL).workerFor(session);
  let response: Response;
  try {
    response = await fetch(`${base}/sessions/${session}${path}`, {
      ...init,
      headers: { ...init.headers, 'x-request-id': c.get('requestId') },
    });
  } catch (cause) {
    throw new ProblemError(
      'worker_unavailable',
      { detail: 'The worker of this session does not answer.', remedy: 'Send the same request again in a second.' },
      { cause },
    );
  }
  if (response.ok) return response;
  throw await problemOf(response);
}

async function problemOf(response: Response): Promise<ProblemError> {
  if (response.headers.get('content-type') === PROBLEM_CONTENT_TYPE) {
    const parsed = problemSchema.safeParse(await response.json());
    if (parsed.success) {
      const { code, detail, remedy, param, expectedStep } = parsed.data;
      return new ProblemError(code, {
        detail,
        remedy,
        ...(param === undefined ? {} : { param }),
        ...(expectedStep === undefined ? {} : { expectedStep }),
      });
    }
  }
  return unexpectedAnswer(`status ${String(response.status)} without a problem document`);
}

export function unexpectedAnswer(what: string, cause?: unknown): ProblemError {
  return new ProblemError(
    'worker_protocol',
    { detail: `The worker answered with ${what}.`, remedy: 'Deploy edge and worker of the same version.' },
    { cause },
  );
}
