/** /v1/admin: API keys, tenants’ limits, everybody’s usage, and workers, for keys with the scope `admin`. */
import { createRoute, type OpenAPIHono } from '@hono/zod-openapi';
import * as z from 'zod';
import {
  apiKeyListSchema,
  apiKeyOrderSchema,
  keyIdSchema,
  keyNotFound,
  newApiKeySchema,
  tenantLimitsSchema,
  usageQuerySchema,
  workerListSchema,
  type ApiKey,
  type RegisteredWorker,
} from '../../shared/access.ts';
import { ProblemError } from '../../shared/errors.ts';
import { LIMITS } from '../../shared/limits.ts';
import { TENANT_NAME, tenantSchema } from '../../shared/tenant.ts';
import { parseDocument } from '../../shared/validation.ts';
import type { AccessControl } from '../access/access-control.ts';
import { issueKey } from '../access/api-key.ts';
import { asking } from '../access/key-ring.ts';
import type { EdgeEnv } from '../environment.ts';
import { acceptBody } from '../middleware/content.ts';
import type { KnownWorker } from '../placement/placement-directory.ts';
import { KEY_ORDERS, LIMITS_OF_A_TENANT } from './examples.ts';
import { problemResponses } from './problem-responses.ts';
import { JSON_TYPE } from './sessions.ts';
import { USAGE_DELAY, usageAnswer, usageBetween } from './usage.ts';

const DOCUMENT_BYTES = 10_000;
const DOCUMENT_PROBLEMS = [
  'malformed_json',
  'length_required',
  'body_too_large',
  'unsupported_media_type',
  'invalid_parameter',
] as const;

const acceptDocument = acceptBody({ [JSON_TYPE]: DOCUMENT_BYTES });

const keyParameters = z.object({
  id: z.string().meta({ description: 'Public id of the key', example: '0123456789abcdef' }),
});
const tenantParameters = z.object({
  tenant: z.string().meta({ description: 'The tenant', pattern: TENANT_NAME.source, example: 'research' }),
});
const tenantQuery = z.object({
  tenant: tenantSchema.optional().meta({ description: 'Of this tenant alone', example: 'research' }),
});

const createKey = createRoute({
  method: 'post',
  tags: ['Administration'],
  path: '/v1/admin/keys',
  summary: 'Create an API key',
  description: 'The answer is the only place where the key itself is ever shown.',
  middleware: [acceptDocument] as const,
  request: { body: { required: true, content: { [JSON_TYPE]: { schema: apiKeyOrderSchema, examples: KEY_ORDERS } } } },
  responses: {
    201: { description: 'The key', content: { [JSON_TYPE]: { schema: newApiKeySchema } } },
    ...problemResponses(...DOCUMENT_PROBLEMS),
  },
});

const listKeys = createRoute({
  method: 'get',
  tags: ['Administration'],
  path: '/v1/admin/keys',
  summary: 'List API keys',
  description: 'Expired and revoked ones, too.',
  request: { query: tenantQuery },
  responses: {
    200: { description: 'They', content: { [JSON_TYPE]: { schema: apiKeyListSchema } } },
    ...problemResponses('invalid_parameter'),
  },
});

const revokeKey = createRoute({
  method: 'delete',
  tags: ['Administration'],
  path: '/v1/admin/keys/{id}',
  summary: 'Revoke an API key',
  description: `It is refused within ${String(LIMITS.keyCacheSeconds)} seconds, for which the edge remembers keys. It stays in the list.`,
  request: { params: keyParameters },
  responses: { 204: { description: 'It is revoked' }, ...problemResponses('key_not_found') },
});

const limitsAnswer = { [JSON_TYPE]: { schema: tenantLimitsSchema } };

const getLimits = createRoute({
  method: 'get',
  tags: ['Administration'],
  path: '/v1/admin/tenants/{tenant}/limits',
  summary: 'What a tenant may take',
  request: { params: tenantParameters },
  responses: {
    200: { description: 'Its limits, the defaults unless others were set', content: limitsAnswer },
    ...problemResponses('invalid_parameter'),
  },
});

