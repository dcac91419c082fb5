/** Assembles the API at the edge. */
import { OpenAPIHono } from '@hono/zod-openapi';
import { requestId } from 'hono/request-id';
import { sessionDefinitionSchema } from '../shared/session.ts';
import { invalidParameter } from '../shared/validation.ts';
import type { EdgeEnv } from './environment.ts';
import { answerProblem, noSuchRoute, refuseOtherMethods } from './middleware/problems.ts';
import { registerDocumentation } from './routes/documentation.ts';
import { registerHealth } from './routes/health.ts';
import { registerKernel } from './routes/kernel.ts';
import { registerModels } from './routes/models.ts';
import { registerSessions } from './routes/sessions.ts';
import { registerSteps } from './routes/steps.ts';

export function createApp(): OpenAPIHono<EdgeEnv> {
  const app = new OpenAPIHono<EdgeEnv>({
    defaultHook: async (result, c) => {
      if (result.success) return;
      if (result.target === 'query') throw invalidParameter(result.error, c.req.query(), null);
      if (result.target !== 'json') throw invalidParameter(result.error, c.req.param(), null);
      // The only JSON document with a schema that clients send.
      throw invalidParameter(result.error, await c.req.json(), sessionDefinitionSchema);
    },
  });
  app.use(requestId());
  app.onError(answerProblem);
  app.notFound(noSuchRoute);
  registerHealth(app);
  registerSessions(app);
  registerSteps(app);
  registerModels(app);
  registerKernel(app);
  registerDocumentation(app);
  refuseOtherMethods(app);
  return app;
}
