/** PUT, GET and DELETE /v1/sessions/{id}/runs/{n}, GET …/runs: many steps on the session's data set in one call. */
import { createRoute, type OpenAPIHono } from '@hono/zod-openapi';
import type { Context } from 'hono';
import * as z from 'zod';
import { JSON_CONTENT_TYPE } from '../../shared/json-tensors.ts';
import { LIMITS } from '../../shared/limits.ts';
import { prefersEvents, runEventSchema, runListSchema, runOrderSchema, runSchema } from '../../shared/run.ts';
import { EVENT_STREAM_CONTENT_TYPE, parseLastEventId } from '../../shared/session-events.ts';
import { parseSessionId } from '../../shared/session.ts';
import { parseStepNumber } from '../../shared/step.ts';
import type { EdgeEnv } from '../environment.ts';
import { callWorker, readDocument, stream } from '../forward/worker.ts';
import { acceptBody } from '../middleware/content.ts';
import { RUN, RUN_ORDERS } from './examples.ts';
import { problemResponses, SESSION_PROBLEMS } from './problem-responses.ts';
import { sessionIdParameter, sessionParameters } from './sessions.ts';

const TAGS = ['Data sets and runs'];

const runParameters = z.object({
  id: sessionIdParameter,
  n: z.string().meta({ description: 'Number of the run’s first step', example: '0' }),
});

const eventHeaders = z.object({
  'last-event-id': z.string().optional().meta({ description: 'The last step that you know of', example: '41' }),
});

const runAnswer = { [JSON_CONTENT_TYPE]: { schema: runSchema, example: RUN } };
const runOrEvents = { ...runAnswer, [EVENT_STREAM_CONTENT_TYPE]: { schema: runEventSchema } };

const EVENTS = `
With \`Accept: text/event-stream\` the answer is the run’s events until it ends: \`run\`, its description, at first and as the last event; \`step\`
for each of its steps, the metrics as \`data\` and the number as \`id\`. With \`Last-Event-ID\` the steps after that one, else all that are kept,
the last ${String(LIMITS.eventHistory)} of the session; \`missed\` says which are not. \`end\` in place of the last \`run\` means that the run goes on without you, as in
\`GET …/events\`: ask again with \`Last-Event-ID\`. A run does not depend on anybody’s connection.`;

const putRun = createRoute({
  method: 'put',
  tags: TAGS,
  path: '/v1/sessions/{id}/runs/{n}',
  summary: 'Take many steps on the data set',
  description: `
Has the worker take \`steps\` steps from step n on, the session’s next one, each on \`batch\` samples of the data set. They are the steps that a client
would take with the same batches, in turns of their own: other sessions are not held up, and PATCH, predictions, weights and checkpoints come
between two of them. Each is stored before it counts; a run that its worker’s end has interrupted goes on where it was, with the same result.

\`order\` \`shuffled\` takes epochs of ⌊samples / batch⌋ whole batches, every epoch in an order of its own that \`seed\` and the epoch’s number decide;
\`sequential\` goes through the data set again and again. The number of the step within the session says which batch it takes, so that one run of 100
steps and two of 50 take the same.

The same order under the same n is the same run, however often it is sent, unless it has ended without a step: then it begins anew. The
last ${String(LIMITS.runs)} runs are known. While a run takes the steps a client’s own
are refused, and the session does not expire. Quotas are looked at when a run begins, not while it goes on.
${EVENTS}`,
  middleware: [acceptBody({ [JSON_CONTENT_TYPE]: LIMITS.jsonTensorBytes })] as const,
  request: {
    params: runParameters,
    headers: eventHeaders,
    body: { required: true, content: { [JSON_CONTENT_TYPE]: { schema: runOrderSchema, examples: RUN_ORDERS } } },
  },
  responses: {
    200: { description: 'The run, which has ended; or its events', content: runOrEvents },
    202: { description: 'The run, which takes steps now', content: runAnswer },
    ...problemResponses(
      ...SESSION_PROBLEMS,
      'malformed_json',
      'truncated_body',
      'length_required',
      'body_too_large',
      'unsupported_media_type',
      'invalid_parameter',
      'not_hosted',
      'run_in_progress',
      'run_conflict',
      'step_applied',
      'step_out_of_order',
      'session_rewound',
      'step_too_large',
      'data_missing',
      'listeners_full',
      'memory_full',
      'queue_full',
      'storage_full',
    ),
  },
});

