/** What the worker says of a request that was answered. */
import type { Context, MiddlewareHandler } from 'hono';
import { routePath } from 'hono/route';
import type { AnsweredRequest } from '../../shared/request-record.ts';
import { LOCAL_TENANT } from '../../shared/tenant.ts';
import { traceIdOf } from '../../shared/trace-context.ts';
import { WORKER_HEADER } from '../../shared/worker-protocol.ts';

/** Of an answer's bytes those of tensors are counted; documents are not. */
export interface RequestRecord extends AnsweredRequest {
  readonly tenant: string;
}

/** What a handler adds to its request's record. */
export interface RecordVariables {
  problemCode?: string;
}

/** Reports every request when its answer is made. @param elapsed milliseconds */
export function recordRequests(
  elapsed: () => number,
  report: (record: RequestRecord, headers: Headers) => void,
): MiddlewareHandler<{ Variables: RecordVariables }> {
  return async (c, next) => {
    const begun = elapsed();
    await next();
    report(recordOf(c, elapsed() - begun), c.req.raw.headers);
  };
}

function recordOf(c: Context<{ Variables: RecordVariables }>, milliseconds: number): RequestRecord {
  // The last one that matched: the handler's, after those of middleware.
  const route = routePath(c, -1);
  const session = c.req.param('id');
  const step = c.req.param('n');
  const code = c.get('problemCode');
  const traceId = traceIdOf(c.req.raw.headers);
  return {
    requestId: c.req.header(WORKER_HEADER.requestId) ?? 'none',
    method: c.req.method,
    route,
    status: c.res.status,
    milliseconds: Math.round(1000 * milliseconds) / 1000,
    bytesIn: Number(c.req.header('content-length') ?? 0),
    bytesOut: Number(c.res.headers.get('content-length') ?? 0),
    tenant: c.req.header(WORKER_HEADER.tenant) ?? LOCAL_TENANT,
    ...(session?.startsWith('ses_') === true ? { session } : {}),
    ...(step !== undefined && /^\d{1,15}$/.test(step) ? { step: Number(step) } : {}),
    ...(code === undefined ? {} : { code }),
    ...(traceId === undefined ? {} : { traceId }),
  };
}
