/** GET /v1/sessions/{id}/weights and POST /v1/sessions/{id}/predictions: models that the service holds. */
import { createRoute, type OpenAPIHono } from '@hono/zod-openapi';
import { SAFETENSORS_CONTENT_TYPE } from '../../shared/safetensors.ts';
import { notHosted, parseSessionId } from '../../shared/session.ts';
import { checkPredictionHeader } from '../../shared/step.ts';
import type { EdgeEnv } from '../environment.ts';
import { checkWithDefinition } from '../forward/session-definitions.ts';
import type { SizedBody } from '../forward/streamed-body.ts';
import { callWorker, relay } from '../forward/worker.ts';
import { acceptTensors, tensorBody } from '../middleware/content.ts';
import { PREDICTIONS } from './examples.ts';
import { problemResponses, SESSION_PROBLEMS, TENSOR_BODY_PROBLEMS } from './problem-responses.ts';
import { tensorsBody, tensorsBodyLike } from './safetensors-body.ts';
import { sessionParameters } from './sessions.ts';

const getWeights = createRoute({
  method: 'get',
  tags: ['Hosted models'],
  path: '/v1/sessions/{id}/weights',
  summary: 'Download the weights of a hosted model',
  request: { params: sessionParameters },
  responses: {
    200: {
      description:
        '`layers.<name>.<parameter>`: every parameter in its own shape, and of batch norms `running_mean` and `running_variance`; dense kernels ' +
        '[inputs, outputs], convolution kernels [rows, columns, channels, outputs]. `__metadata__` has the `model` as JSON and ' +
        'the number of steps taken, `step`.',
      content: tensorsBody,
    },
    ...problemResponses(...SESSION_PROBLEMS, 'not_hosted', 'queue_full', 'memory_full'),
  },
});

const postPredictions = createRoute({
  method: 'post',
  tags: ['Hosted models'],
  path: '/v1/sessions/{id}/predictions',
  summary: 'Ask a hosted model',
  description:
    'Send `x` [B, …], samples in the model’s input shape, in any element type that a step takes; with `y`, labels [B] or targets [B, C], the answer has the mean loss, too.',
  middleware: [acceptTensors()] as const,
  request: { params: sessionParameters, body: { required: true, content: tensorsBodyLike(PREDICTIONS) } },
  responses: {
    200: {
      description:
        '`outputs` [B, C], in evaluation mode: nothing is dropped, batch norms use their running statistics. `__metadata__.loss` is ' +
        'the mean loss where `y` was sent.',
      content: tensorsBody,
    },
    ...problemResponses(...TENSOR_BODY_PROBLEMS, ...SESSION_PROBLEMS, 'not_hosted', 'numerical_failure'),
  },
});

export function registerModels(app: OpenAPIHono<EdgeEnv>): void {
  app.openapi(getWeights, async (c) => {
    const id = parseSessionId(c.req.valid('param').id);
    return relay(c, await callWorker(c, id, '/weights', { method: 'GET' }));
  });

  app.openapi(postPredictions, async (c) => {
    const id = parseSessionId(c.req.valid('param').id);
    await checkWithDefinition(c, id, ({ mode }) => {
      if (mode !== 'hosted') throw notHosted(id);
    });
    const body = await tensorBody(c);
    const header = await body.readHeader();
    await checkWithDefinition(c, id, (definition) => {
      if (definition.mode === 'hosted') checkPredictionHeader(header, definition);
    });
    const headers = { 'content-type': SAFETENSORS_CONTENT_TYPE };
    const forward = (sized: SizedBody): Promise<Response> =>
      callWorker(c, id, '/predictions', { method: 'POST', body: sized, headers });
    return relay(c, await body.forward(forward));
  });
}
