/** Calls to workers: to the one that owns a session, or to any. */
import type { Context } from 'hono';
import { accepts } from 'hono/accepts';
import type * as z from 'zod';
import { isProblem, ProblemError, problemSchema } from '../../shared/errors.ts';
import { JSON_CONTENT_TYPE, jsonOfTensors } from '../../shared/json-tensors.ts';
import { LIMITS } from '../../shared/limits.ts';
import { SAFETENSORS_CONTENT_TYPE } from '../../shared/safetensors.ts';
import type { SessionId } from '../../shared/session.ts';
import type { EdgeEnv } from '../environment.ts';

/** Bad gateway, unavailable, timeout, and Cloudflare’s own 520 to 530. */
const isGatewayStatus = (status: number): boolean => status >= 502 && status !== 505;

interface WorkerRequest {
  readonly method: string;
  readonly body?: string | ReadableStream<Uint8Array>;
  readonly headers?: Record<string, string>;
}

/**
 * Sends a request to the session's worker.
 *
 * @param path below the session: '' or '/steps/3'
 * @returns the worker's answer, which is a success
 * @throws ProblemError the worker's own problem; `worker_unavailable` if no answer comes; `worker_protocol` if it is no success
 *   and no problem either
 */
export async function callWorker(
  c: Context<EdgeEnv>,
  session: SessionId,
  path: string,
  init: WorkerRequest,
): Promise<Response> {
  const { url } = await c.get('platform').placement.lease(session);
  return call(c, `${url}/sessions/${session}${path}`, init);
}

/** As {@link callWorker}, for what any worker can do. @param path as the worker has it */
export async function callAnyWorker(c: Context<EdgeEnv>, path: string, init: WorkerRequest): Promise<Response> {
  return call(c, `${await c.get('platform').placement.anyWorker()}${path}`, init);
}

async function call(c: Context<EdgeEnv>, url: string, init: WorkerRequest): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(url, {
      ...init,
      // A body that is streamed is announced, rather than sent in chunks.
      ...(init.body instanceof ReadableStream ? { duplex: 'half' } : {}),
      headers: { ...init.headers, 'x-request-id': c.get('requestId') },
      signal: c.req.raw.signal,
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
      const { code, detail, remedy, param, expectedStep, resumeFrom, missingParts } = parsed.data;
      return new ProblemError(code, {
        detail,
        remedy,
        ...(param === undefined ? {} : { param }),
        ...(expectedStep === undefined ? {} : { expectedStep }),
        ...(resumeFrom === undefined ? {} : { resumeFrom }),
        ...(missingParts === undefined ? {} : { missingParts }),
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

/**
 * A worker's answer as the client gets it: its body streams through, or becomes JSON where the client prefers that to safetensors
 * and the answer is small.
 *
 * @throws ProblemError `worker_protocol` if it has no body
 */
export async function relay(c: Context<EdgeEnv>, response: Response): Promise<Response> {
  const length = response.headers.get('content-length');
  if (
    response.headers.get('content-type') === SAFETENSORS_CONTENT_TYPE &&
    prefersJson(c) &&
    Number(length ?? Infinity) <= LIMITS.jsonTensorBytes
  ) {
    return c.json(jsonOfTensors(new Uint8Array(await response.arrayBuffer())));
  }
  return stream(c, response);
}

/** A worker's answer as it is. @throws ProblemError `worker_protocol` if it has no body */
export function stream(c: Context<EdgeEnv>, response: Response, headers: Record<string, string> = {}): Response {
  const type = response.headers.get('content-type');
  if (response.body === null || type === null) throw unexpectedAnswer('an empty body');
  const length = response.headers.get('content-length');
  return c.body(response.body, 200, {
    'content-type': type,
    ...(length === null ? {} : { 'content-length': length }),
    ...headers,
  });
}

/** An answer made at the edge, as {@link relay} gives one. */
export function answerTensors(c: Context<EdgeEnv>, body: Uint8Array<ArrayBuffer>): Response {
  if (prefersJson(c) && body.length <= LIMITS.jsonTensorBytes) return c.json(jsonOfTensors(body));
  return c.body(body, 200, { 'content-type': SAFETENSORS_CONTENT_TYPE });
}

function prefersJson(c: Context<EdgeEnv>): boolean {
  const supports = [SAFETENSORS_CONTENT_TYPE, JSON_CONTENT_TYPE];
  return accepts(c, { header: 'Accept', supports, default: SAFETENSORS_CONTENT_TYPE }) === JSON_CONTENT_TYPE;
}
