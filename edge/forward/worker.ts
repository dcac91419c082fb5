/** Calls to the worker that owns a session. */
import type { Context } from 'hono';
import type * as z from 'zod';
import type { CheckpointId } from '../../shared/checkpoint.ts';
import { isProblem, ProblemError, problemSchema } from '../../shared/errors.ts';
import type { SessionId } from '../../shared/session.ts';
import type { EdgeEnv } from '../environment.ts';
import { singleWorker } from '../placement/placement.ts';

/** Bad gateway, unavailable, timeout, and Cloudflare’s own 520 to 530. */
const isGatewayStatus = (status: number): boolean => status >= 502 && status !== 505;

interface WorkerRequest {
  readonly method: string;
  readonly body?: BodyInit;
  readonly headers?: Record<string, string>;
}

/** As {@link callWorker}, for a checkpoint. */
export function callCheckpoint(c: Context<EdgeEnv>, id: CheckpointId, request: WorkerRequest): Promise<Response> {
  return send(c, `${singleWorker(c.env.WORKER_URL).checkpoints}/checkpoints/${id}`, request);
}

/**
 * Sends a request to the session's worker.
 *
 * @param path below the session: '' or '/steps/3'
 * @returns the worker's answer, which is a success
 * @throws ProblemError the worker's own problem; `worker_unavailable` if no answer comes; `worker_protocol` if it is no success
 *   and no problem either
 */
export function callWorker(
  c: Context<EdgeEnv>,
  session: SessionId,
  path: string,
  request: WorkerRequest,
): Promise<Response> {
  return send(c, `${singleWorker(c.env.WORKER_URL).workerFor(session)}/sessions/${session}${path}`, request);
}

async function send(c: Context<EdgeEnv>, url: string, request: WorkerRequest): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(url, {
      ...request,
      headers: { ...request.headers, 'x-request-id': c.get('requestId') },
    });
  } catch (cause) {
    throw unavailable('no connection', cause);
  }
  if (response.ok) return response;
  throw await problemOf(response);
}

async function problemOf(response: Response): Promise<ProblemError> {
  if (isProblem(response)) {
    const parsed = problemSchema.safeParse(await readJson(response));
    if (parsed.success) {
      const { code, detail, remedy, param, expectedStep, resumeFrom } = parsed.data;
      return new ProblemError(code, {
        detail,
        remedy,
        ...(param === undefined ? {} : { param }),
        ...(expectedStep === undefined ? {} : { expectedStep }),
        ...(resumeFrom === undefined ? {} : { resumeFrom }),
      });
    }
  }
  if (!response.bodyUsed) await response.body?.cancel();
  // What stands between edge and worker answers so when it does not reach the worker.
  if (isGatewayStatus(response.status)) return unavailable(`status ${String(response.status)}`);
  return unexpectedAnswer(`status ${String(response.status)} without a problem document`);
}

/** The JSON of a worker's answer. @throws ProblemError `worker_protocol` if it does not parse */
async function readJson(response: Response): Promise<unknown> {
  try {
    return await response.json();
  } catch (cause) {
    throw unexpectedAnswer('a body that is not JSON', cause);
  }
}

/** The document of a known form in a worker's answer. @throws ProblemError `worker_protocol` if there is none */
export async function readDocument<Schema extends z.ZodType>(
  schema: Schema,
  response: Response,
): Promise<z.output<Schema>> {
  const parsed = schema.safeParse(await readJson(response));
  if (!parsed.success) throw unexpectedAnswer('a document of a form this edge does not know', parsed.error);
  return parsed.data;
}

function unavailable(reason: string, cause?: unknown): ProblemError {
  return new ProblemError(
    'worker_unavailable',
    {
      detail: `The worker does not answer (${reason}).`,
      remedy: 'Send the same request again in a second.',
    },
    { cause },
  );
}

function unexpectedAnswer(what: string, cause?: unknown): ProblemError {
  return new ProblemError(
    'worker_protocol',
    { detail: `The worker answered with ${what}.`, remedy: 'Deploy edge and worker of the same version.' },
    { cause },
  );
}

/** A worker's answer as the client gets it: its body streams through. @throws ProblemError `worker_protocol` if it has none */
export function relay(c: Context<EdgeEnv>, response: Response): Response {
  const type = response.headers.get('content-type');
  if (response.body === null || type === null) throw unexpectedAnswer('an empty body');
  const length = response.headers.get('content-length');
  return c.body(response.body, 200, {
    'content-type': type,
    ...(length === null ? {} : { 'content-length': length }),
  });
}
