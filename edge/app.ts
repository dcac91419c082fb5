/** Assembles the API at the edge. */
import { OpenAPIHono } from '@hono/zod-openapi';
import { requestId } from 'hono/request-id';
import { parseSessionOrder } from '../shared/session-order.ts';
import { invalidParameter } from '../shared/validation.ts';
import type { EdgeEnv } from './environment.ts';
import { answerProblem, noSuchRoute, refuseOtherMethods } from './middleware/problems.ts';
import { registerCheckpoints } from './routes/checkpoints.ts';
import { registerDocumentation } from './routes/documentation.ts';
import { registerHealth } from './routes/health.ts';
import { registerModels } from './routes/models.ts';
import { registerSessions } from './routes/sessions.ts';
import { registerSteps } from './routes/steps.ts';

export function createApp(): OpenAPIHono<EdgeEnv> {
  const app = new OpenAPIHono<EdgeEnv>({
    defaultHook: async (result, c) => {
      if (result.success) return;
      if (result.target !== 'json') throw invalidParameter(result.error, c.req.param(), null);
      // The only JSON document that clients send: the schema of its own form says best what is wrong.
      parseSessionOrder(await c.req.json());
    },
  });
  app.use(requestId());
  app.onError(answerProblem);
  app.notFound(noSuchRoute);
  registerHealth(app);
  registerSessions(app);
  registerSteps(app);
  registerModels(app);
  registerCheckpoints(app);
  registerDocumentation(app);
  refuseOtherMethods(app);
  return app;
}
