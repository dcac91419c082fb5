/** The worker's HTTP interface, for the edge alone: sessions, their steps, and the models that the worker holds. */
import type { HttpBindings } from '@hono/node-server';
import { Hono, type Context } from 'hono';
import { internalProblem, PROBLEM_CONTENT_TYPE, ProblemError, RETRY_AFTER_SECONDS } from '../../shared/errors.ts';
import { kernelSolveOptionsSchema, type KernelSolveOptions } from '../../shared/kernel-solve.ts';
import { LIMITS } from '../../shared/limits.ts';
import { parseSessionId, sessionDefinitionSchema } from '../../shared/session.ts';
import { parseStepNumber } from '../../shared/step.ts';
import { parseDocument } from '../../shared/validation.ts';
import type { SessionRegistry } from '../session/registry.ts';
import type { Answer } from '../training/trainer.ts';
import { bodyReader } from './body.ts';

export interface WorkerServices {
  readonly sessions: SessionRegistry;
  /** Solves the systems of one batch without a session. @throws ProblemError as `Compute.solve`; `queue_full` */
  readonly solve: (options: KernelSolveOptions, body: Uint8Array<ArrayBuffer>) => Promise<Answer>;
  readonly engineName: string;
  /** Reports a defect: something thrown that is no answer to the client. */
  readonly reportDefect: (error: unknown, requestId: string) => void;
}

interface WorkerEnv {
  readonly Bindings: HttpBindings;
}

const REQUEST_ID = 'x-request-id';

export function createWorkerApp({ sessions, solve, engineName, reportDefect }: WorkerServices): Hono<WorkerEnv> {
  const app = new Hono<WorkerEnv>();
  const withBody = bodyReader(LIMITS.bodyBytesInMemory);

  app.onError((error, c) => {
    const requestId = c.req.header(REQUEST_ID) ?? 'none';
    const problem = error instanceof ProblemError ? error : internalProblem(error);
    if (!(error instanceof ProblemError)) reportDefect(error, requestId);
    c.header('content-type', PROBLEM_CONTENT_TYPE);
    if (problem.retryable) c.header('retry-after', RETRY_AFTER_SECONDS);
    return c.body(JSON.stringify(problem.toProblem(requestId)), problem.status);
  });
  app.notFound((c) => {
    throw new ProblemError('route_not_found', {
      detail: `The worker has no ${c.req.method} ${c.req.path}.`,
      remedy: 'Call the edge; its resources are in /openapi.json.',
    });
  });

  app.get('/healthz', (c) => c.json({ status: 'ok', engine: engineName, sessions: sessions.size }));

  app.put('/sessions/:id', async (c) => {
    const document = await withBody(c.env.incoming, ({ bytes }) => parseJson(bytes));
    const definition = parseDocument(sessionDefinitionSchema, document);
    const session = await sessions.create(parseSessionId(c.req.param('id')), definition);
    return c.json(session.describe(), 201);
  });
  app.get('/sessions/:id', (c) => c.json(sessions.get(parseSessionId(c.req.param('id'))).describe()));
  app.delete('/sessions/:id', (c) => {
    sessions.delete(parseSessionId(c.req.param('id')));
    return c.body(null, 204);
  });

  app.put('/sessions/:id/steps/:n', async (c) => {
    const session = sessions.get(parseSessionId(c.req.param('id')));
    const n = parseStepNumber(c.req.param('n'));
    session.admit(n);
    return answer(c, await session.use(() => withBody(c.env.incoming, (body) => session.step(n, body))));
  });
  app.get('/sessions/:id/steps/:n', (c) => {
    return answer(c, sessions.get(parseSessionId(c.req.param('id'))).storedReply(parseStepNumber(c.req.param('n'))));
  });

  app.get('/sessions/:id/weights', async (c) => {
    const session = sessions.get(parseSessionId(c.req.param('id')));
    return answer(c, await session.use(() => session.weights()));
  });
  app.post('/sessions/:id/predictions', async (c) => {
    const session = sessions.get(parseSessionId(c.req.param('id')));
    return answer(c, await session.use(() => withBody(c.env.incoming, ({ bytes }) => session.predict(bytes))));
  });

  app.post('/kernel/solve', async (c) => {
    const options = parseDocument(kernelSolveOptionsSchema, c.req.query());
    return answer(c, await withBody(c.env.incoming, ({ bytes }) => solve(options, bytes)));
  });

  return app;
}

function answer(c: Context<WorkerEnv>, { contentType, body }: Answer): Response {
  return c.body(body, 200, { 'content-type': contentType });
}

function parseJson(bytes: Uint8Array): unknown {
  try {
    return JSON.parse(new TextDecoder().decode(bytes));
  } catch (cause) {
    throw new ProblemError(
      'malformed_json',
      {
        detail: cause instanceof Error ? cause.message : 'The body does not parse.',
        remedy: 'Send one JSON document, encoded in UTF-8.',
      },
      { cause },
    );
  }
}
