/** What the steps of the sessions that this isolate has seen lately consist of: it never changes, so a copy is never stale. */
import type { Context } from 'hono';
import { sessionSchema, type Session, type SessionId } from '../../shared/session.ts';
import type { StepDefinition } from '../../shared/step.ts';
import type { EdgeEnv } from '../environment.ts';
import { callWorker, readDocument } from './worker.ts';

const REMEMBERED_SESSIONS = 1000;
const remembered = new Map<SessionId, StepDefinition>();

export function rememberDefinition(session: Session): void {
  const { id } = session;
  remembered.delete(id);
  remembered.set(id, stepDefinition(session));
  const [oldest] = remembered.keys();
  if (remembered.size > REMEMBERED_SESSIONS && oldest !== undefined) remembered.delete(oldest);
}

function stepDefinition(session: Session): StepDefinition {
  switch (session.mode) {
    case 'layers': {
      const { mode, layers, optimizer, reply, policyEncoding, transport } = session;
      return { mode, layers, optimizer, reply, policyEncoding, transport };
    }
    case 'kernel': {
      const { mode, layers, optimizer, transport } = session;
      return { mode, layers, optimizer, transport };
    }
    case 'hosted': {
      const { mode, model, loss, optimizer, transport } = session;
      return { mode, model, loss, optimizer, transport };
    }
  }
}

export function forgetDefinition(id: SessionId): void {
  remembered.delete(id);
}

/** The session's definition, from memory or from its worker. The errors are those of `callWorker`. */
export async function definitionOf(c: Context<EdgeEnv>, id: SessionId): Promise<StepDefinition> {
  const known = remembered.get(id);
  if (known !== undefined) return known;
  const session = await readDocument(sessionSchema, await callWorker(c, id, '', { method: 'GET' }));
  rememberDefinition(session);
  return session;
}
