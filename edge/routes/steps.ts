/** PUT, GET and DELETE /v1/sessions/{id}/steps/{n}. */
import { createRoute, type OpenAPIHono } from '@hono/zod-openapi';
import * as z from 'zod';
import { LIMITS } from '../../shared/limits.ts';
import { SAFETENSORS_CONTENT_TYPE } from '../../shared/safetensors.ts';
import { parseSessionId, stepMetricsSchema } from '../../shared/session.ts';
import { checkStepHeader, parseStepNumber, STEP_NUMBER } from '../../shared/step.ts';
import type { EdgeEnv } from '../environment.ts';
import { checkWithDefinition } from '../forward/session-definitions.ts';
import type { SizedBody } from '../forward/streamed-body.ts';
import { callWorker, relay } from '../forward/worker.ts';
import { acceptTensors, tensorBody } from '../middleware/content.ts';
import { METRICS, STEPS } from './examples.ts';
import { problemResponses, SESSION_PROBLEMS, STEP_PROBLEMS } from './problem-responses.ts';
import { safetensorsBody, tensorsBodyLike, tensorsSchema } from './safetensors-body.ts';
import { sessionIdParameter } from './sessions.ts';

export const stepParameters = z.object({
  id: sessionIdParameter,
  n: z.string().meta({ description: 'Sequence number of the step, from 0', pattern: STEP_NUMBER.source, example: '0' }),
});

export const stepReply = {
  ...safetensorsBody,
  'application/json': {
    schema: z.union([stepMetricsSchema, tensorsSchema]),
    examples: { hosted: { summary: 'Mode hosted: the metrics', value: METRICS } },
  },
};

const REQUEST_TENSORS = `
Mode \`layers\`:

| tensor | shape | |
|---|---|---|
| \`losses\` | [B] | the loss of each sample |
| \`previous_losses\` | [B] | optional, with learning rate \`levenberg-marquardt\`: the losses of the same samples under the parameters before the last step, which judge that step; not with the first step |
| \`layers.<name>.input\` | [B, …] | what the layer was given |
| \`layers.<name>.output_grad\` | [B, …] | gradient of each sample’s own loss in the layer’s pre-activation, not divided by B |
| \`layers.<name>.curvature_grad\` | [B, r, …] | the same for the r columns of the terminal curvature; with \`gauss-newton\` and \`sampled-fisher\` (r = 1) |
| \`layers.<name>.parameter.<parameter>\` | own | with weight decay, the parameters that decay: \`weight\` or \`parameters\`; with its \`biases\` also \`bias\`, \`scale\` and \`shift\` |
| \`layers.<name>.param_grad\` | [B, m] | generic layers, in place of input and output_grad; \`curvature_param_grad\` [B, r, m] likewise |

Behind B stand: dense [n] and [c], with \`sequence\` [S, n] and [S, c]; conv2d [height, width, C] and [rows, columns, c];
scale-shift [features] twice, with \`sequence\` [S, features]; embedding [S] token numbers and [S, c]. F32, F64, F16 or BF16, for every layer of
the session and nothing else; I8 with \`transport.int8\`, the scale in \`__metadata__\` as \`<tensor>.scale\`.

Mode \`kernel\`, with R = B·r rows, r = 1 where the columns of the terminal curvature are the loss gradients:

| tensor | shape | |
|---|---|---|
| \`losses\`, \`previous_losses\` | [B] | as above |
| \`layers.<name>.gram\` | [R(R+1)/2] | N_t = J_t P_t⁻¹ J_tᵀ without the learning rate: its upper triangle row by row, \`N[numpy.triu_indices(R)]\` |
| \`layers.<name>.gram_diagonal\` | [B] | in its place with batch coupling \`diagonal\`: the diagonal of N_t |
| \`layers.<name>.gram_mean_grad\` | [B, r] | with \`gauss-newton\` and \`sampled-fisher\`: J_t P_t⁻¹ D_tᵀ1/B, D_t the loss gradients |
| \`layers.<name>.factor.input\`, \`.factor.output_grad\` | [n(n+1)/2], [c(c+1)/2] | with metric \`kronecker\`, in the steps that carry statistics, for all layers with factors: aᵀa/B and gᵀ diag(h) g/B, upper triangles, of a convolution with groups one row per group; \`.factor.input\` of the first layer may be left out once it is frozen |
| \`metric_versions\` | [layers] | optional, with metric \`kronecker\` and with policies in inverse factors: which inverses you hold, as the last reply said, 0 for none |

Mode \`hosted\`: \`x\` [B, …], samples in the model’s input shape, in any of these; \`y\`, labels [B] (also I64, I32 or U8) or targets [B, C], as
the loss takes; and, if you like, \`sample_weights\` [B], what each sample’s loss is multiplied by.

A step is applied once: the same number with the same bytes gives the stored reply; with other bytes it is refused.`;

