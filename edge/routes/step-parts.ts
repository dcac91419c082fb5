/** PUT and DELETE /v1/sessions/{id}/steps/{n}/parts/{k}, GET and DELETE …/parts, POST …/commit: one step from several mini-batches. */
import { createRoute, type OpenAPIHono } from '@hono/zod-openapi';
import * as z from 'zod';
import { JSON_CONTENT_TYPE } from '../../shared/json-tensors.ts';
import { LIMITS } from '../../shared/limits.ts';
import { SAFETENSORS_CONTENT_TYPE } from '../../shared/safetensors.ts';
import { parseSessionId } from '../../shared/session.ts';
import {
  checkPartHeader,
  commitSchema,
  PART_NUMBER,
  parsePartNumber,
  stepPartsSchema,
} from '../../shared/step-parts.ts';
import { parseStepNumber } from '../../shared/step.ts';
import type { EdgeEnv } from '../environment.ts';
import { checkWithDefinition } from '../forward/session-definitions.ts';
import { callWorker, readDocument, relay } from '../forward/worker.ts';
import { acceptBody, acceptTensors, tensorBody } from '../middleware/content.ts';
import { COMMIT, STEP_PARTS, STEPS } from './examples.ts';
import { problemResponses, SESSION_PROBLEMS, STEP_PROBLEMS, TENSOR_BODY_PROBLEMS } from './problem-responses.ts';
import { tensorsBodyLike } from './safetensors-body.ts';
import { stepParameters, stepReply } from './steps.ts';

const partParameters = stepParameters.extend({
  k: z.string().meta({ description: 'Number of the part, from 0', pattern: PART_NUMBER.source, example: '0' }),
});

const partsAnswer = { [JSON_CONTENT_TYPE]: { schema: stepPartsSchema, example: STEP_PARTS } };

const NUMBER_PROBLEMS = ['invalid_parameter', 'step_applied', 'step_out_of_order', 'session_rewound'] as const;

const putPart = createRoute({
  method: 'put',
  tags: ['Steps from parts'],
  path: '/v1/sessions/{id}/steps/{n}/parts/{k}',
  summary: 'Send a part of a step',
  description: `
A mini-batch with the tensors of a step. The parts of step n, sent by one client or by several in any order, become one batch in the
order of k when the step is committed: the step is that of the whole batch, exactly.

n is the session’s next step; all parts are computed with the parameters from before it. The same part with the same bytes is taken once;
to replace it, DELETE it first. Together the parts keep to the limits of a step, and to ${String(LIMITS.stepPartsBytes)} bytes, which is checked as they
come. Values are checked when the step is committed. Parts that nobody commits are dropped ${String(LIMITS.partSeconds / 60)} minutes after the last.

Tensors with the samples along their first axis follow one another. Parameters that decay must be the same in all parts, bit for bit.
Of \`metric_versions\` the oldest count. \`sample_weights\` may come with some parts: the others weigh 1. Mode \`kernel\` takes parts
with batch coupling \`diagonal\`, whose factor statistics are averaged over the samples; a Gram matrix cannot be put together from those
of the parts, since it has blocks between them.`,
  middleware: [acceptTensors()] as const,
  request: { params: partParameters, body: { required: true, content: tensorsBodyLike(STEPS) } },
  responses: {
    200: { description: 'The parts that are there', content: partsAnswer },
    ...problemResponses(
      ...TENSOR_BODY_PROBLEMS,
      ...SESSION_PROBLEMS,
      ...NUMBER_PROBLEMS,
      'parts_unsupported',
      'part_conflict',
      'step_in_progress',
      'storage_full',
    ),
  },
});

const getParts = createRoute({
  method: 'get',
  tags: ['Steps from parts'],
  path: '/v1/sessions/{id}/steps/{n}/parts',
  summary: 'List the parts of a step',
  description:
    'Of the next step, or of the last one if it was put together from parts: which rows of the batch are whose.',
  request: { params: stepParameters },
  responses: {
    200: { description: 'They', content: partsAnswer },
    ...problemResponses(...SESSION_PROBLEMS, ...NUMBER_PROBLEMS),
  },
});