const getRun = createRoute({
  method: 'get',
  tags: TAGS,
  path: '/v1/sessions/{id}/runs/{n}',
  summary: 'Describe a run, or listen to it',
  description: EVENTS,
  request: { params: runParameters, headers: eventHeaders },
  responses: {
    200: { description: 'The run, or its events', content: runOrEvents },
    ...problemResponses(...SESSION_PROBLEMS, 'run_not_found', 'invalid_parameter', 'listeners_full'),
  },
});

const listRuns = createRoute({
  method: 'get',
  tags: TAGS,
  path: '/v1/sessions/{id}/runs',
  summary: 'List the runs of a session',
  request: { params: sessionParameters },
  responses: {
    200: { description: 'Those that are known', content: { [JSON_CONTENT_TYPE]: { schema: runListSchema } } },
    ...problemResponses(...SESSION_PROBLEMS),
  },
});

const cancelRun = createRoute({
  method: 'delete',
  tags: TAGS,
  path: '/v1/sessions/{id}/runs/{n}',
  summary: 'Cancel a run',
  description:
    'It takes no more steps once the one that is being computed has ended; those that it has taken count. The answer comes when it has stopped, and says ' +
    'how far it has come. A run that has ended already stays as it is.',
  request: { params: runParameters },
  responses: {
    200: { description: 'The run', content: runAnswer },
    ...problemResponses(...SESSION_PROBLEMS, 'run_not_found', 'invalid_parameter'),
  },
});

export function registerRuns(app: OpenAPIHono<EdgeEnv>): void {
  app.openapi(putRun, async (c) => {
    const { id, n } = c.req.valid('param');
    const response = await callWorker(c, parseSessionId(id), `/runs/${String(parseStepNumber(n))}`, {
      method: 'PUT',
      body: JSON.stringify(c.req.valid('json')),
      headers: { 'content-type': JSON_CONTENT_TYPE, ...asked(c) },
    });
    if (prefersEvents(c.req.header('accept'))) return stream(c, response, { 'cache-control': 'no-store' });
    const run = await readDocument(runSchema, response);
    return c.json(run, run.state === 'running' ? 202 : 200);
  });

  app.openapi(getRun, async (c) => {
    const { id, n } = c.req.valid('param');
    const path = `/runs/${String(parseStepNumber(n))}`;
    const response = await callWorker(c, parseSessionId(id), path, { method: 'GET', headers: asked(c) });
    if (prefersEvents(c.req.header('accept'))) return stream(c, response, { 'cache-control': 'no-store' });
    return c.json(await readDocument(runSchema, response), 200);
  });

  app.openapi(listRuns, async (c) => {
    const id = parseSessionId(c.req.valid('param').id);
    return c.json(await readDocument(runListSchema, await callWorker(c, id, '/runs', { method: 'GET' })), 200);
  });

  app.openapi(cancelRun, async (c) => {
    const { id, n } = c.req.valid('param');
    const response = await callWorker(c, parseSessionId(id), `/runs/${String(parseStepNumber(n))}`, {
      method: 'DELETE',
    });
    return c.json(await readDocument(runSchema, response), 200);
  });
}

/** In which form the client wants the answer, and from where on. */
function asked(c: Context<EdgeEnv>): Record<string, string> {
  if (!prefersEvents(c.req.header('accept'))) return {};
  const after = parseLastEventId(c.req.header('last-event-id'));
  return { accept: EVENT_STREAM_CONTENT_TYPE, ...(after === null ? {} : { 'last-event-id': String(after) }) };
}
