/** Calls to workers: to the one that owns a session, or to any. */
import type { Context } from 'hono';
import { accepts } from 'hono/accepts';
import type * as z from 'zod';
import { isProblem, mediaType, ProblemError, problemSchema, type ProblemCode } from '../../shared/errors.ts';
import { JSON_CONTENT_TYPE, jsonOfTensors } from '../../shared/json-tensors.ts';
import { LIMITS } from '../../shared/limits.ts';
import { SAFETENSORS_CONTENT_TYPE } from '../../shared/safetensors.ts';
import { sessionMoved, sessionNotFound, type SessionId } from '../../shared/session.ts';
import { signCall } from '../../shared/signed-call.ts';
import { WORKER_HEADER } from '../../shared/worker-protocol.ts';
import { whileChecked, withDeadline } from '../deadline.ts';
import type { EdgeEnv } from '../environment.ts';
import { tenantOf } from '../middleware/access.ts';
import type { FailedLease } from '../placement/placement-directory.ts';
import type { Route } from '../placement/placement.ts';
import { concatenate, type SizedBody } from './streamed-body.ts';

/** Bad gateway, unavailable, timeout, and Cloudflare’s own 520 to 530. */
const isGatewayStatus = (status: number): boolean => status >= 502 && status !== 505;

/** Of an answer that is not streamed: one that may become JSON never is. */
const SMALL_ANSWER_BYTES = LIMITS.jsonTensorBytes;

interface WorkerRequest {
  readonly method: 'GET' | 'PUT' | 'POST' | 'PATCH' | 'DELETE';
  readonly body?: string | SizedBody;
  readonly headers?: Record<string, string>;
}

/**
 * Sends a request to the session's worker. If that is lost, or the session has moved, the session is placed anew; the request is sent
 * again where that does no harm and its body is still there. Otherwise the client's next try arrives.
 *
 * @param path below the session: '' or '/steps/3'
 * @returns the worker's answer, which is a success
 * @throws ProblemError the worker's own problem; `worker_unavailable` or `worker_timeout` if no answer comes; `session_moved`;
 *   `worker_protocol` if it is no success and no problem either
 */
export async function callWorker(
  c: Context<EdgeEnv>,
  session: SessionId,
  path: string,
  init: WorkerRequest,
): Promise<Response> {
  const { placement } = c.get('platform');
  let route = await placement.route(session);
  const isCreation = init.method === 'PUT' && path === '';
  for (let tries = 1; ; tries++) {
    try {
      const response = await callOwner(c, session, route, path, init);
      if (init.method === 'DELETE' && path === '') await placement.release(session, route);
      return response;
    } catch (error) {
      // There is one, and it stays where it is.
      if (error instanceof ProblemError && error.code === 'other_tenant') throw sessionNotFound(session);
      const failure = failureOf(error);
      if (error instanceof ProblemError && (NO_SESSION.has(error.code) || (isCreation && isRefusal(error)))) {
        await placement.release(session, route);
      }
      if (failure === null || hasClientGone(c, init)) throw error;
      const next = await placement.reroute(session, route, failure.reason, failure.epoch);
      const isRepeatable =
        typeof init.body !== 'object' &&
        // Of a request that found no worker, or was not taken, nothing was done.
        (failure.reason === 'moved' || REPEATABLE.has(init.method));
      if (next === null || !isRepeatable || tries === TRIES) throw error;
      route = next;
    }
  }
}

/** One request may meet a lost worker, and then a lease that somebody else has just changed. */
const TRIES = 3;

/** Those after which it does no harm to do the same again. */
const REPEATABLE: ReadonlySet<WorkerRequest['method']> = new Set(['GET', 'PUT', 'PATCH']);

/** What a worker answers that has no such session. */
const NO_SESSION: ReadonlySet<ProblemCode> = new Set(['session_not_found', 'session_expired']);

/** Whether nothing was done: the worker has said so, rather than nothing, or something else. */
function isRefusal(error: ProblemError): boolean {
  return failureOf(error) === null && error.code !== 'worker_protocol';
}

/** Whether a call may have failed because of the client, and not of the worker. */
function hasClientGone(c: Context<EdgeEnv>, { body }: WorkerRequest): boolean {
  return c.req.raw.signal.aborted || (typeof body === 'object' && body.isTruncated());
}

