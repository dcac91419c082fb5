/** Assembles the API at the edge. */
import { OpenAPIHono } from '@hono/zod-openapi';
import { requestId } from 'hono/request-id';
import { invalidParameter } from '../shared/validation.ts';
import { AccessControl } from './access/access-control.ts';
import type { EdgeEnv, Platform } from './environment.ts';
import { EdgeMetrics } from './metrics/edge-metrics.ts';
import { controlAccess } from './middleware/access.ts';
import { apiVersion } from './middleware/api-version.ts';
import { crossOrigin } from './middleware/cross-origin.ts';
import { observeRequests } from './middleware/observation.ts';
import { answerProblem, noSuchRoute, refuseOtherMethods } from './middleware/problems.ts';
import { registerAdministration } from './routes/admin.ts';
import { registerCapabilities } from './routes/capabilities.ts';
import { registerCheckpoints } from './routes/checkpoints.ts';
import { registerDataSets } from './routes/data-sets.ts';
import { registerDocumentation } from './routes/documentation.ts';
import { registerEstimates } from './routes/estimates.ts';
import { registerEvents } from './routes/events.ts';
import { registerHealth } from './routes/health.ts';
import { registerKernel } from './routes/kernel.ts';
import { registerMetrics } from './routes/metrics.ts';
import { registerModels } from './routes/models.ts';
import { registerRuns } from './routes/runs.ts';
import { registerSessions } from './routes/sessions.ts';
import { registerStepParts } from './routes/step-parts.ts';
import { registerSteps } from './routes/steps.ts';
import { registerUsage } from './routes/usage.ts';
import { registerWorkers } from './routes/workers.ts';

export function createApp(platform: Platform): OpenAPIHono<EdgeEnv> {
  const metrics = new EdgeMetrics();
  const access = new AccessControl({
    ...platform.access,
    reportFailure: (error) => {
      metrics.reportFailed();
      platform.log(
        { event: 'usage_report_failed', error: error instanceof Error ? error.message : String(error) },
        500,
      );
    },
  });
  const app = new OpenAPIHono<EdgeEnv>({
    defaultHook: async (result, c) => {
      if (result.success) return;
      if (result.target === 'query') throw invalidParameter(result.error, c.req.query(), null);
      if (result.target !== 'json') throw invalidParameter(result.error, c.req.param(), null);
      // The routes that know what a document should be say it better.
      throw invalidParameter(result.error, await c.req.json(), null);
    },
  });
  app.use(requestId());
  app.use(async (c, next) => {
    c.set('platform', platform);
    c.set('access', access);
    await next();
  });
  app.use(observeRequests(metrics));
  app.use(crossOrigin(platform.allowedOrigins));
  app.use('/v1/*', apiVersion);
  app.use(controlAccess());
  app.onError(answerProblem);
  app.notFound(noSuchRoute);
  registerHealth(app);
  registerCapabilities(app);
  registerSessions(app);
  registerSteps(app);
  registerStepParts(app);
  registerDataSets(app);
  registerRuns(app);
  registerEvents(app);
  registerModels(app);
  registerCheckpoints(app);
  registerEstimates(app);
  registerKernel(app);
  registerUsage(app);
  registerAdministration(app);
  registerMetrics(app, metrics);
  registerDocumentation(app);
  registerWorkers(app);
  refuseOtherMethods(app);
  return app;
}
