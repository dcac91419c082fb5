/** The worker's HTTP interface, for the edge alone: sessions, their steps, and the models that the worker holds. */
import type { HttpBindings } from '@hono/node-server';
import { Hono, type Context, type MiddlewareHandler } from 'hono';
import { parseCheckpointId } from '../../shared/checkpoint.ts';
import { parseChunkNumber } from '../../shared/data-set.ts';
import { internalProblem, PROBLEM_CONTENT_TYPE, ProblemError } from '../../shared/errors.ts';
import { kernelSolveOptionsSchema, type KernelSolveOptions } from '../../shared/kernel-solve.ts';
import { prefersEvents, runOrderSchema, type Run } from '../../shared/run.ts';
import { SAFETENSORS_CONTENT_TYPE } from '../../shared/safetensors.ts';
import { sessionChangesSchema } from '../../shared/session-changes.ts';
import { EVENT_STREAM_CONTENT_TYPE, parseLastEventId } from '../../shared/session-events.ts';
import { parseSessionOrder } from '../../shared/session-order.ts';
import { parseSessionId } from '../../shared/session.ts';
import { pageOf, sessionListQuerySchema } from '../../shared/session-list.ts';
import { commitSchema, parsePartNumber } from '../../shared/step-parts.ts';
import { parseStepNumber } from '../../shared/step.ts';
import { LOCAL_TENANT, tenantSchema, type Tenant } from '../../shared/tenant.ts';
import { parseDocument } from '../../shared/validation.ts';
import { WORKER_HEADER } from '../../shared/worker-protocol.ts';
import { ByteBudget } from '../session/byte-budget.ts';
import type { SessionRegistry } from '../session/registry.ts';
import type { TrainingSession } from '../session/session.ts';
import type { UndeliveredAnswers } from '../session/undelivered-answers.ts';
import type { Answer } from '../training/trainer.ts';
import { bodyReader } from './body.ts';
import { EventStreams } from './event-stream.ts';
import type { WorkerMetrics } from './metrics.ts';
import { recordRequests, type RecordVariables, type RequestRecord } from './request-record.ts';

export interface WorkerServices {
  readonly sessions: SessionRegistry;
  readonly undelivered: UndeliveredAnswers;
  readonly limits: WorkerLimits;
  /** Solves the systems of one batch without a session. @throws ProblemError as `Compute.solve`; `queue_full` */
  readonly solve: (options: KernelSolveOptions, body: Uint8Array<ArrayBuffer>) => Promise<SolvedBatch>;
  readonly engineName: string;
  /** Refuses calls that are not the edge's; unless given, whoever can reach the worker is the edge. */
  readonly authentication?: MiddlewareHandler<WorkerEnv> | undefined;
  readonly metrics: WorkerMetrics;
  /** Takes the record of every request that was answered, and its headers. */
  readonly log: (record: RequestRecord, headers: Headers) => void;
  /** Reports a defect: something thrown that is no answer to the client. */
  readonly reportDefect: (error: unknown, requestId: string) => void;
}

/** An answer and the device's time for it. */
export interface SolvedBatch {
  readonly answer: Answer;
  readonly computeSeconds: number;
}

export interface WorkerLimits {
  /** Bytes of request bodies held at once, from their arrival to the end of the work on them. */
  readonly bodyBytesInMemory: number;
  /** Milliseconds in which not a byte of a body has come in or an answer has gone out, after which the connection is broken off. */
  readonly stallMilliseconds: number;
  /** Milliseconds between two comments in a stream of events; less than what a connection may stall. */
  readonly heartbeatMilliseconds: number;
}

export interface WorkerEnv {
  readonly Bindings: HttpBindings;
  readonly Variables: RecordVariables & {
    /** Whose request it is. */
    tenant: Tenant;
  };
}

