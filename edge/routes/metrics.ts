/** GET /metrics: what this isolate has counted. */
import { createRoute, type OpenAPIHono } from '@hono/zod-openapi';
import * as z from 'zod';
import type { EdgeEnv } from '../environment.ts';
import type { EdgeMetrics } from '../metrics/edge-metrics.ts';
import { PROMETHEUS_CONTENT_TYPE } from '../metrics/prometheus.ts';
import { problemResponses } from './problem-responses.ts';

const getMetrics = createRoute({
  method: 'get',
  tags: ['Health'],
  path: '/metrics',
  summary: 'Metrics for Prometheus',
  description:
    'Of the isolate that answers: under Node there is one; on Cloudflare there are many, and Workers’ own analytics sum over them.',
  responses: {
    200: { description: 'In the text format of Prometheus', content: { 'text/plain': { schema: z.string() } } },
    ...problemResponses(),
  },
});

export function registerMetrics(app: OpenAPIHono<EdgeEnv>, metrics: EdgeMetrics): void {
  app.openapi(getMetrics, (c) => c.text(metrics.text(), 200, { 'content-type': PROMETHEUS_CONTENT_TYPE }));
}