/** How a call has failed to reach the session's owner, null if it has reached it. */
function failureOf(error: unknown): { readonly reason: FailedLease['reason']; readonly epoch: number } | null {
  if (!(error instanceof ProblemError)) return null;
  switch (error.code) {
    case 'worker_unavailable':
    case 'worker_timeout':
      return { reason: 'unreachable', epoch: 0 };
    case 'session_moved':
      return { reason: 'moved', epoch: error.details.epoch ?? 0 };
    default:
      return null;
  }
}

/**
 * Calls the owner of a session as long as it is that. A worker that hangs is found out when its lease ends: what it says after the
 * session has moved is not waited for, and not believed.
 */
async function callOwner(
  c: Context<EdgeEnv>,
  session: SessionId,
  { url, lease }: Route,
  path: string,
  init: WorkerRequest,
): Promise<Response> {
  const target = `/sessions/${session}${path}`;
  if (lease === null) return callWhileAlive(c, url, target, init);
  const { placement } = c.get('platform');
  const assertOwner = async (): Promise<number> => {
    const { lease: current } = await placement.route(session);
    if (current?.epoch !== lease.epoch) throw sessionMoved(session, lease.epoch);
    return untilAfter(current.expires);
  };
  const work = async (moved: AbortSignal): Promise<Response> => {
    let response: Response;
    try {
      response = await call(c, url, target, init, lease.token, moved);
    } catch (error) {
      await assertOwner();
      throw error;
    }
    try {
      await assertOwner();
    } catch (error) {
      await response.body?.cancel();
      throw error;
    }
    return response;
  };
  return whileChecked(work, untilAfter(lease.expires), assertOwner);
}

/** Milliseconds from now on. @param time milliseconds since the Unix epoch */
function untilAfter(time: number): number {
  return Math.max(0, time - Date.now()) + 1;
}

/** Calls a worker of which no lease says when it is lost: while its answer is not there, it is asked now and then whether it lives. */
function callWhileAlive(c: Context<EdgeEnv>, url: string, path: string, init: WorkerRequest): Promise<Response> {
  const { answerMilliseconds } = c.get('platform');
  const check = async (): Promise<number> => {
    await assertAlive(url, answerMilliseconds);
    return answerMilliseconds;
  };
  return whileChecked((lost) => call(c, url, path, init, '', lost), answerMilliseconds, check);
}

/** Whether what needs no session can be done. @throws ProblemError `worker_unavailable`, `worker_timeout` */
export async function assertAnyAlive(c: Context<EdgeEnv>): Promise<void> {
  const { placement, answerMilliseconds } = c.get('platform');
  const url = await placement.anyWorker();
  await reportingLoss(c, url, { method: 'GET' }, () => assertAlive(url, answerMilliseconds));
}

/** @throws ProblemError `worker_unavailable`, `worker_timeout` */
async function assertAlive(url: string, milliseconds: number): Promise<void> {
  const ask = async (signal: AbortSignal): Promise<void> => {
    let response: Response;
    try {
      response = await fetch(`${url}/healthz`, { signal });
    } catch (cause) {
      throw unavailable('no connection', cause);
    }
    await response.body?.cancel();
    if (!response.ok) throw unavailable(`status ${String(response.status)}`);
  };
  await withDeadline(milliseconds, () => workerTimeout(milliseconds), ask);
}

/** As {@link callWorker}, for what any worker can do. @param path as the worker has it */
export async function callAnyWorker(c: Context<EdgeEnv>, path: string, init: WorkerRequest): Promise<Response> {
  const url = await c.get('platform').placement.anyWorker();
  return reportingLoss(c, url, init, () => callWhileAlive(c, url, path, init));
}

/** Has a worker that cannot be reached counted as lost, until it is heard again. */
async function reportingLoss<Result>(
  c: Context<EdgeEnv>,
  url: string,
  init: WorkerRequest,
  work: () => Promise<Result>,
): Promise<Result> {
  try {
    return await work();
  } catch (error) {
    const isLost = failureOf(error)?.reason === 'unreachable' && !hasClientGone(c, init);
    if (isLost) await c.get('platform').placement.unreachable(url);
    throw error;
  }
}

/**
 * Asks every worker that has sessions for a document that takes it no computing.
 *
 * @throws ProblemError as {@link callWorker}; `worker_timeout` if one does not answer in time
 */