const deleteParts = createRoute({
  method: 'delete',
  tags: ['Steps from parts'],
  path: '/v1/sessions/{id}/steps/{n}/parts',
  summary: 'Drop all parts of a step',
  request: { params: stepParameters },
  responses: {
    204: { description: 'There are none' },
    ...problemResponses(...SESSION_PROBLEMS, ...NUMBER_PROBLEMS, 'step_in_progress'),
  },
});

const deletePart = createRoute({
  method: 'delete',
  tags: ['Steps from parts'],
  path: '/v1/sessions/{id}/steps/{n}/parts/{k}',
  summary: 'Drop a part of a step',
  request: { params: partParameters },
  responses: {
    204: { description: 'It is not there' },
    ...problemResponses(...SESSION_PROBLEMS, ...NUMBER_PROBLEMS, 'step_in_progress'),
  },
});

const commitStep = createRoute({
  method: 'post',
  tags: ['Steps from parts'],
  path: '/v1/sessions/{id}/steps/{n}/commit',
  summary: 'Take a step on its parts',
  description:
    'Names how many parts the step has. The answer is that of `PUT …/steps/{n}` with the whole batch; it is kept, so that other clients that ' +
    'have sent parts get it with `GET …/steps/{n}`, and sent again the commit is answered with it. A refused commit leaves the parts as they are.',
  middleware: [acceptBody({ [JSON_CONTENT_TYPE]: LIMITS.jsonTensorBytes })] as const,
  request: {
    params: stepParameters,
    body: { required: true, content: { [JSON_CONTENT_TYPE]: { schema: commitSchema, example: COMMIT } } },
  },
  responses: {
    200: { description: 'The step’s reply', content: stepReply },
    ...problemResponses(...STEP_PROBLEMS, 'parts_missing', 'part_conflict', 'parts_unsupported'),
  },
});

export function registerStepParts(app: OpenAPIHono<EdgeEnv>): void {
  app.openapi(putPart, async (c) => {
    const { id: idText, n, k } = c.req.valid('param');
    const id = parseSessionId(idText);
    const path = `/steps/${String(parseStepNumber(n))}/parts/${String(parsePartNumber(k))}`;
    const body = await tensorBody(c);
    const header = await body.readHeader();
    await checkWithDefinition(c, id, (definition) => checkPartHeader(header, definition));
    const headers = { 'content-type': SAFETENSORS_CONTENT_TYPE };
    const answer = await body.forward((stream) => callWorker(c, id, path, { method: 'PUT', body: stream, headers }));
    return c.json(await readDocument(stepPartsSchema, answer), 200);
  });

  app.openapi(getParts, async (c) => {
    const { id, n } = c.req.valid('param');
    const answer = await callWorker(c, parseSessionId(id), `/steps/${String(parseStepNumber(n))}/parts`, { method: 'GET' }); // prettier-ignore
    return c.json(await readDocument(stepPartsSchema, answer), 200);
  });

  app.openapi(deleteParts, async (c) => {
    const { id, n } = c.req.valid('param');
    await callWorker(c, parseSessionId(id), `/steps/${String(parseStepNumber(n))}/parts`, { method: 'DELETE' });
    return c.body(null, 204);
  });

  app.openapi(deletePart, async (c) => {
    const { id, n, k } = c.req.valid('param');
    const path = `/steps/${String(parseStepNumber(n))}/parts/${String(parsePartNumber(k))}`;
    await callWorker(c, parseSessionId(id), path, { method: 'DELETE' });
    return c.body(null, 204);
  });

  app.openapi(commitStep, async (c) => {
    const { id, n } = c.req.valid('param');
    const answer = await callWorker(c, parseSessionId(id), `/steps/${String(parseStepNumber(n))}/commit`, {
      method: 'POST',
      body: JSON.stringify(c.req.valid('json')),
      headers: { 'content-type': JSON_CONTENT_TYPE },
    });
    return relay(c, answer);
  });
}