const REPLY_TENSORS = `
Mode \`hosted\`: the step’s metrics, as JSON. Modes \`layers\` and \`kernel\`: a safetensors file, or JSON if \`Accept\` prefers that and the file
would have no more than 64 KiB.

\`update\`: \`layers.<name>.update.<parameter>\`, to be added to the parameters: \`weight\` and \`bias\`, or \`scale\` and \`shift\`, or
\`parameters\`, in their own shapes.

\`policy\`, encoding \`sample-factors\`: per layer \`.policy.input\` ã [B, n (+ 1, bias last)], \`.policy.output_grad\` g̃ [B, c], and the coefficients κ as a function of
s [B], s_i = ⟨∂φ_i/∂x, x̂_i − x_i⟩ the predicted change of sample i’s loss at this layer’s input in your second forward pass:
\`.policy.chol\` L, its lower triangle row by row [B(B+1)/2] (\`L[numpy.tril_indices(B)]\`), and \`.policy.target\` [B], to solve L Lᵀ κ = target + s; or, without cross-sample terms, \`.policy.gain\` and
\`.policy.offset\` [B] with κ = offset + gain ∘ s. Add −ãᵀ diag(κ) g̃ to [weight; bias], layer by layer. With weight decay
\`layers.<name>.update.<parameter>\` carries the part of the change that does not depend on s: add it too, before the pass goes on.

\`policy\`, encoding \`inverse-factors\`: the same coefficients; \`.learning_rate\` η_t []; and where yours are old, or you named none,
\`.metric.input_inverse\` A⁻¹ [n(n+1)/2] and \`.metric.output_grad_inverse\` Γ⁻¹ [c(c+1)/2], upper triangles row by row, the bias as the
last input, of a grouped convolution one row per group. \`.metric.inverse_diagonal.<parameter>\` in their place where the metric is
diagonal, neither where it is the identity. Form M = Jᵀκ, the gradient of Σ_i κ_i φ_i in [weight; bias], and add −η_t A⁻¹ M Γ⁻¹.
\`metric_versions\` [layers] is what to send with the next step.

Mode \`kernel\`: per layer \`.learning_rate\` η_t [], and \`coefficients\` κ_t [R] or, of \`factors\`, \`.policy.chol\` L, its lower triangle row by
row [R(R+1)/2] (\`L[numpy.tril_indices(R)]\`), and \`.policy.target\` [R], or \`.policy.gain\` and \`.policy.offset\` [B]. The change is
−η_t P_t⁻¹ J_tᵀ κ_t, with the columns of another terminal curvature −η_t P_t⁻¹(D_tᵀ1/B + J_tᵀ κ_t). With metric \`kronecker\` also
\`metric_versions\` and, where yours are old, \`.metric.input_inverse\` and \`.metric.output_grad_inverse\` as above.

\`__metadata__.metrics\` is the step’s metrics as JSON (schema StepMetrics).`;

const putStep = createRoute({
  method: 'put',
  tags: ['Steps'],
  path: '/v1/sessions/{id}/steps/{n}',
  summary: 'Take one optimizer step',
  description: REQUEST_TENSORS,
  middleware: [acceptTensors()] as const,
  request: { params: stepParameters, body: { required: true, content: tensorsBodyLike(STEPS) } },
  responses: {
    200: { description: REPLY_TENSORS, content: stepReply },
    ...problemResponses(...STEP_PROBLEMS),
  },
});

const getStep = createRoute({
  method: 'get',
  tags: ['Steps'],
  path: '/v1/sessions/{id}/steps/{n}',
  summary: 'Get a step’s reply again',
  description:
    'The reply of the last step is kept, unless replies of later steps of other sessions need the room: all those of a worker take at ' +
    `most ${String(LIMITS.retainedReplyBytes / 1e9)} GB.`,
  request: { params: stepParameters },
  responses: {
    200: { description: REPLY_TENSORS, content: stepReply },
    ...problemResponses(
      ...SESSION_PROBLEMS,
      'session_rewound',
      'reply_not_retained',
      'step_out_of_order',
      'invalid_parameter',
    ),
  },
});

const deleteStep = createRoute({
  method: 'delete',
  tags: ['Steps'],
  path: '/v1/sessions/{id}/steps/{n}',
  summary: 'Cancel a step that waits',
  description:
    'Takes step n out of the queue; whoever waits for its reply is answered `step_cancelled`, and the session is as it was. The answer ' +
    'is the same if no step n waits, or waits any more. A step that is being computed, or is applied already, is left as it is. ' +
    'When the service learns that the client of a waiting request is gone, it cancels it, too, unless another one waits for the same step.',
  request: { params: stepParameters },
  responses: {
    204: { description: 'Step n does not wait and is not applied' },
    ...problemResponses(
      ...SESSION_PROBLEMS,
      'session_rewound',
      'step_in_progress',
      'step_applied',
      'step_out_of_order',
      'invalid_parameter',
    ),
  },
});

export function registerSteps(app: OpenAPIHono<EdgeEnv>): void {
  app.openapi(putStep, async (c) => {
    const { id: idText, n } = c.req.valid('param');
    const id = parseSessionId(idText);
    const path = `/steps/${String(parseStepNumber(n))}`;
    const body = await tensorBody(c);
    const header = await body.readHeader();
    await checkWithDefinition(c, id, (definition) => checkStepHeader(header, definition));
    const forward = (sized: SizedBody): Promise<Response> =>
      callWorker(c, id, path, { method: 'PUT', body: sized, headers: { 'content-type': SAFETENSORS_CONTENT_TYPE } });
    return relay(c, await body.forward(forward));
  });

  app.openapi(getStep, async (c) => {
    const { id: idText, n } = c.req.valid('param');
    const id = parseSessionId(idText);
    return relay(c, await callWorker(c, id, `/steps/${String(parseStepNumber(n))}`, { method: 'GET' }));
  });

  app.openapi(deleteStep, async (c) => {
    const { id, n } = c.req.valid('param');
    await callWorker(c, parseSessionId(id), `/steps/${String(parseStepNumber(n))}`, { method: 'DELETE' });
    return c.body(null, 204);
  });
}
