/** Requests to the service: what every part of the client sends through. */
import { API_VERSION_HEADER, LATEST_API_VERSION } from '../../shared/api-version.ts';
import { isProblem, problemSchema } from '../../shared/errors.ts';
import type { NarrowDtype } from '../../shared/safetensors.ts';
import { ConnectionError, DdpnoptError } from './errors.ts';
import {
  completePolicy,
  parseRetryAfter,
  SYSTEM_TIMING,
  wait,
  waitBeforeRetry,
  type Failure,
  type RetryPolicy,
  type Timing,
} from './retry.ts';

/** Bound on one attempt, from its first byte to the answer's last one: a step may wait for its turn in the service's queue. */
const DEFAULT_TIMEOUT_MILLISECONDS = 300_000;

/** What a client tells about its requests. */
export type RequestEvent = { readonly requestId: string; readonly method: string; readonly path: string } & (
  | { readonly kind: 'sent'; readonly attempt: number; readonly bytes: number }
  | {
      readonly kind: 'retry';
      /** The attempt that failed, from 1. */
      readonly attempt: number;
      readonly reason: DdpnoptError | ConnectionError;
      /** Until the next attempt. */
      readonly milliseconds: number;
    }
  | {
      readonly kind: 'answered';
      readonly status: number;
      readonly attempts: number;
      readonly bytes: number;
      readonly milliseconds: number;
    }
);

export interface TransportOptions {
  /** Where the service is, for example http://127.0.0.1:8787. */
  readonly url: string | URL;
  /** The API key, `ddpnopt_…`, where the service asks for one. */
  readonly apiKey?: string | undefined;
  /** How requests that may be repeated are: GET, PUT and DELETE, and of POST those that change nothing. */
  readonly retry?: Partial<RetryPolicy>;
  /** Bound on one attempt, its answer included; 300,000 unless given. */
  readonly timeoutMilliseconds?: number;
  /** Called for every request, attempt and answer. What it throws ends the request. */
  readonly onRequest?: (event: RequestEvent) => void;
  readonly timing?: Timing;
}

export interface RequestOptions {
  /**
   * Gives the request up, and with it any wait before another attempt. What it asked for may be done all the same, unless the
   * service learns in time that nobody waits.
   */
  readonly signal?: AbortSignal;
  /** Bound on one attempt, in place of the client's. */
  readonly timeoutMilliseconds?: number;
}

/** Options of a step. */
export interface StepOptions extends RequestOptions {
  /**
   * Element type in which the large tensors of a step travel; losses, tokens and labels stay as they are. Two bytes a number, with 11
   * (F16) or 8 (BF16) significant bits; or one, with a scale per tensor, in a session with `transport.int8`.
   */
  readonly sendAs?: NarrowDtype;
}

export interface RequestBody {
  readonly contentType: string;
  readonly content: string | Uint8Array<ArrayBuffer>;
  /** Whether the request may be sent twice though its method is POST: it changes nothing, or its path makes it the same one. */
  readonly isRepeatable?: boolean;
}

interface Call {
  readonly requestId: string;
  readonly method: string;
  readonly path: string;
  readonly body: RequestBody | undefined;
}

/**
 * An answer whose body has arrived: what is asked of a `Response`. To make one of those of another takes a tenth of the time of a small
 * request in the client.
 */
export class Answer {
  readonly status: number;
  readonly headers: Headers;
  readonly #body: ArrayBuffer;

  /** @param body decompressed; `headers` may say otherwise */
  constructor(status: number, headers: Headers, body: ArrayBuffer) {
    this.status = status;
    this.headers = headers;
    this.#body = body;
  }

  get ok(): boolean {
    return this.status >= 200 && this.status < 300;
  }

  /** Bytes of the body. */
  get length(): number {
    return this.#body.byteLength;
  }

