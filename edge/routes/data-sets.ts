/** PUT /v1/sessions/{id}/data/{k}, GET and DELETE …/data: the samples that runs draw from. */
import { createRoute, type OpenAPIHono } from '@hono/zod-openapi';
import * as z from 'zod';
import { checkChunkHeader, dataSetSchema, parseChunkNumber } from '../../shared/data-set.ts';
import { JSON_CONTENT_TYPE } from '../../shared/json-tensors.ts';
import { LIMITS } from '../../shared/limits.ts';
import { SAFETENSORS_CONTENT_TYPE } from '../../shared/safetensors.ts';
import { notHosted, parseSessionId } from '../../shared/session.ts';
import type { EdgeEnv } from '../environment.ts';
import { checkWithDefinition } from '../forward/session-definitions.ts';
import { callWorker, readDocument } from '../forward/worker.ts';
import { acceptTensors, tensorBody } from '../middleware/content.ts';
import { DATA_CHUNKS, DATA_SET } from './examples.ts';
import { problemResponses, SESSION_PROBLEMS, TENSOR_BODY_PROBLEMS } from './problem-responses.ts';
import { tensorsBodyLike } from './safetensors-body.ts';
import { sessionParameters } from './sessions.ts';

const TAGS = ['Data sets and runs'];

const chunkParameters = sessionParameters.extend({
  k: z.string().meta({ description: 'Number of the chunk, from 0', example: '0' }),
});

const dataAnswer = { [JSON_CONTENT_TYPE]: { schema: dataSetSchema, example: DATA_SET } };

const putChunk = createRoute({
  method: 'put',
  tags: TAGS,
  path: '/v1/sessions/{id}/data/{k}',
  summary: 'Send a chunk of the data set',
  description: `
Samples for a hosted session’s runs, with the tensors of its steps: \`x\` [N, …], \`y\` [N] or [N, C] and, if you like, \`sample_weights\` [N],
in the same element types. A chunk has as many samples as fit into a body, chunks may come in any order and at the same time, and the samples are
numbered through them in the order of k. Where only some chunks have weights the other samples weigh 1. Values are checked when the chunk
comes.

The same chunk with the same bytes is taken once, so that an upload that broke off is sent again from its beginning: GET says which chunks are
there, with their digests. Chunks may be added while a run draws from those before; it goes on with the samples that it began with.

A data set has at most ${String(LIMITS.dataSetBytes / 1e9)} GB, ${String(LIMITS.dataSamples)} samples and ${String(LIMITS.dataChunks)} chunks, those of all sessions of a worker ${String(LIMITS.dataBytes / 1e9)} GB. It survives what
the session survives, and goes with it; a checkpoint has no data.`,
  middleware: [acceptTensors()] as const,
  request: { params: chunkParameters, body: { required: true, content: tensorsBodyLike(DATA_CHUNKS) } },
  responses: {
    200: { description: 'The chunks that are there', content: dataAnswer },
    ...problemResponses(
      ...TENSOR_BODY_PROBLEMS,
      ...SESSION_PROBLEMS,
      'not_hosted',
      'chunk_conflict',
      'data_too_large',
      'storage_full',
    ),
  },
});

const getData = createRoute({
  method: 'get',
  tags: TAGS,
  path: '/v1/sessions/{id}/data',
  summary: 'Describe the data set',
  request: { params: sessionParameters },
  responses: {
    200: { description: 'Its chunks', content: dataAnswer },
    ...problemResponses(...SESSION_PROBLEMS, 'not_hosted'),
  },
});

const deleteData = createRoute({
  method: 'delete',
  tags: TAGS,
  path: '/v1/sessions/{id}/data',
  summary: 'Delete the data set',
  description: 'What was trained on it stays. Not while a run draws from it.',
  request: { params: sessionParameters },
  responses: {
    204: { description: 'There is none' },
    ...problemResponses(...SESSION_PROBLEMS, 'not_hosted', 'run_in_progress', 'queue_full', 'storage_full'),
  },
});

export function registerDataSets(app: OpenAPIHono<EdgeEnv>): void {
  app.openapi(putChunk, async (c) => {
    const { id: idText, k } = c.req.valid('param');
    const id = parseSessionId(idText);
    const path = `/data/${String(parseChunkNumber(k))}`;
    const body = await tensorBody(c);
    const header = await body.readHeader();
    await checkWithDefinition(c, id, (definition) => {
      if (definition.mode !== 'hosted') throw notHosted(id);
      checkChunkHeader(header, definition);
    });
    const headers = { 'content-type': SAFETENSORS_CONTENT_TYPE };
    const answer = await body.forward((stream) => callWorker(c, id, path, { method: 'PUT', body: stream, headers }));
    return c.json(await readDocument(dataSetSchema, answer), 200);
  });

  app.openapi(getData, async (c) => {
    const id = parseSessionId(c.req.valid('param').id);
    return c.json(await readDocument(dataSetSchema, await callWorker(c, id, '/data', { method: 'GET' })), 200);
  });

  app.openapi(deleteData, async (c) => {
    await callWorker(c, parseSessionId(c.req.valid('param').id), '/data', { method: 'DELETE' });
    return c.body(null, 204);
  });
}
