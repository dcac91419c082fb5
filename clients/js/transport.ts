/** Requests to the service: what every part of the client sends through. */
import { API_VERSION_HEADER, LATEST_API_VERSION } from '../../shared/api-version.ts';
import { isProblem, problemSchema } from '../../shared/errors.ts';
import type { NarrowDtype } from '../../shared/safetensors.ts';
import { ConnectionError, DdpnoptError } from './errors.ts';

export interface RequestOptions {
  /** Gives the request up. What it asked for may be done all the same, unless the service learns in time that nobody waits. */
  readonly signal?: AbortSignal;
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
}

export class Transport {
  readonly #base: URL;
  readonly #authorization: Readonly<Record<string, string>>;

  /** @throws TypeError for a key that cannot be one */
  constructor(url: string | URL, apiKey?: string) {
    // The text itself is not repeated: it may be a key with something around it.
    if (apiKey !== undefined && !/^[\x21-\x7e]+$/.test(apiKey))
      throw new TypeError('the API key has characters that no key has');
    this.#authorization = apiKey === undefined ? {} : { authorization: `Bearer ${apiKey}` };
    // With a closing slash, so that paths are resolved below it.
    this.#base = new URL(String(url).replace(/\/*$/, '/'));
  }

  /** One request to the service. @throws DdpnoptError if it refuses, ConnectionError if no answer comes */
  async request(
    method: string,
    path: string,
    { signal }: RequestOptions,
    body?: RequestBody,
    headers: Readonly<Record<string, string>> = {},
  ): Promise<Response> {
    let response: Response;
    try {
      response = await fetch(new URL(path, this.#base), {
        method,
        headers: {
          ...headers,
          [API_VERSION_HEADER]: LATEST_API_VERSION,
          ...this.#authorization,
          ...(body === undefined ? {} : { 'content-type': body.contentType }),
        },
        ...(body === undefined ? {} : { body: body.content }),
        ...(signal === undefined ? {} : { signal }),
      });
    } catch (cause) {
      if (signal?.aborted === true) throw cause;
      throw new ConnectionError(`${method} ${path} at ${this.#base.href}: no answer`, { cause });
    }
    if (response.ok) return response;
    if (isProblem(response)) {
      const problem = problemSchema.safeParse(await complete(() => response.json()));
      if (problem.success) throw new DdpnoptError(problem.data);
    }
    throw new ConnectionError(
      `${method} ${path} at ${this.#base.href}: status ${String(response.status)}, not from the service`,
    );
  }
}

/** Reads an answer to its end. @throws ConnectionError if it breaks off, or is not of the service's form */
export async function complete<Result>(read: () => Promise<Result>): Promise<Result> {
  try {
    return await read();
  } catch (cause) {
    if (cause instanceof Error && (cause.name === 'AbortError' || cause.name === 'TimeoutError')) throw cause;
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new ConnectionError(`the answer is incomplete, or not from the service: ${reason}`, { cause });
  }
}
