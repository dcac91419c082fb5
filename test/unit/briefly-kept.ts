/** Sessions that expire after a minute, and their steps: what the tests of a worker's sessions have in common. */
import { createHash } from 'node:crypto';
import type { StepBody } from '../../gpu-worker/session/step-sequence.ts';
import type { ProblemError } from '../../shared/errors.ts';
import { sessionDefinitionSchema, type SessionDefinition, type SessionDefinitionInput } from '../../shared/session.ts';
import { LAYERS, stepBody } from '../e2e/support.ts';

/** What the clock that a test moves begins with. */
export const START = Date.UTC(2030, 0, 1);

/** In milliseconds. */
export const seconds = (count: number): number => count * 1000;

export function definition(input: Partial<SessionDefinitionInput> = {}): SessionDefinition {
  return sessionDefinitionSchema.parse({ layers: LAYERS, ttlSeconds: 60, ...input });
}

export function step(seed: number): StepBody {
  const bytes = stepBody(seed);
  return { bytes, digest: createHash('sha256').update(bytes).digest('hex') };
}

/** The code of the problem that a request ends with; `none` if it succeeds. */
export async function codeOf(request: Promise<unknown>): Promise<string> {
  try {
    await request;
  } catch (error) {
    return (error as ProblemError).code;
  }
  return 'none';
}