const putLimits = createRoute({
  method: 'put',
  tags: ['Administration'],
  path: '/v1/admin/tenants/{tenant}/limits',
  summary: 'Set what a tenant may take',
  description: `Replaces all of its limits; what is left out has its default. Isolates that know the tenant learn of it within ${String(LIMITS.keyCacheSeconds)} seconds.`,
  middleware: [acceptDocument] as const,
  request: {
    params: tenantParameters,
    body: { required: true, content: { [JSON_TYPE]: { schema: tenantLimitsSchema, examples: LIMITS_OF_A_TENANT } } },
  },
  responses: {
    200: { description: 'The limits', content: limitsAnswer },
    ...problemResponses(...DOCUMENT_PROBLEMS),
  },
});

const getUsage = createRoute({
  method: 'get',
  tags: ['Administration'],
  path: '/v1/admin/usage',
  summary: 'What every tenant has taken, by day',
  description: USAGE_DELAY,
  request: { query: z.object({ ...usageQuerySchema.shape, ...tenantQuery.shape }) },
  responses: {
    200: { description: 'Days and tenants with requests', content: usageAnswer },
    ...problemResponses('invalid_parameter'),
  },
});

const listWorkers = createRoute({
  method: 'get',
  tags: ['Administration'],
  path: '/v1/admin/workers',
  summary: 'List the workers that have registered',
  description: 'None where the edge has one worker for good.',
  responses: {
    200: { description: 'They', content: { [JSON_TYPE]: { schema: workerListSchema } } },
    ...problemResponses(),
  },
});

export function registerAdministration(app: OpenAPIHono<EdgeEnv>): void {
  app.openapi(createKey, async (c) => {
    const access = closed(c.get('access'));
    const order = c.req.valid('json');
    const { id, key, hash } = await issueKey();
    const createdAt = new Date().toISOString();
    const record: ApiKey = { id, ...order, createdAt, revokedAt: null, lastUsedAt: null };
    await asking(() => access.directory.addKey({ key: record, hash }));
    return c.json({ ...record, key }, 201, { location: `/v1/admin/keys/${id}` });
  });

  app.openapi(listKeys, async (c) => {
    const { tenant = null } = c.req.valid('query');
    const { usage, directory } = closed(c.get('access'));
    const keys = await asking(async () => {
      // When they were last used.
      await usage.flushAll();
      return directory.listKeys(tenant);
    });
    return c.json({ keys }, 200);
  });

  app.openapi(revokeKey, async (c) => {
    const { id } = c.req.valid('param');
    const { directory } = closed(c.get('access'));
    const parsed = keyIdSchema.safeParse(id);
    if (!parsed.success || !(await asking(() => directory.revokeKey(parsed.data)))) throw keyNotFound(id);
    return c.body(null, 204);
  });

  app.openapi(getLimits, async (c) => {
    const { tenant } = parseDocument(z.object({ tenant: tenantSchema }), c.req.valid('param'));
    const { directory } = closed(c.get('access'));
    return c.json(await asking(() => directory.limits(tenant)), 200);
  });

  app.openapi(putLimits, async (c) => {
    const { tenant } = parseDocument(z.object({ tenant: tenantSchema }), c.req.valid('param'));
    const limits = c.req.valid('json');
    const { directory } = closed(c.get('access'));
    await asking(() => directory.setLimits(tenant, limits));
    return c.json(limits, 200);
  });

  app.openapi(getUsage, async (c) => {
    const { tenant = null, ...query } = c.req.valid('query');
    return c.json({ days: await usageBetween(c.get('access'), tenant, query) }, 200);
  });

  app.openapi(listWorkers, async (c) => {
    const { directory } = c.get('platform').placement;
    const workers = directory === null ? [] : await directory.workers();
    return c.json({ workers: workers.map(describeWorker) }, 200);
  });
}

function describeWorker({ isUsable, isDraining, heard, ...worker }: KnownWorker): RegisteredWorker {
  const { id, url, engine, sessions, capacity, queued, bytes } = worker;
  const state = isDraining ? 'draining' : isUsable ? 'usable' : 'lost';
  return { id, url, state, engine, sessions, capacity, queued, bytes, heardAt: new Date(heard).toISOString() };
}

/** Without access control nobody would ask for the keys. @throws ProblemError `access_not_configured` */
function closed(access: AccessControl): AccessControl {
  if (access.isClosed) return access;
  throw new ProblemError('access_not_configured', {
    detail: 'The service runs without access control, for development: it asks nobody for a key.',
    remedy: 'Set DDPNOPT_ADMIN_KEY to 32 or more random characters and start it again; that is then the first key.',
  });
}
