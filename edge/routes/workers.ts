/**
 * Where workers register: PUT and DELETE /workers/{id}, and GET /workers. Not part of the API: each call is signed with the secret
 * that edge and workers share.
 */
import type { OpenAPIHono } from '@hono/zod-openapi';
import type { Context } from 'hono';
import { ProblemError } from '../../shared/errors.ts';
import { signLease } from '../../shared/lease.ts';
import { digestOf, type Signer } from '../../shared/signature.ts';
import { callRefused, verifyCall } from '../../shared/signed-call.ts';
import { parseDocument } from '../../shared/validation.ts';
import { workerIdSchema, workerReportSchema, type HeartbeatAnswer } from '../../shared/worker-report.ts';
import type { EdgeEnv } from '../environment.ts';
import type { AsyncDirectory } from '../placement/placement.ts';

const REPORT_BYTES = 32_768;

export function registerWorkers(app: OpenAPIHono<EdgeEnv>): void {
  app.get('/workers', async (c) => {
    const { directory } = await directoryFor(c, '');
    return c.json({ workers: await directory.workers() });
  });

  app.put('/workers/:id', async (c) => {
    const length = Number(c.req.header('content-length'));
    if (!(length <= REPORT_BYTES)) throw callRefused('its body is no report of a worker');
    const body = await c.req.text();
    const { directory, signer } = await directoryFor(c, body);
    const report = parseDocument(workerReportSchema, JSON.parse(body));
    if (report.id !== c.req.param('id')) throw callRefused('it is the report of another worker');
    const adopted = await directory.heartbeat(report);
    const answer: HeartbeatAnswer = { leases: await Promise.all(adopted.map(({ lease }) => signLease(lease, signer))) };
    return c.json(answer);
  });

  app.delete('/workers/:id', async (c) => {
    const { directory } = await directoryFor(c, '');
    await directory.leave(workerIdSchema.parse(c.req.param('id')));
    return c.body(null, 204);
  });
}

/** The directory, for a call that is signed. @throws ProblemError `call_refused`; `route_not_found` where no worker registers */
async function directoryFor(
  c: Context<EdgeEnv>,
  body: string,
): Promise<{ readonly directory: AsyncDirectory; readonly signer: Signer }> {
  const { placement, signer } = c.get('platform');
  if (placement.directory === null || signer === null) {
    throw new ProblemError('route_not_found', {
      detail: 'This edge has one worker for good; none can register.',
      remedy: 'Leave the edge’s WORKER_URL empty, and give edge and workers the same secret.',
    });
  }
  const { pathname, search } = new URL(c.req.url);
  const length = new TextEncoder().encode(body).length;
  const call = {
    method: c.req.method,
    path: pathname + search,
    length,
    lease: '',
    tenant: '',
    digest: await digestOf(body),
  };
  await verifyCall(call, (name) => c.req.header(name), signer, Date.now());
  return { directory: placement.directory, signer };
}