export function createWorkerApp(services: WorkerServices): Hono<WorkerEnv> {
  const { sessions, undelivered, limits, solve, engineName, authentication, metrics, log, reportDefect } = services;
  const app = new Hono<WorkerEnv>();
  const bodies = new ByteBudget(limits.bodyBytesInMemory, 'Bodies that are being worked on');
  const events = new EventStreams(limits.heartbeatMilliseconds);
  const withBody = bodyReader(bodies, limits.stallMilliseconds);

  /** Sends an answer, which counts as undelivered until the client has read it or is gone. */
  function answer(c: Context<WorkerEnv>, { contentType, body }: Answer): Response {
    const { outgoing } = c.env;
    if (!outgoing.destroyed) {
      outgoing.once('close', undelivered.hold(body));
      // Nobody listens: the server closes the connection.
      outgoing.setTimeout(limits.stallMilliseconds);
    }
    return c.body(body, 200, { 'content-type': contentType, 'content-length': String(body.length) });
  }

  /** Sends events as they happen. */
  function streamOf(
    c: Context<WorkerEnv>,
    session: TrainingSession,
    listen: Parameters<EventStreams['open']>[1],
  ): Response {
    // A reader that takes nothing for long is gone.
    c.env.outgoing.setTimeout(limits.stallMilliseconds);
    return c.body(events.open(session, listen), 200, { 'content-type': EVENT_STREAM_CONTENT_TYPE });
  }

  /** A run's description, or its events if the client asks for them. @param status of the description while it runs */
  function answerRun(c: Context<WorkerEnv>, session: TrainingSession, run: Run, status: 200 | 202): Response {
    if (!prefersEvents(c.req.header('accept'))) return c.json(run, run.state === 'running' ? status : 200);
    const after = parseLastEventId(c.req.header('last-event-id'));
    return streamOf(c, session, (listener) => session.runs.listen(run.firstStep, after, listener));
  }

  app.onError((error, c) => {
    const requestId = c.req.header(WORKER_HEADER.requestId) ?? 'none';
    const problem = error instanceof ProblemError ? error : internalProblem(error);
    if (!(error instanceof ProblemError)) reportDefect(error, requestId);
    c.set('problemCode', problem.code);
    c.header('content-type', PROBLEM_CONTENT_TYPE);
    if (problem.retryAfter !== null) c.header('retry-after', problem.retryAfter);
    return c.body(JSON.stringify(problem.toProblem(requestId)), problem.status);
  });
  app.notFound((c) => {
    throw new ProblemError('route_not_found', {
      detail: `The worker has no ${c.req.method} ${c.req.path}.`,
      remedy: 'Call the edge; its resources are in /openapi.json.',
    });
  });

  app.use(
    recordRequests(metrics.elapsed, (record, headers) => {
      metrics.answered(record);
      log(record, headers);
    }),
  );
  if (authentication !== undefined) app.use(authentication);
  app.use(async (c, next) => {
    c.set('tenant', parseDocument(tenantSchema, c.req.header(WORKER_HEADER.tenant) ?? LOCAL_TENANT));
    await next();
  });
  app.use('/sessions/:id/*', async (c, next) => {
    const id = parseSessionId(c.req.param('id'));
    // A new session is nobody’s yet.
    const isNew = c.req.method === 'PUT' && c.req.path === `/sessions/${id}`;
    if (!isNew) await sessions.assertOwner(id, c.get('tenant'));
    await next();
    // Also of what ended in a problem, and of what an earlier request asked for and did not wait for.
    const usage = sessions.takeUsage(id, c.get('tenant'));
    c.header(WORKER_HEADER.steps, String(usage.steps));
    c.header(WORKER_HEADER.computeSeconds, String(usage.computeSeconds));
  });
  app.use('/checkpoints/:id', async (c, next) => {
    const id = parseCheckpointId(c.req.param('id'));
    // What is imported is not there yet.
    if (c.req.method !== 'PUT') await sessions.assertCheckpointOwner(id, c.get('tenant'));
    await next();
  });

  app.get('/healthz', (c) => c.json({ status: 'ok', engine: engineName, sessions: sessions.size }));
  app.get('/metrics', async (c) => {
    const { contentType, body } = await metrics.text();
    return c.body(body, 200, { 'content-type': contentType });
  });

  app.get('/sessions', (c) => {
    const query = parseDocument(sessionListQuerySchema, c.req.query());
    return c.json(pageOf(sessions.sessionsOf(c.get('tenant')), query));
  });

  app.put('/sessions/:id', async (c) => {
    const { signal } = abortedWithConnection(c);
    const document = await withBody(c.env.incoming, ({ bytes }) => parseJson(bytes));
    const quota = c.req.header(WORKER_HEADER.sessionQuota);
    const ownership = { tenant: c.get('tenant'), ...(quota === undefined ? {} : { quota: Number(quota) }) };
    const id = parseSessionId(c.req.param('id'));
    const session = await sessions.create(id, parseSessionOrder(document), ownership, signal);
    return c.json(session.describe(), 201);
  });
  app.get('/sessions/:id', async (c) => {
    const session = await sessions.get(parseSessionId(c.req.param('id')));
    return c.json(session.describe());
  });
  app.patch('/sessions/:id', async (c) => {
    const { signal } = abortedWithConnection(c);
    const id = parseSessionId(c.req.param('id'));
    const document = await withBody(c.env.incoming, ({ bytes }) => parseJson(bytes));
    return c.json(await sessions.change(id, parseDocument(sessionChangesSchema, document), signal));
  });
  app.delete('/sessions/:id', async (c) => {
    await sessions.delete(parseSessionId(c.req.param('id')));
    return c.body(null, 204);
  });

  app.get('/sessions/:id/events', async (c) => {
    const after = parseLastEventId(c.req.header('last-event-id'));
    const session = await sessions.get(parseSessionId(c.req.param('id')));
    return streamOf(c, session, (listener) => session.listen(after, listener));
  });

  app.put('/sessions/:id/data/:k', async (c) => {
    const session = await sessions.get(parseSessionId(c.req.param('id')));
    const k = parseChunkNumber(c.req.param('k'));
    // By the mode alone, before the body is read.
    session.describeData();
    return c.json(await session.use(() => withBody(c.env.incoming, (body) => session.putChunk(k, body))));
  });
  app.get('/sessions/:id/data', async (c) => {
    const session = await sessions.get(parseSessionId(c.req.param('id')));
    return c.json(session.describeData());
  });
  app.delete('/sessions/:id/data', async (c) => {
    const session = await sessions.get(parseSessionId(c.req.param('id')));
    await session.use(() => session.removeData());
    return c.body(null, 204);
  });

  app.put('/sessions/:id/runs/:n', async (c) => {
    const document = await withBody(c.env.incoming, ({ bytes }) => parseJson(bytes));
    const session = await sessions.get(parseSessionId(c.req.param('id')));
    const n = parseStepNumber(c.req.param('n'));
    const run = await session.use(() => session.runs.begin(n, parseDocument(runOrderSchema, document)));
    return answerRun(c, session, run, 202);
  });
  app.get('/sessions/:id/runs', async (c) => {
    const session = await sessions.get(parseSessionId(c.req.param('id')));
    return c.json({ runs: session.runs.list() });
  });
  app.get('/sessions/:id/runs/:n', async (c) => {
    const session = await sessions.get(parseSessionId(c.req.param('id')));
    return answerRun(c, session, session.runs.describe(parseStepNumber(c.req.param('n'))), 200);
  });
  app.delete('/sessions/:id/runs/:n', async (c) => {
    const session = await sessions.get(parseSessionId(c.req.param('id')));
    return c.json(await session.use(() => session.runs.cancel(parseStepNumber(c.req.param('n')))));
  });

  app.put('/sessions/:id/steps/:n', async (c) => {
    const request = abortedWithConnection(c);
    const session = await sessions.get(parseSessionId(c.req.param('id')));
    const n = parseStepNumber(c.req.param('n'));
    const work = (): Promise<Answer> => withBody(c.env.incoming, (body) => session.steps.take(n, body, request.signal));
    return answer(c, await session.useForStep(n, request, work));
  });
  app.get('/sessions/:id/steps/:n', async (c) => {
    const session = await sessions.get(parseSessionId(c.req.param('id')));
    return answer(c, session.steps.storedReply(parseStepNumber(c.req.param('n'))));
  });

  app.delete('/sessions/:id/steps/:n', async (c) => {
    const session = await sessions.get(parseSessionId(c.req.param('id')));
    session.steps.cancel(parseStepNumber(c.req.param('n')));
    return c.body(null, 204);
  });

  app.get('/sessions/:id/steps/:n/parts', async (c) => {
    const session = await sessions.get(parseSessionId(c.req.param('id')));
    return c.json(session.parts.describe(parseStepNumber(c.req.param('n'))));
  });
  app.delete('/sessions/:id/steps/:n/parts', async (c) => {
    const session = await sessions.get(parseSessionId(c.req.param('id')));
    await session.parts.remove(parseStepNumber(c.req.param('n')), null);
    return c.body(null, 204);
  });
  app.put('/sessions/:id/steps/:n/parts/:k', async (c) => {
    const session = await sessions.get(parseSessionId(c.req.param('id')));
    const [n, k] = [parseStepNumber(c.req.param('n')), parsePartNumber(c.req.param('k'))];
    // By the number alone, before the body is read.
    session.steps.assertFree(n);
    session.parts.describe(n);
    return c.json(await session.use(() => withBody(c.env.incoming, (body) => session.parts.put(n, k, body))));
  });
  app.delete('/sessions/:id/steps/:n/parts/:k', async (c) => {
    const session = await sessions.get(parseSessionId(c.req.param('id')));
    await session.parts.remove(parseStepNumber(c.req.param('n')), parsePartNumber(c.req.param('k')));
    return c.body(null, 204);
  });
  app.post('/sessions/:id/steps/:n/commit', async (c) => {
    const request = abortedWithConnection(c);
    const session = await sessions.get(parseSessionId(c.req.param('id')));
    const n = parseStepNumber(c.req.param('n'));
    const document = await withBody(c.env.incoming, ({ bytes }) => parseJson(bytes));
    const { parts } = parseDocument(commitSchema, document);
    // The union, and one part at a time.
    const bytes = session.partBytes;
    bodies.take(bytes);
    try {
      return answer(c, await session.useForStep(n, request, () => session.parts.commit(n, parts, request.signal)));
    } finally {
      bodies.free(bytes);
    }
  });

  app.get('/sessions/:id/weights', async (c) => {
    const { signal } = abortedWithConnection(c);
    const session = await sessions.get(parseSessionId(c.req.param('id')));
    return answer(c, await session.use(() => session.weights(signal)));
  });
  app.post('/sessions/:id/predictions', async (c) => {
    const { signal } = abortedWithConnection(c);
    const session = await sessions.get(parseSessionId(c.req.param('id')));
    const work = (): Promise<Answer> => withBody(c.env.incoming, ({ bytes }) => session.predict(bytes, signal));
    return answer(c, await session.use(work));
  });

  app.post('/sessions/:id/checkpoints', async (c) => {
    const { signal } = abortedWithConnection(c);
    return c.json(await sessions.makeCheckpoint(parseSessionId(c.req.param('id')), signal), 201);
  });
  app.get('/sessions/:id/checkpoints', async (c) => {
    return c.json({ checkpoints: await sessions.checkpointsOf(parseSessionId(c.req.param('id'))) });
  });
  app.put('/checkpoints/:id', async (c) => {
    const id = parseCheckpointId(c.req.param('id'));
    return c.json(
      await withBody(c.env.incoming, ({ bytes }) => sessions.importCheckpoint(id, bytes, c.get('tenant'))),
      201,
    );
  });
  app.get('/checkpoints/:id', async (c) => {
    undelivered.admit();
    const body = await sessions.readCheckpoint(parseCheckpointId(c.req.param('id')));
    return answer(c, { contentType: SAFETENSORS_CONTENT_TYPE, body });
  });
  app.delete('/checkpoints/:id', async (c) => {
    await sessions.deleteCheckpoint(parseCheckpointId(c.req.param('id')));
    return c.body(null, 204);
  });

  app.post('/kernel/solve', async (c) => {
    const options = parseDocument(kernelSolveOptionsSchema, c.req.query());
    const { answer: solution, computeSeconds } = await withBody(c.env.incoming, ({ bytes }) => solve(options, bytes));
    c.header(WORKER_HEADER.computeSeconds, String(computeSeconds));
    return answer(c, solution);
  });

  return app;
}

/** Aborts when the connection closes, unless the answer is complete by then. */
function abortedWithConnection(c: Context<WorkerEnv>): AbortController {
  const controller = new AbortController();
  c.env.outgoing.once('close', () => {
    controller.abort(
      new ProblemError('client_disconnected', {
        detail: 'The connection was closed while the request waited; nothing was changed.',
        remedy: 'Send the same request again.',
      }),
    );
  });
  return controller;
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
