/**
 * What the steps of the sessions that this isolate has seen lately consist of. Only the optimizer's options can have changed since: what
 * a copy refuses is checked again with the worker's own, and what it lets through the worker checks anyway.
 */
import type { Context } from 'hono';
import { sessionSchema, type Session, type SessionId } from '../../shared/session.ts';
import type { StepDefinition } from '../../shared/step.ts';
import { ProblemError } from '../../shared/errors.ts';
import { tenantOf } from '../middleware/access.ts';
import type { EdgeEnv } from '../environment.ts';
import { callWorker, readDocument } from './worker.ts';

const REMEMBERED_SESSIONS = 1000;
const remembered = new Map<string, StepDefinition>();

/** Under its tenant: to another’s request it is as if there were no such session. */
function keyOf(c: Context<EdgeEnv>, id: SessionId): string {
  return `${tenantOf(c)} ${id}`;
}

export function rememberDefinition(c: Context<EdgeEnv>, session: Session): void {
  const key = keyOf(c, session.id);
  remembered.delete(key);
  remembered.set(key, stepDefinition(session));
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
      const { mode, layers, optimizer, reply, transport } = session;
      return { mode, layers, optimizer, reply, transport };
    }
    case 'hosted': {
      const { mode, model, loss, optimizer, transport } = session;
      return { mode, model, loss, optimizer, transport };
    }
  }
}

export function forgetDefinition(c: Context<EdgeEnv>, id: SessionId): void {
  remembered.delete(keyOf(c, id));
}

/**
 * Checks something with the session's definition.
 *
 * @throws ProblemError what the check finds; as `callWorker`
 */
export async function checkWithDefinition(
  c: Context<EdgeEnv>,
  id: SessionId,
  check: (definition: StepDefinition) => void,
): Promise<void> {
  const known = remembered.get(keyOf(c, id));
  if (known !== undefined) {
    try {
      check(known);
      return;
    } catch (error) {
      if (!(error instanceof ProblemError)) throw error;
    }
  }
  check(await definitionOf(c, id));
}

/** The session's definition as its worker has it. The errors are those of `callWorker`. */
async function definitionOf(c: Context<EdgeEnv>, id: SessionId): Promise<StepDefinition> {
  const session = await readDocument(sessionSchema, await callWorker(c, id, '', { method: 'GET' }));
  rememberDefinition(c, session);
  return session;
}
