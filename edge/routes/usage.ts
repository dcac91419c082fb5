/** GET /v1/usage: what the key's tenant has taken. */
import { createRoute, type OpenAPIHono } from '@hono/zod-openapi';
import { usageListSchema, usageQuerySchema, type DailyUsage, type UsageQuery } from '../../shared/access.ts';
import { ProblemError } from '../../shared/errors.ts';
import { LIMITS } from '../../shared/limits.ts';
import type { Tenant } from '../../shared/tenant.ts';
import type { AccessControl } from '../access/access-control.ts';
import { asking } from '../access/key-ring.ts';
import { tenantOf } from '../middleware/access.ts';
import type { EdgeEnv } from '../environment.ts';
import { problemResponses } from './problem-responses.ts';
import { JSON_TYPE } from './sessions.ts';

const DAY_MILLISECONDS = 86_400_000;
const DAYS = 30;

export const usageAnswer = { [JSON_TYPE]: { schema: usageListSchema } };

export const USAGE_DELAY = `What other isolates of the edge have counted arrives within ${String(LIMITS.usageFlushSeconds)} seconds.`;

const getUsage = createRoute({
  method: 'get',
  tags: ['Usage'],
  path: '/v1/usage',
  summary: 'What the tenant has taken, by day',
  description: `Steps, bytes and seconds of the device’s time. ${USAGE_DELAY}`,
  request: { query: usageQuerySchema },
  responses: {
    200: { description: 'Days with requests', content: usageAnswer },
    ...problemResponses('invalid_parameter'),
  },
});

export function registerUsage(app: OpenAPIHono<EdgeEnv>): void {
  app.openapi(getUsage, async (c) => {
    const days = await usageBetween(c.get('access'), tenantOf(c), c.req.valid('query'));
    return c.json({ days }, 200);
  });
}

/** @param tenant null for all. @throws ProblemError `access_unavailable`, `invalid_parameter` */
export async function usageBetween(
  access: AccessControl,
  tenant: Tenant | null,
  { from, to }: UsageQuery,
): Promise<DailyUsage[]> {
  const now = Date.now();
  const last = to ?? isoDay(now);
  const first = from ?? isoDay((to === undefined ? now : Date.parse(to)) - DAYS * DAY_MILLISECONDS);
  if (first > last) {
    throw new ProblemError('invalid_parameter', {
      param: 'from',
      detail: `from is ${first}, after ${last}, the last day.`,
      remedy: 'Ask for days in their order, as ?from=2026-01-01&to=2026-01-31.',
    });
  }
  return asking(async () => {
    await access.usage.flushAll();
    return access.directory.usage(tenant, first, last);
  });
}

function isoDay(milliseconds: number): string {
  return new Date(milliseconds).toISOString().slice(0, 10);
}