export async function askEveryWorker<Schema extends z.ZodType>(
  c: Context<EdgeEnv>,
  path: string,
  schema: Schema,
): Promise<z.output<Schema>[]> {
  const { placement, answerMilliseconds } = c.get('platform');
  const init = { method: 'GET' } as const;
  const urls =
    placement.directory === null
      ? [await placement.anyWorker()]
      : (await placement.directory.workers()).filter(({ isUsable }) => isUsable).map(({ url }) => url);
  const ask = (url: string): Promise<z.output<Schema>> => {
    const read = async (late: AbortSignal) => readDocument(schema, await call(c, url, path, init, '', late));
    const late = () => workerTimeout(answerMilliseconds);
    return reportingLoss(c, url, init, () => withDeadline(answerMilliseconds, late, read));
  };
  return Promise.all(urls.map(ask));
}

/**
 * @param lease signed; empty for what concerns no session, or where sessions have one worker for good
 * @param vain aborts when the answer is not worth waiting for any more, with the problem that is to be thrown
 */
async function call(
  c: Context<EdgeEnv>,
  url: string,
  path: string,
  { method, body, headers }: WorkerRequest,
  lease: string,
  vain: AbortSignal,
): Promise<Response> {
  const { signer } = c.get('platform');
  const length = typeof body === 'object' ? body.length : new TextEncoder().encode(body ?? '').length;
  const tenant = tenantOf(c);
  const signed = { method, path: new URL(url).pathname.replace(/\/$/, '') + path, length, lease, tenant, digest: '' };
  const client = c.req.raw.signal;
  let response: Response;
  try {
    response = await fetch(url + path, {
      method,
      headers: {
        ...headers,
        // Under Node what streams is sent in chunks unless its length is said.
        ...(typeof body === 'object' ? { 'content-length': String(length) } : {}),
        [WORKER_HEADER.requestId]: c.get('requestId'),
        [WORKER_HEADER.tenant]: tenant,
        ...traceContext(c),
        ...(signer === null ? {} : await signCall(signed, signer, Date.now())),
      },
      ...(typeof body === 'object' ? { body: body.content, duplex: 'half' } : body === undefined ? {} : { body }),
      signal: AbortSignal.any([client, vain]),
    });
  } catch (cause) {
    throw problemIn(vain) ?? unavailable('no connection', cause);
  }
  takeReport(c, response.headers);
  if (!isStreamed(response)) response = await readWhole(c, response, vain);
  if (response.ok) return response;
  throw await problemOf(response);
}

/** What a signal has been aborted with. */
function problemIn({ aborted, reason }: AbortSignal): ProblemError | null {
  return aborted && reason instanceof ProblemError ? reason : null;
}

/** Whether an answer is passed on while it comes: a large one, and events, whose end nobody knows. */
function isStreamed(response: Response): boolean {
  const { headers } = response;
  const isDocument = mediaType(headers.get('content-type')) === JSON_CONTENT_TYPE || isProblem(response);
  return !isDocument && Number(headers.get('content-length') ?? Infinity) > SMALL_ANSWER_BYTES;
}

/**
 * An answer with all of its body, which has been made when its first byte comes, so that the last one is not far.
 *
 * @throws ProblemError `worker_unavailable` if it breaks off, `worker_timeout` if it does not end
 */
async function readWhole(
  c: Context<EdgeEnv>,
  { body, status, headers }: Response,
  vain: AbortSignal,
): Promise<Response> {
  const stream: ReadableStream<Uint8Array> | null = body;
  if (stream === null) return new Response(null, { status, headers });
  const { answerMilliseconds } = c.get('platform');
  const reader = stream.getReader();
  const read = async (): Promise<Uint8Array<ArrayBuffer>> => {
    const chunks: Uint8Array[] = [];
    for (let length = 0; ;) {
      const { value, done } = await reader.read();
      if (done) return concatenate(chunks, length);
      chunks.push(value);
      length += value.length;
    }
  };
  const late = (): ProblemError => workerTimeout(answerMilliseconds, 'has begun an answer, and not ended it');
  try {
    return new Response(await withDeadline(answerMilliseconds, late, read), { status, headers });
  } catch (cause) {
    if (!(cause instanceof ProblemError)) throw problemIn(vain) ?? unavailable('the answer broke off', cause);
    // Nobody reads the rest; what cancelling it comes to does not matter any more.
    void reader.cancel(cause).catch(() => undefined);
    throw cause;
  }
}

/** The client’s trace, which goes on at the worker. https://www.w3.org/TR/trace-context/ */
function traceContext(c: Context<EdgeEnv>): Record<string, string> {
  const headers = ['traceparent', 'tracestate'].map((name) => [name, c.req.header(name)] as const);
  return Object.fromEntries(headers.filter((header): header is readonly [string, string] => header[1] !== undefined));
}

