/** Checkpoints of sessions: POST and GET /v1/sessions/{id}/checkpoints, POST /v1/checkpoints, GET and DELETE /v1/checkpoints/{id}. */
import { createRoute, type OpenAPIHono } from '@hono/zod-openapi';
import * as z from 'zod';
import { checkpointListSchema, checkpointSchema, newCheckpointId, parseCheckpointId } from '../../shared/checkpoint.ts';
import { LIMITS } from '../../shared/limits.ts';
import { SAFETENSORS_CONTENT_TYPE } from '../../shared/safetensors.ts';
import { parseSessionId } from '../../shared/session.ts';
import type { EdgeEnv } from '../environment.ts';
import { StreamedBody } from '../forward/streamed-body.ts';
import { callAnyWorker, callWorker, readDocument, stream } from '../forward/worker.ts';
import { acceptBody } from '../middleware/content.ts';
import { problemResponses, SAFETENSORS_PROBLEMS, SESSION_PROBLEMS, WORKER_PROBLEMS } from './problem-responses.ts';
import { safetensorsBody } from './safetensors-body.ts';
import { JSON_TYPE, sessionParameters } from './sessions.ts';

const STORAGE_PROBLEMS = ['storage_unavailable', 'storage_damaged', ...WORKER_PROBLEMS] as const;

const checkpointParameters = z.object({
  id: z.string().meta({ description: 'Identifier of the checkpoint', example: 'ckp_0123456789abcdef0123456789abcdef' }),
});

const checkpointAnswer = { [JSON_TYPE]: { schema: checkpointSchema } };

const FILE = `The complete state of the session in one safetensors file. \`__metadata__\` has \`format\`, \`version\`, the \`manifest\` as JSON
(definition, steps taken, metrics of the last one, and what of the state is no tensor) and \`digest\`, a SHA-256 over all contents. A
hosted model’s weights stand under the names that \`GET …/weights\` gives them; the optimizer’s state under \`optimizer.<layer>.<block>.…\`.`;

const makeCheckpoint = createRoute({
  method: 'post',
  tags: ['Checkpoints'],
  path: '/v1/sessions/{id}/checkpoints',
  summary: 'Make a checkpoint of a session',
  description: 'As of its last step. It is kept until it is deleted, and longer than the session if need be.',
  request: { params: sessionParameters },
  responses: {
    201: { description: 'The checkpoint', content: checkpointAnswer },
    ...problemResponses(...SESSION_PROBLEMS, 'queue_full', 'storage_full'),
  },
});

const listCheckpoints = createRoute({
  method: 'get',
  tags: ['Checkpoints'],
  path: '/v1/sessions/{id}/checkpoints',
  summary: 'List the checkpoints of a session',
  description: 'Of one that has expired or was deleted, too, as long as it has any.',
  request: { params: sessionParameters },
  responses: {
    200: { description: 'They', content: { [JSON_TYPE]: { schema: checkpointListSchema } } },
    ...problemResponses('session_not_found', ...STORAGE_PROBLEMS),
  },
});

const importCheckpoint = createRoute({
  method: 'post',
  tags: ['Checkpoints'],
  path: '/v1/checkpoints',
  summary: 'Import a checkpoint',
  description:
    'A file that was downloaded here or elsewhere. It is checked as a whole: digest, manifest, every tensor.',
  middleware: [acceptBody({ [SAFETENSORS_CONTENT_TYPE]: LIMITS.bodyBytes })] as const,
  request: { body: { required: true, content: safetensorsBody } },
  responses: {
    201: { description: 'The checkpoint', content: checkpointAnswer },
    ...problemResponses(...SAFETENSORS_PROBLEMS, 'invalid_checkpoint', 'storage_full', ...STORAGE_PROBLEMS),
  },
});

const getCheckpoint = createRoute({
  method: 'get',
  tags: ['Checkpoints'],
  path: '/v1/checkpoints/{id}',
  summary: 'Download a checkpoint',
  request: { params: checkpointParameters },
  responses: {
    200: { description: FILE, content: safetensorsBody },
    ...problemResponses('checkpoint_not_found', 'memory_full', ...STORAGE_PROBLEMS),
  },
});

const deleteCheckpoint = createRoute({
  method: 'delete',
  tags: ['Checkpoints'],
  path: '/v1/checkpoints/{id}',
  summary: 'Delete a checkpoint',
  description: 'Sessions that began from it go on.',
  request: { params: checkpointParameters },
  responses: {
    204: { description: 'The checkpoint is gone' },
    ...problemResponses('checkpoint_not_found', ...STORAGE_PROBLEMS),
  },
});

export function registerCheckpoints(app: OpenAPIHono<EdgeEnv>): void {
  app.openapi(makeCheckpoint, async (c) => {
    const id = parseSessionId(c.req.valid('param').id);
    const checkpoint = await readDocument(
      checkpointSchema,
      await callWorker(c, id, '/checkpoints', { method: 'POST' }),
    );
    return c.json(checkpoint, 201, { location: `/v1/checkpoints/${checkpoint.id}` });
  });

  app.openapi(listCheckpoints, async (c) => {
    const id = parseSessionId(c.req.valid('param').id);
    const answer = await callWorker(c, id, '/checkpoints', { method: 'GET' });
    return c.json(await readDocument(checkpointListSchema, answer), 200);
  });

  app.openapi(importCheckpoint, async (c) => {
    const id = newCheckpointId();
    const body = new StreamedBody(c.req.raw.body, Number(c.req.header('content-length')), c.get('platform'));
    const headers = { 'content-type': SAFETENSORS_CONTENT_TYPE };
    const answer = await body.forward((sized) =>
      callAnyWorker(c, `/checkpoints/${id}`, { method: 'PUT', body: sized, headers }),
    );
    return c.json(await readDocument(checkpointSchema, answer), 201, { location: `/v1/checkpoints/${id}` });
  });

  app.openapi(getCheckpoint, async (c) => {
    const id = parseCheckpointId(c.req.valid('param').id);
    const answer = await callAnyWorker(c, `/checkpoints/${id}`, { method: 'GET' });
    return stream(c, answer, { 'content-disposition': `attachment; filename="${id}.safetensors"` });
  });

  app.openapi(deleteCheckpoint, async (c) => {
    await callAnyWorker(c, `/checkpoints/${parseCheckpointId(c.req.valid('param').id)}`, { method: 'DELETE' });
    return c.body(null, 204);
  });
}
