/** POST /v1/kernel/solve: systems of one batch, without a session. */
import { createRoute, type OpenAPIHono } from '@hono/zod-openapi';
import { checkSolveHeader, decodeSolve, kernelSolveOptionsSchema, type SolveSizes } from '../../shared/kernel-solve.ts';
import { LIMITS } from '../../shared/limits.ts';
import { encode, SAFETENSORS_CONTENT_TYPE } from '../../shared/safetensors.ts';
import type { EdgeEnv } from '../environment.ts';
import type { SizedBody } from '../forward/streamed-body.ts';
import { answerTensors, callAnyWorker, relay } from '../forward/worker.ts';
import { solveKernels } from '../kernel/solve.ts';
import { acceptTensors, tensorBody } from '../middleware/content.ts';
import { SYSTEMS } from './examples.ts';
import { problemResponses, TENSOR_BODY_PROBLEMS, WORKER_PROBLEMS } from './problem-responses.ts';
import { tensorsBody, tensorsBodyLike } from './safetensors-body.ts';

const solve = createRoute({
  method: 'post',
  tags: ['Kernels'],
  path: '/v1/kernel/solve',
  summary: 'Solve the systems of one batch',
  description: `
The stateless sibling of mode \`kernel\`, for a trainer that keeps its own state. Send \`losses\` [B] and \`grams\` [S, B(B+1)/2]: for each
of S stages in the order of the forward pass the tangent kernel N_t = J_t P_t⁻¹ J_tᵀ of the batch’s loss gradients, without the learning
rate, its upper triangle row by row (\`N[numpy.triu_indices(B)]\`).

With h_i = clamp(1/(2·loss_i), lossFloor, lossCeiling) and S_t = B·diag(1/h) + η Σ_{τ ≥ t} N_τ the change of the parameters is
δu_t = −η P_t⁻¹ J_tᵀ κ_t with S_t κ_t = 1/h + s_t. Small batches are solved where the request arrives, S·B³ up to
${String(LIMITS.edgeSolveWork)}, larger ones on a worker.`,
  middleware: [acceptTensors()] as const,
  request: { query: kernelSolveOptionsSchema, body: { required: true, content: tensorsBodyLike(SYSTEMS) } },
  responses: {
    200: {
      description:
        '`coefficients`: κ_t, [S, B], with s_t = 0 or, with `gauss-newton-step`, what the stages before predict. `factors`: `chol`, the lower ' +
        'Cholesky factors of S_t, [S, B(B+1)/2], row by row (`L[numpy.tril_indices(B)]`), and `target` [B], 1/h.',
      content: tensorsBody,
    },
    ...problemResponses(...TENSOR_BODY_PROBLEMS, 'numerical_failure', ...WORKER_PROBLEMS),
  },
});

export function registerKernel(app: OpenAPIHono<EdgeEnv>): void {
  app.openapi(solve, async (c) => {
    const options = c.req.valid('query');
    const body = await tensorBody(c);
    const header = await body.readHeader();
    if (isSolvedHere(checkSolveHeader(header))) {
      return answerTensors(c, encode(solveKernels(decodeSolve(await body.read(), header, 'float64'), options)));
    }
    const path = `/kernel/solve${new URL(c.req.url).search}`;
    const headers = { 'content-type': SAFETENSORS_CONTENT_TYPE };
    const forward = (sized: SizedBody): Promise<Response> =>
      callAnyWorker(c, path, { method: 'POST', body: sized, headers });
    return relay(c, await body.forward(forward));
  });
}

function isSolvedHere({ batch, stages }: SolveSizes): boolean {
  return stages * batch ** 3 <= LIMITS.edgeSolveWork;
}
