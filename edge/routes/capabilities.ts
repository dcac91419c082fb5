/** GET /v1/capabilities. */
import { createRoute, type OpenAPIHono } from '@hono/zod-openapi';
import { CAPABILITIES, capabilitiesSchema } from '../../shared/capabilities.ts';
import type { EdgeEnv } from '../environment.ts';
import { problemResponses } from './problem-responses.ts';

const getCapabilities = createRoute({
  method: 'get',
  tags: ['Service'],
  path: '/v1/capabilities',
  summary: 'What the service can do, and how much of it',
  description: 'Kinds by their names in a session’s document, and limits: what a program checks before it sends.',
  responses: {
    200: {
      description: 'They',
      content: { 'application/json': { schema: capabilitiesSchema, example: CAPABILITIES } },
    },
    ...problemResponses(),
  },
});

export function registerCapabilities(app: OpenAPIHono<EdgeEnv>): void {
  app.openapi(getCapabilities, (c) => c.json(CAPABILITIES, 200));
}
