/** Every failure leaves the edge as an RFC 9457 problem document. */
import type { Context, Hono } from 'hono';
import { HTTPException } from 'hono/http-exception';
import { internalProblem, PROBLEM_CONTENT_TYPE, ProblemError } from '../../shared/errors.ts';
import { LIMITS } from '../../shared/limits.ts';
import type { EdgeEnv } from '../environment.ts';

export async function answerProblem(error: Error, c: Context<EdgeEnv>): Promise<Response> {
  await drain(c.req.raw.body);
  const requestId = c.get('requestId');
  const problem = asProblem(error);
  // What arrives as `internal` from the worker is logged there.
  if (!(error instanceof ProblemError) && problem.code === 'internal') {
    c.get('platform').log({ event: 'defect', requestId, error: error.stack ?? error.message }, problem.status);
  }
  c.set('problemCode', problem.code);
  const headers = new Headers({ 'content-type': PROBLEM_CONTENT_TYPE });
  if (problem.retryAfter !== null) headers.set('retry-after', problem.retryAfter);
  return c.newResponse(JSON.stringify(problem.toProblem(requestId)), { status: problem.status, headers });
}

/**
 * Reads and drops a refused body, for a bounded time. Closing at once would reset the connection while the client still writes,
 * and it would see the reset instead of the answer; waiting for the end would keep one waiting that sends nothing more.
 */
async function drain(body: ReadableStream<Uint8Array> | null): Promise<void> {
  if (body === null || body.locked) return;
  // It ends early when the client stops sending, which is no error here.
  const drained = body.pipeTo(new WritableStream()).catch(() => undefined);
  const timeout = new Promise((resolve) => setTimeout(resolve, LIMITS.drainMilliseconds));
  await Promise.race([drained, timeout]);
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

/** Answers 405 with the methods there are, on every path that has a route. To be called when all routes are registered. */
export function refuseOtherMethods(app: Hono<EdgeEnv>): void {
  const methods = new Map<string, Set<string>>();
  for (const { path, method } of app.routes) {
    // Middleware is registered for every method.
    if (method === 'ALL') continue;
    methods.set(path, (methods.get(path) ?? new Set()).add(method));
  }
  for (const [path, allowed] of methods) {
    const list = [...allowed].join(', ');
    app.all(path, (c) => {
      c.header('Allow', list);
      throw new ProblemError('method_not_allowed', {
        detail: `${c.req.method} ${c.req.path}: this resource takes ${list}.`,
        remedy: `Use ${list}; /openapi.json describes each.`,
      });
    });
  }
}
