/** Checks of a body's headers, before a byte of it is read. */
import { createMiddleware } from 'hono/factory';
import { mediaType, ProblemError } from '../../shared/errors.ts';
import type { EdgeEnv } from '../environment.ts';

/** Refuses a body of another content type, without a length, or longer than `maximumBytes`. */
export function acceptBody(contentType: string, maximumBytes: number): ReturnType<typeof createMiddleware<EdgeEnv>> {
  return createMiddleware<EdgeEnv>(async (c, next) => {
    const sent = c.req.header('content-type');
    if (mediaType(sent) !== contentType) {
      throw new ProblemError('unsupported_media_type', {
        param: 'Content-Type',
        detail: `The body was sent as ${sent === undefined ? 'no content type' : JSON.stringify(sent)}.`,
        remedy: `Send it with Content-Type: ${contentType}.`,
      });
    }
    const length = c.req.header('content-length');
    if (length === undefined) {
      throw new ProblemError('length_required', {
        param: 'Content-Length',
        detail: 'The request has no Content-Length.',
        remedy: 'Send the body with its length, not in chunks.',
      });
    }
    if (Number(length) > maximumBytes) {
      throw new ProblemError('body_too_large', {
        param: 'Content-Length',
        detail: `The body has ${length} bytes; at most ${String(maximumBytes)} are taken here.`,
        remedy: 'Send smaller batches, or fewer layers.',
      });
    }
    await next();
  });
}
