/** What there is to say of an answered request: never a key, nor a tensor. */
import type { Context, MiddlewareHandler } from 'hono';
import { routePath } from 'hono/route';
import { LOCAL_TENANT } from '../../shared/tenant.ts';
import { traceIdOf } from '../../shared/trace-context.ts';
import { WORKER_HEADER } from '../../shared/worker-protocol.ts';

export interface RequestRecord {
  readonly requestId: string;
  readonly method: string;
  /** The pattern, not the path: few values. */
  readonly route: string;
  readonly status: number;
  readonly milliseconds: number;
  readonly bytesIn: number;
  /** Of tensors; documents are not counted. */
  readonly bytesOut: number;
  readonly tenant: string;
  readonly session?: string;
  readonly step?: number;
  /** Of a problem. */
  readonly code?: string;
  /** Of the trace that the client began. */
  readonly traceId?: string;
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
