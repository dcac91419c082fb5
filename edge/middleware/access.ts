/** Lets a request through to its handler if its key allows it and its limits are not used up, and says what is left of them. */
import type { Context, MiddlewareHandler } from 'hono';
import type { RateLimit } from '../access/access-control.ts';
import { scopeOf } from '../access/scopes.ts';
import { ProblemError } from '../../shared/errors.ts';
import type { Tenant } from '../../shared/tenant.ts';
import type { EdgeEnv } from '../environment.ts';

export function controlAccess(): MiddlewareHandler<EdgeEnv> {
  return async (c, next) => {
    const { method, path } = c.req;
    const scope = scopeOf(method, path);
    if (scope === null) {
      await next();
      return;
    }
    const access = c.get('access');
    try {
      const principal = await access.authorise(c.req.raw, scope);
      c.set('principal', principal);
      const isWork = (scope === 'sessions:write' || scope === 'checkpoints') && method !== 'GET' && method !== 'DELETE';
      access.admit(principal, isWork, (limits) => {
        // https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/
        c.header('RateLimit-Policy', limits.map(policy).join(', '));
        c.header('RateLimit', limits.map(state).join(', '));
      });
    } catch (error) {
      if (error instanceof ProblemError && error.code === 'unauthenticated') {
        c.header('WWW-Authenticate', 'Bearer realm="ddpnopt"');
      }
      throw error;
    }
    await next();
  };
}

function policy({ name, quota, window }: RateLimit): string {
  const unit = name === 'bytes' ? ';qu="content-bytes"' : '';
  return `"${name}";q=${String(quota)};w=${String(window)}${unit}`;
}

function state({ name, remaining, reset }: RateLimit): string {
  return `"${name}";r=${String(remaining)};t=${String(reset)}`;
}

/** Whose request it is. @throws TypeError on a route that everybody may call */
export function tenantOf(c: Context<EdgeEnv>): Tenant {
  const principal = c.get('principal');
  if (principal === undefined) throw new TypeError(`${c.req.path} has no tenant`);
  return principal.tenant;
}
