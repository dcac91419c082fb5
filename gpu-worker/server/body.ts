/** Reads a request's body once, into memory of exactly its announced length, and digests it on the way. */
import { createHash } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import { ProblemError } from '../../shared/errors.ts';
import type { ByteBudget } from '../session/byte-budget.ts';
import { LIMITS } from '../../shared/limits.ts';

export interface Body {
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** SHA-256, in hexadecimal. */
  readonly digest: string;
}

/**
 * Reads bodies within a common budget of memory.
 *
 * @param budget of all bodies that are being read or worked on
 * @param stallMilliseconds without a byte, after which the connection is broken off
 * @returns reads a request's body, and holds its share of the budget until the work on it is done. It throws ProblemError
 *   `length_required`, `body_too_large`, `memory_full` if the budget is used up, or `truncated_body` if the sender stops early
 */
export function bodyReader(
  budget: ByteBudget,
  stallMilliseconds: number,
): <Result>(request: IncomingMessage, work: (body: Body) => Result | Promise<Result>) => Promise<Result> {
  return async (request, work) => {
    const length = announcedLength(request);
    budget.take(length);
    try {
      return await work(await read(request, length, stallMilliseconds));
    } finally {
      budget.free(length);
    }
  };
}

function announcedLength(request: IncomingMessage): number {
  const announced = request.headers['content-length'];
  if (announced === undefined || !/^[0-9]+$/.test(announced)) {
    throw new ProblemError('length_required', {
      param: 'Content-Length',
      detail: 'The request has no Content-Length.',
      remedy: 'Send the body with its length, not in chunks.',
    });
  }
  const length = Number(announced);
  if (length > LIMITS.bodyBytes) {
    throw new ProblemError('body_too_large', {
      param: 'Content-Length',
      detail: `The body has ${announced} bytes; at most ${String(LIMITS.bodyBytes)} are taken.`,
      remedy: 'Send smaller batches.',
    });
  }
  return length;
}

async function read(request: IncomingMessage, length: number, stallMilliseconds: number): Promise<Body> {
  const bytes = new Uint8Array(length);
  const hash = createHash('sha256');
  let position = 0;
  // Whoever sends nothing more would hold its share of the budget for ever. Nobody listens: the server closes the connection.
  request.setTimeout(stallMilliseconds);
  try {
    for await (const chunk of request as AsyncIterable<Uint8Array>) {
      bytes.set(chunk, position);
      position += chunk.length;
      hash.update(chunk);
    }
  } catch (cause) {
    // The sender went away: an answer can reach nobody, but the request must end as any other.
    throw truncated(position, length, cause);
  } finally {
    // It may have to wait for its turn, as long as that takes.
    request.setTimeout(0);
  }
  if (position !== length) throw truncated(position, length, undefined);
  return { bytes, digest: hash.digest('hex') };
}

function truncated(received: number, announced: number, cause: unknown): ProblemError {
  return new ProblemError(
    'truncated_body',
    {
      detail: `The body ended after ${String(received)} of ${String(announced)} bytes.`,
      remedy: 'Send the same request again.',
    },
    { cause },
  );
}
