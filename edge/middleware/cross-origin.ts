/** Which pages of other origins a browser lets call the service (Fetch standard, CORS). */
import type { MiddlewareHandler } from 'hono';
import { cors } from 'hono/cors';
import { API_VERSION_HEADER } from '../../shared/api-version.ts';
import type { EdgeEnv } from '../environment.ts';

/** Stands for every origin of this machine: what a page in development has. */
const LOOPBACK = 'loopback';
const LOOPBACK_HOSTS: readonly string[] = ['localhost', '127.0.0.1', '[::1]'];
const PREFLIGHT_SECONDS = 86_400;

/**
 * @param allowed origins as browsers send them (`https://example.com`), `loopback`, or `*` for all; keys travel in a header that no
 *   browser sends by itself, so that another's page gains nothing by being allowed
 */
export function crossOrigin(allowed: readonly string[]): MiddlewareHandler<EdgeEnv> {
  const forPages = cors({
    origin: (origin) => {
      if (allowed.includes('*')) return '*';
      return allowed.includes(origin) || (allowed.includes(LOOPBACK) && isLoopback(origin)) ? origin : null;
    },
    allowMethods: ['GET', 'PUT', 'POST', 'PATCH', 'DELETE'],
    allowHeaders: ['Authorization', 'Content-Type', API_VERSION_HEADER, 'Last-Event-ID', 'X-Request-Id', 'traceparent'],
    exposeHeaders: [API_VERSION_HEADER, 'Location', 'RateLimit', 'RateLimit-Policy', 'Retry-After', 'X-Request-Id'],
    maxAge: PREFLIGHT_SECONDS,
  });
  return async (c, next) => {
    if (c.req.method === 'OPTIONS' || c.req.header('origin') !== undefined) return forPages(c, next);
    // It comes from no page; a cache is told all the same that a page would be answered otherwise.
    c.header('Vary', 'Origin');
    await next();
    return undefined;
  };
}

function isLoopback(origin: string): boolean {
  return URL.canParse(origin) && LOOPBACK_HOSTS.includes(new URL(origin).hostname);
}

/** Origins of a setting: separated by commas. */
export function originsOf(setting: string): string[] {
  return setting.split(',').flatMap((text) => (text.trim() === '' ? [] : [text.trim()]));
}
