/** POST and GET /v1/sessions, GET, PATCH and DELETE /v1/sessions/{id}. */
import { createRoute, type OpenAPIHono } from '@hono/zod-openapi';
import type { Context } from 'hono';
import * as z from 'zod';
import { LIMITS } from '../../shared/limits.ts';
import { MERGE_PATCH_CONTENT_TYPE, sessionChangesSchema } from '../../shared/session-changes.ts';
import { parseSessionOrder, sessionOrderSchema } from '../../shared/session-order.ts';
import {
  mergePages,
  sessionListQuerySchema,
  sessionListSchema,
  type SessionList,
  type SessionListQuery,
} from '../../shared/session-list.ts';
import { newSessionId, parseSessionId, sessionSchema } from '../../shared/session.ts';
import { WORKER_HEADER } from '../../shared/worker-protocol.ts';
import { tenantOf } from '../middleware/access.ts';
import type { EdgeEnv } from '../environment.ts';
import { forgetDefinition, rememberDefinition } from '../forward/session-definitions.ts';
import { askEveryWorker, callWorker, readDocument } from '../forward/worker.ts';
import { acceptBody } from '../middleware/content.ts';
import { SESSION_CHANGES, SESSION_ORDERS } from './examples.ts';
import { problemResponses, SESSION_PROBLEMS, WORKER_PROBLEMS } from './problem-responses.ts';

export const JSON_TYPE = 'application/json';

/** A plain text: an identifier that cannot exist is answered as one that does not. */
export const sessionIdParameter = z
  .string()
  .meta({ description: 'Identifier of the session', example: 'ses_0123456789abcdef0123456789abcdef' });

export const sessionParameters = z.object({ id: sessionIdParameter });

const sessionAnswer = { [JSON_TYPE]: { schema: sessionSchema } };

const createSession = createRoute({
  method: 'post',
  tags: ['Sessions'],
  path: '/v1/sessions',
  summary: 'Create a training session',
  description:
    'States once what is trained and how: in mode `layers` the layers of a model that you run, in mode `kernel` the layers of one whose data and parameters stay with you, in mode `hosted` a model that the worker runs. Only `layers`, or `model` and `loss`, have no default. ' +
    'With `fromCheckpoint` the session goes on where that checkpoint was made; its `nextStep` says with which step.',
  middleware: [acceptBody({ [JSON_TYPE]: LIMITS.sessionDocumentBytes })] as const,
  request: {
    body: { required: true, content: { [JSON_TYPE]: { schema: sessionOrderSchema, examples: SESSION_ORDERS } } },
  },
  responses: {
    201: { description: 'The session, defaults filled in', content: sessionAnswer },
    ...problemResponses(
      'malformed_json',
      'length_required',
      'body_too_large',
      'unsupported_media_type',
      'invalid_parameter',
      'checkpoint_not_found',
      'queue_full',
      'memory_full',
      'session_limit_reached',
      'quota_exceeded',
      'storage_full',
      'storage_unavailable',
      'storage_damaged',
      ...WORKER_PROBLEMS,
    ),
  },
});

const listSessions = createRoute({
  method: 'get',
  tags: ['Sessions'],
  path: '/v1/sessions',
  summary: 'List the sessions there are',
  description: 'Those of the key’s tenant.',
  request: { query: sessionListQuerySchema },
  responses: {
    200: { description: 'A page of them', content: { [JSON_TYPE]: { schema: sessionListSchema } } },
    ...problemResponses('invalid_parameter', ...WORKER_PROBLEMS),
  },
});

const getSession = createRoute({
  method: 'get',
  tags: ['Sessions'],
  path: '/v1/sessions/{id}',
  summary: 'Describe a session',
  request: { params: sessionParameters },
  responses: {
    200: { description: 'The session, its next step and the last step’s metrics', content: sessionAnswer },
    ...problemResponses(...SESSION_PROBLEMS),
  },
});

const changesBody = { schema: sessionChangesSchema, examples: SESSION_CHANGES };

