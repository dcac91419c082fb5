/** GET /v1/sessions/{id}/events: a session's steps as they happen. */
import { createRoute, type OpenAPIHono } from '@hono/zod-openapi';
import * as z from 'zod';
import { LIMITS } from '../../shared/limits.ts';
import { EVENT_STREAM_CONTENT_TYPE, parseLastEventId, sessionEventSchema } from '../../shared/session-events.ts';
import { parseSessionId } from '../../shared/session.ts';
import type { EdgeEnv } from '../environment.ts';
import { callWorker, stream } from '../forward/worker.ts';
import { problemResponses, SESSION_PROBLEMS } from './problem-responses.ts';
import { sessionParameters } from './sessions.ts';

const getEvents = createRoute({
  method: 'get',
  tags: ['Sessions'],
  path: '/v1/sessions/{id}/events',
  summary: 'Listen to a session',
  description: `
Server-sent events: \`step\` for every step that is applied, with its metrics (schema StepMetrics) as \`data\` and its number as \`id\`.
With the header \`Last-Event-ID\` first those after that step that are kept, the last ${String(LIMITS.eventHistory)}; -1 asks for all of them. Where some
are not kept any more, or a worker that was restarted has not got them, \`missed\` says which: \`{"from": 3, "to": 9}\`. \`end\` is the last
event: \`{"reason": …}\` \`deleted\` or \`expired\` with the session, \`stopped\` with the worker, \`slow\` if ${String(LIMITS.eventBufferBytes)} bytes of events were
not read; after the last two connect again. Comments come every ${String(LIMITS.heartbeatMilliseconds / 1000)} seconds. Listening does not keep a session from expiring.`,
  request: {
    params: sessionParameters,
    headers: z.object({
      'last-event-id': z.string().optional().meta({ description: 'The last step that you know of', example: '41' }),
    }),
  },
  responses: {
    200: {
      description: 'Events, until the session ends',
      content: { [EVENT_STREAM_CONTENT_TYPE]: { schema: sessionEventSchema } },
    },
    ...problemResponses(...SESSION_PROBLEMS, 'invalid_parameter', 'listeners_full'),
  },
});

export function registerEvents(app: OpenAPIHono<EdgeEnv>): void {
  app.openapi(getEvents, async (c) => {
    const id = parseSessionId(c.req.valid('param').id);
    const after = parseLastEventId(c.req.header('last-event-id'));
    const answer = await callWorker(c, id, '/events', {
      method: 'GET',
      headers: after === null ? {} : { 'last-event-id': String(after) },
    });
    return stream(c, answer, { 'cache-control': 'no-store' });
  });
}