  arrayBuffer(): Promise<ArrayBuffer> {
    return Promise.resolve(this.#body);
  }

  async json(): Promise<unknown> {
    return JSON.parse(new TextDecoder().decode(await this.arrayBuffer()));
  }
}

type FailedOutcome = { readonly kind: 'failure' } & Failure;
type Outcome = { readonly kind: 'answer'; readonly answer: Answer } | FailedOutcome;

export class Transport {
  readonly timing: Timing;
  readonly #base: URL;
  readonly #authorization: Readonly<Record<string, string>>;
  readonly #retry: RetryPolicy;
  readonly #timeout: number;
  readonly #onRequest: ((event: RequestEvent) => void) | undefined;

  /** @throws RangeError, TypeError for an option out of its range */
  constructor({ url, apiKey, retry = {}, timeoutMilliseconds, onRequest, timing = SYSTEM_TIMING }: TransportOptions) {
    // With a closing slash, so that paths are resolved below it.
    this.#base = new URL(String(url).replace(/\/*$/, '/'));
    // The text itself is not repeated: it may be a key with something around it.
    if (apiKey !== undefined && !/^[\x21-\x7e]+$/.test(apiKey))
      throw new TypeError('the API key has characters that no key has');
    this.#authorization = apiKey === undefined ? {} : { authorization: `Bearer ${apiKey}` };
    this.#retry = completePolicy(retry);
    this.#timeout = timeoutMilliseconds ?? DEFAULT_TIMEOUT_MILLISECONDS;
    this.#onRequest = onRequest;
    this.timing = timing;
  }

  /**
   * One request to the service, sent again after failures that may pass, if sending it twice does the same as sending it once.
   *
   * @returns the answer, complete
   * @throws DdpnoptError if the service refuses, ConnectionError if no answer comes; the signal's reason
   */
  async request(method: string, path: string, options: RequestOptions, body?: RequestBody): Promise<Answer> {
    const call: Call = { requestId: newRequestId(), method, path, body };
    const { now, random } = this.timing;
    const began = now();
    for (let attempt = 1; ; attempt++) {
      this.#tell(call, { kind: 'sent', attempt, bytes: body?.content.length ?? 0 });
      const outcome = await this.#attempt(call, options);
      if (outcome.kind === 'answer') {
        const { answer } = outcome;
        this.#tell(call, {
          kind: 'answered',
          status: answer.status,
          attempts: attempt,
          bytes: answer.length,
          milliseconds: now() - began,
        });
        return answer;
      }
      const { error } = outcome;
      // An earlier attempt may have done it: there is nothing left to delete.
      if (method === 'DELETE' && attempt > 1 && error instanceof DdpnoptError && error.problem.status === 404) {
        return new Answer(204, new Headers(), new ArrayBuffer(0));
      }
      const pause = isRepeatable(call) ? waitBeforeRetry(this.#retry, outcome, attempt, now() - began, random) : null;
      if (pause === null) throw error;
      this.#tell(call, { kind: 'retry', attempt, reason: error, milliseconds: pause });
      await wait(this.timing, pause, options.signal);
    }
  }

  /**
   * The answer to a GET as it comes, sent once and without a bound on its time.
   *
   * @throws DdpnoptError if the service refuses, ConnectionError if no answer comes; the signal's reason
   */
  async stream(
    path: string,
    { signal }: Pick<RequestOptions, 'signal'>,
    headers: Readonly<Record<string, string>>,
  ): Promise<Response> {
    const call: Call = { requestId: newRequestId(), method: 'GET', path, body: undefined };
    let response: Response;
    try {
      response = await this.#fetch(call, signal, headers);
    } catch (cause) {
      if (signal?.aborted === true) throw cause;
      throw this.#failed(call, 'no answer', { cause }).error;
    }
    if (response.ok) return response;
    throw (await this.#refusal(call, response)).error;
  }

  #fetch(
    { requestId, method, path, body }: Call,
    signal: AbortSignal | undefined,
    headers: Readonly<Record<string, string>> = {},
  ): Promise<Response> {
    return fetch(new URL(path, this.#base), {
      method,
      headers: {
        ...headers,
        [API_VERSION_HEADER]: LATEST_API_VERSION,
        'x-request-id': requestId,
        ...this.#authorization,
        ...(body === undefined ? {} : { 'content-type': body.contentType }),
      },
      ...(body === undefined ? {} : { body: body.content }),
      ...(signal === undefined ? {} : { signal }),
    });
  }

