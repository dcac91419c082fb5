/**
 * Versions of the API, named by the day from which each is served. Within a version there are only additions: fields that older
 * clients do not send, and may pass over in answers. What would break a client makes a new version, and the old one stays.
 */
import * as z from 'zod';
import { ProblemError } from './errors.ts';

/** The latest last. */
export const API_VERSIONS = ['2026-11-01'] as const;

export const apiVersionSchema = z.enum(API_VERSIONS);

export type ApiVersion = z.output<typeof apiVersionSchema>;

/** What a client states that was written today. */
export const LATEST_API_VERSION: ApiVersion = '2026-11-01';

/** What a client means that states none: the one that such clients were first served. */
export const UNSTATED_API_VERSION: ApiVersion = '2026-11-01';

/** Of requests: the version that the client was written for. Of answers: the version that it got. */
export const API_VERSION_HEADER = 'DDPNOpt-Version';

/** @throws ProblemError `unsupported_api_version` */
export function parseApiVersion(stated: string | undefined): ApiVersion {
  if (stated === undefined) return UNSTATED_API_VERSION;
  const parsed = apiVersionSchema.safeParse(stated);
  if (parsed.success) return parsed.data;
  throw new ProblemError('unsupported_api_version', {
    param: API_VERSION_HEADER,
    detail: `${API_VERSION_HEADER} is ${JSON.stringify(stated)}; this service has ${API_VERSIONS.join(', ')}.`,
    remedy: `Send ${API_VERSION_HEADER}: ${LATEST_API_VERSION}, or leave the header out.`,
  });
}
