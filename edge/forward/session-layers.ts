/** The layers of the sessions that this isolate has seen lately: a session's layers never change, so a copy is never stale. */
import type { Context } from 'hono';
import type { Layer } from '../../shared/layer.ts';
import { sessionSchema, type Session, type SessionId } from '../../shared/session.ts';
import type { EdgeEnv } from '../environment.ts';
import { callWorker, readJson, unexpectedAnswer } from './worker.ts';

const REMEMBERED_SESSIONS = 1000;
const remembered = new Map<SessionId, readonly Layer[]>();

export function rememberLayers({ id, layers }: Session): void {
  remembered.delete(id);
  remembered.set(id, layers);
  const [oldest] = remembered.keys();
  if (remembered.size > REMEMBERED_SESSIONS && oldest !== undefined) remembered.delete(oldest);
}

export function forgetLayers(id: SessionId): void {
  remembered.delete(id);
}

/** The session's layers, from memory or from its worker. The errors are those of `callWorker`. */
export async function layersOf(c: Context<EdgeEnv>, id: SessionId): Promise<readonly Layer[]> {
  const known = remembered.get(id);
  if (known !== undefined) return known;
  const session = await readSession(await callWorker(c, id, '', { method: 'GET' }));
  rememberLayers(session);
  return session.layers;
}

/** The session document in a worker's answer. @throws ProblemError `worker_protocol` if there is none */
export async function readSession(response: Response): Promise<Session> {
  const parsed = sessionSchema.safeParse(await readJson(response));
  if (!parsed.success) throw unexpectedAnswer('a session of a form this edge does not know', parsed.error);
  return parsed.data;
}