/** Adds what a worker says it has computed to what this request has taken. */
function takeReport(c: Context<EdgeEnv>, headers: Headers): void {
  const reported = c.get('reported');
  reported.steps += Number(headers.get(WORKER_HEADER.steps) ?? 0);
  reported.computeSeconds += Number(headers.get(WORKER_HEADER.computeSeconds) ?? 0);
}

async function problemOf(response: Response): Promise<ProblemError> {
  if (isProblem(response)) {
    const parsed = problemSchema.safeParse(await readJson(response));
    if (parsed.success) {
      const { code, detail, remedy, param, expectedStep, resumeFrom, missingParts, missingChunks, retryAfter, epoch } =
        parsed.data;
      if (code === 'call_refused') return refused(detail);
      return new ProblemError(code, {
        detail,
        remedy,
        ...(param === undefined ? {} : { param }),
        ...(expectedStep === undefined ? {} : { expectedStep }),
        ...(resumeFrom === undefined ? {} : { resumeFrom }),
        ...(missingParts === undefined ? {} : { missingParts }),
        ...(missingChunks === undefined ? {} : { missingChunks }),
        ...(epoch === undefined ? {} : { epoch }),
        ...(retryAfter === undefined ? {} : { retryAfter }),
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

function workerTimeout(milliseconds: number, what = 'has not answered'): ProblemError {
  return new ProblemError('worker_timeout', {
    detail: `The worker ${what} for ${String(milliseconds / 1000)} seconds; it hangs, or the network to it is broken.`,
    remedy: 'Send the same request again in a second; if it stays, restart the worker.',
  });
}

/** The client has no part in how edge and worker know each other. */
function refused(reason: string): ProblemError {
  return new ProblemError('worker_protocol', {
    detail: `The worker does not take the edge’s calls. ${reason}`,
    remedy: 'Give edge and workers the same secret, and clocks that agree.',
  });
}

function unexpectedAnswer(what: string, cause?: unknown): ProblemError {
  return new ProblemError(
    'worker_protocol',
    { detail: `The worker answered with ${what}.`, remedy: 'Deploy edge and worker of the same version.' },
    { cause },
  );
}

/**
 * A worker's answer as the client gets it: its body streams through unless it is small, or becomes JSON where the client prefers that to
 * safetensors and the answer is small.
 *
 * @throws ProblemError `worker_protocol` if it has no body
 */
export async function relay(c: Context<EdgeEnv>, response: Response): Promise<Response> {
  const type = response.headers.get('content-type');
  if (type === null || isStreamed(response)) return stream(c, response);
  const body = new Uint8Array(await response.arrayBuffer());
  if (body.length === 0) throw unexpectedAnswer('an empty body');
  if (type === SAFETENSORS_CONTENT_TYPE) return answerTensors(c, body);
  return c.body(body, 200, { 'content-type': type, 'content-length': String(body.length) });
}

/** A worker's answer as it is. @throws ProblemError `worker_protocol` if it has no body */
export function stream(c: Context<EdgeEnv>, response: Response, headers: Record<string, string> = {}): Response {
  const type = response.headers.get('content-type');
  if (response.body === null || type === null) throw unexpectedAnswer('an empty body');
  const length = response.headers.get('content-length');
  const { relayed, log } = c.get('platform');
  const report = (error: unknown): void => {
    log({ event: 'answer_broken_off', requestId: c.get('requestId'), error: reasonOf(error) }, 502);
  };
  return c.body(relayed(response.body, c.env, report), 200, {
    'content-type': type,
    ...(length === null ? {} : { 'content-length': length }),
    ...headers,
  });
}

/** What an error says, and what the one says that has caused it. */
function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  return error.cause === undefined ? error.message : `${error.message}: ${reasonOf(error.cause)}`;
}

/** An answer made at the edge, as {@link relay} gives one. */
export function answerTensors(c: Context<EdgeEnv>, body: Uint8Array<ArrayBuffer>): Response {
  if (prefersJson(c) && body.length <= LIMITS.jsonTensorBytes) return c.json(jsonOfTensors(body));
  return c.body(body, 200, { 'content-type': SAFETENSORS_CONTENT_TYPE, 'content-length': String(body.length) });
}

function prefersJson(c: Context<EdgeEnv>): boolean {
  const supports = [SAFETENSORS_CONTENT_TYPE, JSON_CONTENT_TYPE];
  return accepts(c, { header: 'Accept', supports, default: SAFETENSORS_CONTENT_TYPE }) === JSON_CONTENT_TYPE;
}