const patchSession = createRoute({
  method: 'patch',
  tags: ['Sessions'],
  path: '/v1/sessions/{id}',
  summary: 'Change hyper-parameters',
  description:
    'A JSON merge patch (RFC 7396) of `optimizer` and `ttlSeconds`: options are merged member by member, null takes one back to its default. ' +
    'It takes its turn among the steps: those that wait already, and the one that is being computed, are taken with the options as they were. ' +
    'The answer’s `optimizerFromStep` is the first step that the changed options hold for. Every option can change, and with it what a step ' +
    'carries and is answered with, but for `metric.kind` and `metric.firstInputFactor`, which the form of the state depends on. ' +
    'The same patch again changes nothing. Since null stands for the default, `lossScale: null` is written `{"floor": 1, "ceiling": 1}`, ' +
    'which is the same; an object of another `kind` replaces the one there was.',
  middleware: [
    acceptBody({
      [MERGE_PATCH_CONTENT_TYPE]: LIMITS.sessionDocumentBytes,
      [JSON_TYPE]: LIMITS.sessionDocumentBytes,
    }),
  ] as const,
  request: {
    params: sessionParameters,
    body: { required: true, content: { [MERGE_PATCH_CONTENT_TYPE]: changesBody, [JSON_TYPE]: changesBody } },
  },
  responses: {
    200: { description: 'The session as it is now', content: sessionAnswer },
    ...problemResponses(
      ...SESSION_PROBLEMS,
      'malformed_json',
      'truncated_body',
      'length_required',
      'body_too_large',
      'unsupported_media_type',
      'invalid_parameter',
      'option_fixed',
      'queue_full',
      'memory_full',
      'session_limit_reached',
      'storage_full',
    ),
  },
});

const deleteSession = createRoute({
  method: 'delete',
  tags: ['Sessions'],
  path: '/v1/sessions/{id}',
  summary: 'Delete a session',
  request: { params: sessionParameters },
  responses: {
    204: { description: 'The session is gone' },
    ...problemResponses(...SESSION_PROBLEMS),
  },
});

export function registerSessions(app: OpenAPIHono<EdgeEnv>): void {
  app.openapi(
    createSession,
    async (c) => {
      const { placement } = c.get('platform');
      const [id, tenant, quota] = [newSessionId(), tenantOf(c), sessionQuota(c)];
      await placement.reserve(id, tenant, quota);
      const response = await callWorker(c, id, '', {
        method: 'PUT',
        body: JSON.stringify(c.req.valid('json')),
        headers: {
          'content-type': JSON_TYPE,
          ...(quota === null ? {} : { [WORKER_HEADER.sessionQuota]: String(quota) }),
        },
      });
      const session = await readDocument(sessionSchema, response);
      rememberDefinition(c, session);
      return c.json(session, 201, { location: `/v1/sessions/${id}` });
    },
    refuseOrder,
  );

  app.openapi(listSessions, async (c) => {
    return c.json(await listOf(c, c.req.valid('query')), 200);
  });

  app.openapi(getSession, async (c) => {
    const id = parseSessionId(c.req.valid('param').id);
    return c.json(await readDocument(sessionSchema, await callWorker(c, id, '', { method: 'GET' })), 200);
  });

  app.openapi(patchSession, async (c) => {
    const id = parseSessionId(c.req.valid('param').id);
    const answer = await callWorker(c, id, '', {
      method: 'PATCH',
      body: JSON.stringify(c.req.valid('json')),
      headers: { 'content-type': JSON_TYPE },
    });
    const session = await readDocument(sessionSchema, answer);
    rememberDefinition(c, session);
    return c.json(session, 200);
  });

  app.openapi(deleteSession, async (c) => {
    const id = parseSessionId(c.req.valid('param').id);
    forgetDefinition(c, id);
    await callWorker(c, id, '', { method: 'DELETE' });
    return c.body(null, 204);
  });
}

/** The tenant's sessions, on whichever workers they are. */
async function listOf(c: Context<EdgeEnv>, query: SessionListQuery): Promise<SessionList> {
  const { limit, after } = query;
  const search = new URLSearchParams({ limit: String(limit), ...(after === undefined ? {} : { after }) });
  return mergePages(await askEveryWorker(c, `/sessions?${search.toString()}`, sessionListSchema), query);
}

/** Sessions that the tenant may hold; null for no limit. */
function sessionQuota(c: Context<EdgeEnv>): number | null {
  return c.get('principal')?.key == null ? null : c.get('access').usage.limitsOf(tenantOf(c)).sessions;
}

/** Says of a document that is no order what is wrong, in the words of the form that it is of. */
function refuseOrder(result: { readonly success: boolean }, c: Context<EdgeEnv>): Promise<never> | undefined {
  return result.success ? undefined : refuse(c);
}

async function refuse(c: Context<EdgeEnv>): Promise<never> {
  parseSessionOrder(await c.req.json());
  throw new TypeError('an order that is refused in one place and taken in another');
}
