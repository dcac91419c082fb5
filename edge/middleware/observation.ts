/** Every request leaves one record: counted, logged, and accounted to its tenant. It says nothing of keys but their public ids. */
import type { Context, MiddlewareHandler } from 'hono';
import { routePath } from 'hono/route';
import { JSON_CONTENT_TYPE } from '../../shared/json-tensors.ts';
import { mediaType, PROBLEM_CONTENT_TYPE } from '../../shared/errors.ts';
import { isLogged } from '../../shared/log-level.ts';
import { traceIdOf } from '../../shared/trace-context.ts';
import type { EdgeEnv } from '../environment.ts';
import type { EdgeMetrics } from '../metrics/edge-metrics.ts';
import type { RequestRecord } from '../metrics/request-record.ts';

export function observeRequests(metrics: EdgeMetrics): MiddlewareHandler<EdgeEnv> {
  return async (c, next) => {
    const begun = performance.now();
    const reported = { steps: 0, computeSeconds: 0 };
    c.set('reported', reported);
    await next();
    const record = recordOf(c, performance.now() - begun, await lengthOf(c));
    metrics.answered(record);
    const { log, logLevel } = c.get('platform');
    if (isLogged(logLevel, record.status)) log({ event: 'request', side: 'edge', ...record }, record.status);
    const principal = c.get('principal');
    const { bytesIn, bytesOut } = record;
    if (principal !== undefined) c.get('access').account(principal, { requests: 1, ...reported, bytesIn, bytesOut });
  };
}

/** Bytes of the answer's body. A document’s are counted as it is made; a stream without a length counts as none. */
async function lengthOf(c: Context<EdgeEnv>): Promise<number> {
  const announced = c.res.headers.get('content-length');
  if (announced !== null) return Number(announced);
  const type = mediaType(c.res.headers.get('content-type'));
  if (c.res.body === null || (type !== JSON_CONTENT_TYPE && type !== PROBLEM_CONTENT_TYPE)) return 0;
  const document = await c.res.arrayBuffer();
  c.res = new Response(document, c.res);
  return document.byteLength;
}

function recordOf(c: Context<EdgeEnv>, milliseconds: number, bytesOut: number): RequestRecord {
  const principal = c.get('principal');
  const [, session] = /^\/v1\/sessions\/(ses_[0-9a-f]{32})(?:\/|$)/.exec(c.req.path) ?? [];
  const [, step] = /\/steps\/(\d{1,15})(?:\/|$)/.exec(c.req.path) ?? [];
  const code = c.get('problemCode');
  const traceId = traceIdOf(c.req.raw.headers);
  const route = routePath(c, -1);
  return {
    requestId: c.get('requestId'),
    method: c.req.method,
    route: route === '/*' ? 'none' : route,
    status: c.res.status,
    milliseconds: Math.round(1000 * milliseconds) / 1000,
    bytesIn: Number(c.req.header('content-length') ?? 0),
    bytesOut,
    ...c.get('reported'),
    ...(principal === undefined ? {} : { tenant: principal.tenant }),
    ...(principal?.key == null ? {} : { key: principal.key }),
    ...(session === undefined ? {} : { session }),
    ...(step === undefined ? {} : { step: Number(step) }),
    ...(code === undefined ? {} : { code }),
    ...(traceId === undefined ? {} : { traceId }),
  };
}
