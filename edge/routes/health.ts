/** GET /healthz: the edge answers. GET /readyz: its worker does, too. */
import { createRoute, type OpenAPIHono } from '@hono/zod-openapi';
import * as z from 'zod';
import { ProblemError } from '../../shared/errors.ts';
import type { EdgeEnv } from '../environment.ts';
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
    ...problemResponses('worker_unavailable'),
  },
});

export function registerHealth(app: OpenAPIHono<EdgeEnv>): void {
  app.openapi(health, (c) => c.json({ status: 'ok' as const }, 200));
  app.openapi(readiness, async (c) => {
    const worker = await c.get('platform').placement.anyWorker();
    let response: Response;
    try {
      response = await fetch(`${worker}/healthz`);
    } catch (cause) {
      throw workerNotReady('it does not answer', cause);
    }
    await response.body?.cancel();
    if (!response.ok) throw workerNotReady(`it answered ${String(response.status)}`);
    return c.json({ status: 'ok' as const }, 200);
  });
}

function workerNotReady(reason: string, cause?: unknown): ProblemError {
  return new ProblemError(
    'worker_unavailable',
    { detail: `The worker is not ready: ${reason}.`, remedy: 'Start a worker, or wait until it has started.' },
    { cause },
  );
}
