/** The version of the API that a request is made for, and that its answer states. */
import { createMiddleware } from 'hono/factory';
import { API_VERSION_HEADER, parseApiVersion } from '../../shared/api-version.ts';
import type { EdgeEnv } from '../environment.ts';

/** Refuses versions that there are not. With one version, no route has to know which it is. */
export const apiVersion = createMiddleware<EdgeEnv>(async (c, next) => {
  // Before there is an answer: to change one's headers takes making it anew.
  c.header(API_VERSION_HEADER, parseApiVersion(c.req.header(API_VERSION_HEADER)));
  await next();
});
