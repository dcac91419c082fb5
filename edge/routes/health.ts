/** GET /healthz: the edge answers. GET /readyz: its worker does, too. */
import { createRoute, type OpenAPIHono } from '@hono/zod-openapi';
import * as z from 'zod';
import type { EdgeEnv } from '../environment.ts';
import { assertAnyAlive } from '../forward/worker.ts';
import { problemResponses } from './problem-responses.ts';

const statusSchema = z.object({ status: z.literal('ok') }).meta({ id: 'Status' });
const answer = { 'application/json': { schema: statusSchema } };

const health = createRoute({
  method: 'get',
  tags: ['Health'],
  path: '/healthz',
  summary: 'Whether the edge is alive',
  responses: { 200: { description: 'It is', content: answer } },
});

const readiness = createRoute({
  method: 'get',
  tags: ['Health'],
  path: '/readyz',
  summary: 'Whether steps can be taken',
  responses: {
    200: { description: 'Edge and worker answer', content: answer },
    ...problemResponses('worker_unavailable', 'worker_timeout'),
  },
});

export function registerHealth(app: OpenAPIHono<EdgeEnv>): void {
  app.openapi(health, (c) => c.json({ status: 'ok' as const }, 200));
  app.openapi(readiness, async (c) => {
    await assertAnyAlive(c);
    return c.json({ status: 'ok' as const }, 200);
  });
}
