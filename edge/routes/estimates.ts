/** POST /v1/estimates: what a step takes, before anyone pays for it. Answered here, without a worker. */
import { createRoute, type OpenAPIHono } from '@hono/zod-openapi';
import { estimate, estimateOrderSchema, estimateSchema } from '../../shared/estimate.ts';
import { JSON_CONTENT_TYPE } from '../../shared/json-tensors.ts';
import { LIMITS } from '../../shared/limits.ts';
import type { EdgeEnv } from '../environment.ts';
import { acceptBody } from '../middleware/content.ts';
import { ESTIMATE_ORDERS } from './examples.ts';
import { problemResponses } from './problem-responses.ts';

const postEstimate = createRoute({
  method: 'post',
  tags: ['Service'],
  path: '/v1/estimates',
  summary: 'Estimate bytes, operations and memory of a step',
  description:
    'For a session that need not exist and a batch that need not be sent: what a step carries and is answered with, what it takes on the ' +
    'worker, and whether it is within the limits. A session or step that would be refused is estimated all the same, and `problems` says why; ' +
    'a definition that is none is refused as `POST /v1/sessions` does it, with `session.` before the field.',
  middleware: [acceptBody({ [JSON_CONTENT_TYPE]: LIMITS.sessionDocumentBytes })] as const,
  request: {
    body: {
      required: true,
      content: { [JSON_CONTENT_TYPE]: { schema: estimateOrderSchema, examples: ESTIMATE_ORDERS } },
    },
  },
  responses: {
    200: { description: 'The estimate', content: { [JSON_CONTENT_TYPE]: { schema: estimateSchema } } },
    ...problemResponses(
      'malformed_json',
      'length_required',
      'body_too_large',
      'unsupported_media_type',
      'invalid_parameter',
    ),
  },
});

export function registerEstimates(app: OpenAPIHono<EdgeEnv>): void {
  app.openapi(postEstimate, (c) => c.json(estimate(c.req.valid('json')), 200));
}