  /** @throws the signal's reason */
  async #attempt(call: Call, { signal, timeoutMilliseconds = this.#timeout }: RequestOptions): Promise<Outcome> {
    const timeout = new AbortController();
    const callOff = this.timing.schedule(timeoutMilliseconds, () => {
      timeout.abort(new ConnectionError(`no answer within ${String(timeoutMilliseconds)} ms`));
    });
    let status: number | null = null;
    try {
      const both = signal === undefined ? timeout.signal : AbortSignal.any([signal, timeout.signal]);
      const response = await this.#fetch(call, both);
      status = response.status;
      const answer = new Answer(status, response.headers, await response.arrayBuffer());
      if (answer.ok) return { kind: 'answer', answer };
      return await this.#refusal(call, answer);
    } catch (cause) {
      if (signal?.aborted === true) throw cause;
      const reason =
        timeout.signal.reason instanceof ConnectionError
          ? timeout.signal.reason.message
          : status === null
            ? 'no answer'
            : 'the answer broke off';
      return this.#failed(call, reason, { isRetryable: true, cause });
    } finally {
      callOff();
    }
  }

  /** What an answer means that is none of success. */
  async #refusal(call: Call, answer: Pick<Answer, 'status' | 'headers' | 'json'>): Promise<FailedOutcome> {
    const retryAfterMilliseconds = parseRetryAfter(answer.headers.get('retry-after'), Date.now());
    if (isProblem(answer)) {
      const problem = problemSchema.safeParse(await complete(() => answer.json()));
      if (problem.success) {
        const error = new DdpnoptError(problem.data);
        return { kind: 'failure', error, isRetryable: problem.data.retryable, retryAfterMilliseconds };
      }
    }
    // Something between here and the service answered in its place.
    const isRetryable = answer.status >= 500 || answer.status === 429;
    const reason = `status ${String(answer.status)}, not from the service`;
    return this.#failed(call, reason, { isRetryable, retryAfterMilliseconds });
  }

  #failed(
    { method, path, requestId }: Call,
    reason: string,
    {
      isRetryable,
      retryAfterMilliseconds = null,
      cause,
    }: Partial<Omit<Failure, 'error'>> & { readonly cause?: unknown },
  ): FailedOutcome {
    const message = `${method} ${path} at ${this.#base.href}: ${reason} (request ${requestId})`;
    const error = new ConnectionError(message, { requestId, ...(cause === undefined ? {} : { cause }) });
    return { kind: 'failure', error, isRetryable: isRetryable === true, retryAfterMilliseconds };
  }

  #tell(
    { requestId, method, path }: Call,
    event: DistributiveOmit<RequestEvent, 'requestId' | 'method' | 'path'>,
  ): void {
    this.#onRequest?.({ requestId, method, path, ...event });
  }
}

type DistributiveOmit<Union, Keys extends PropertyKey> = Union extends unknown ? Omit<Union, Keys> : never;

/** Whether a request that may have been done can be sent again. */
function isRepeatable({ method, body }: Call): boolean {
  return method === 'GET' || method === 'PUT' || method === 'DELETE' || body?.isRepeatable === true;
}

/** 128 random bits. crypto.randomUUID is missing from pages that came over plain HTTP. */
function newRequestId(): string {
  return Array.from(crypto.getRandomValues(new Uint32Array(4)), (word) => word.toString(16).padStart(8, '0')).join('');
}

/** Reads an answer to its end. @throws ConnectionError if it is not of the service's form */
export async function complete<Result>(read: () => Promise<Result>): Promise<Result> {
  try {
    return await read();
  } catch (cause) {
    if (cause instanceof Error && (cause.name === 'AbortError' || cause.name === 'TimeoutError')) throw cause;
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new ConnectionError(`the answer is incomplete, or not from the service: ${reason}`, { cause });
  }
}
