/** Every failure leaves the edge as an RFC 9457 problem document. */
import type { Context } from 'hono';
import { HTTPException } from 'hono/http-exception';
import { internalProblem, PROBLEM_CONTENT_TYPE, ProblemError } from '../../shared/errors.ts';
import { LIMITS } from '../../shared/limits.ts';
import type { EdgeEnv } from '../environment.ts';

const RETRY_AFTER_SECONDS = '1';

export async function answerProblem(error: Error, c: Context<EdgeEnv>): Promise<Response> {
  await drain(c.req.raw.body);
  const requestId = c.get('requestId');
  const problem = asProblem(error);
  if (problem.code === 'internal') {
    console.error(JSON.stringify({ event: 'defect', requestId, error: error.stack ?? error.message }));
  }
  const headers = new Headers({ 'content-type': PROBLEM_CONTENT_TYPE });
  if (problem.retryable) headers.set('retry-after', RETRY_AFTER_SECONDS);
  return c.newResponse(JSON.stringify(problem.toProblem(requestId)), { status: problem.status, headers });
}

/**
 * Reads and drops a bounded part of a refused body. Closing at once would reset the connection while the client still writes,
 * and it would see the reset instead of the answer.
 */
async function drain(body: ReadableStream<Uint8Array> | null): Promise<void> {
  if (body === null || body.locked) return;
  const reader = body.getReader();
  try {
    for (let drained = 0; drained < LIMITS.drainBytes;) {
      const { done, value } = await reader.read();
      if (done) return;
      drained += value.length;
    }
    await reader.cancel();
  } catch {
    // The client has stopped sending: there is nothing left to drain.
  }
}

function asProblem(error: Error): ProblemError {
  if (error instanceof ProblemError) return error;
  // Hono's validator throws this for a JSON body that does not parse.
  if (error instanceof HTTPException && error.status === 400) {
    return new ProblemError(
      'malformed_json',
      { detail: `${error.message}.`, remedy: 'Send one JSON document, encoded in UTF-8.' },
      { cause: error },
    );
  }
  return internalProblem(error);
}

export function noSuchRoute(c: Context<EdgeEnv>): never {
  throw new ProblemError('route_not_found', {
    detail: `There is no ${c.req.method} ${c.req.path}.`,
    remedy: 'The resources are listed in /openapi.json and, for people, in /docs.',
  });
}
