/** Checks of a body's headers, before a byte of it is read. */
import type { Context } from 'hono';
import { createMiddleware } from 'hono/factory';
import { mediaType, ProblemError } from '../../shared/errors.ts';
import { JSON_CONTENT_TYPE, tensorsOfJson } from '../../shared/json-tensors.ts';
import { LIMITS } from '../../shared/limits.ts';
import { encode, SAFETENSORS_CONTENT_TYPE } from '../../shared/safetensors.ts';
import type { EdgeEnv } from '../environment.ts';
import { StreamedBody } from '../forward/streamed-body.ts';

/** Refuses a body of another content type, without a length, or longer than its type may be. */
export function acceptBody(
  maximumBytes: Readonly<Record<string, number>>,
): ReturnType<typeof createMiddleware<EdgeEnv>> {
  return createMiddleware<EdgeEnv>(async (c, next) => {
    const sent = c.req.header('content-type');
    const maximum = maximumBytes[mediaType(sent) ?? ''];
    if (maximum === undefined) {
      throw new ProblemError('unsupported_media_type', {
        param: 'Content-Type',
        detail: `The body was sent as ${sent === undefined ? 'no content type' : JSON.stringify(sent)}.`,
        remedy: `Send it with Content-Type: ${Object.keys(maximumBytes).join(' or ')}.`,
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
    if (Number(length) > maximum) {
      throw new ProblemError('body_too_large', {
        param: 'Content-Length',
        detail: `The body has ${length} bytes; at most ${String(maximum)} are taken here as ${mediaType(sent) ?? ''}.`,
        remedy:
          maximum < LIMITS.bodyBytes && SAFETENSORS_CONTENT_TYPE in maximumBytes
            ? `Send larger bodies as ${SAFETENSORS_CONTENT_TYPE}.`
            : 'Send smaller batches, or fewer layers.',
      });
    }
    await next();
  });
}

/** Refuses a body that cannot be tensors, by its headers. */
export function acceptTensors(): ReturnType<typeof createMiddleware<EdgeEnv>> {
  return acceptBody({ [SAFETENSORS_CONTENT_TYPE]: LIMITS.bodyBytes, [JSON_CONTENT_TYPE]: LIMITS.jsonTensorBytes });
}

/** The body of a request, as safetensors however it was sent. @throws ProblemError `invalid_parameter` */
export async function tensorBody(c: Context<EdgeEnv>): Promise<StreamedBody> {
  const platform = c.get('platform');
  if (mediaType(c.req.header('content-type')) !== JSON_CONTENT_TYPE) {
    return new StreamedBody(c.req.raw.body, Number(c.req.header('content-length')), platform);
  }
  // The route has read it already, to see that it is JSON.
  return StreamedBody.of(encode(tensorsOfJson(await c.req.json())), platform);
}
