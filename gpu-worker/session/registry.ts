/** The sessions of a worker: bounded in number, removed when idle. */
import { isDeepStrictEqual } from 'node:util';
import { ProblemError } from '../../shared/errors.ts';
import { LIMITS } from '../../shared/limits.ts';
import { sessionNotFound, stateBytes, type SessionDefinition, type SessionId } from '../../shared/session.ts';
import { TrainingSession, type SessionResources } from './session.ts';

export class SessionRegistry {
  readonly #sessions = new Map<SessionId, TrainingSession>();
  readonly #resources: SessionResources;
  readonly #limit: number;

  constructor(resources: SessionResources, limit: number) {
    this.#resources = resources;
    this.#limit = limit;
  }

  get size(): number {
    return this.#sessions.size;
  }

  /**
   * Creates a session, or returns the one with this id and definition.
   *
   * @throws ProblemError `session_exists` if the id is taken by another definition; `session_limit_reached`, `queue_full`
   */
  async create(id: SessionId, definition: SessionDefinition): Promise<TrainingSession> {
    this.removeExpired();
    const existing = this.#sessions.get(id);
    if (existing !== undefined) {
      if (isDeepStrictEqual(existing.definition, definition)) return this.get(id);
      throw new ProblemError('session_exists', {
        param: 'id',
        detail: `Session ${id} exists with another definition.`,
        remedy: 'Create a session under a new id, or delete this one first.',
      });
    }
    const remedy = 'Delete sessions that are done, or retry when idle ones have expired.';
    if (this.#sessions.size >= this.#limit) {
      throw new ProblemError('session_limit_reached', {
        detail: `The worker holds ${String(this.#sessions.size)} of ${String(this.#limit)} sessions.`,
        remedy,
      });
    }
    const held = [...this.#sessions.values()].reduce((sum, session) => sum + stateBytes(session.definition), 0);
    const wanted = stateBytes(definition);
    if (held + wanted > LIMITS.stateBytes) {
      throw new ProblemError('session_limit_reached', {
        detail: `The session’s state takes ${String(wanted)} bytes; the worker has ${String(LIMITS.stateBytes - held)} left.`,
        remedy,
      });
    }
    const session = new TrainingSession(id, definition, this.#resources);
    this.#sessions.set(id, session);
    try {
      await session.use(() => session.open());
    } catch (error) {
      if (this.#sessions.get(id) === session) this.#sessions.delete(id);
      throw error;
    }
    return session;
  }

  /** The session, marked as used. @throws ProblemError `session_not_found` */
  get(id: SessionId): TrainingSession {
    this.removeExpired();
    const session = this.#sessions.get(id);
    if (session === undefined) throw sessionNotFound(id);
    session.touch();
    return session;
  }

  /** @throws ProblemError `session_not_found` */
  delete(id: SessionId): void {
    this.get(id).close();
    this.#sessions.delete(id);
  }

  removeExpired(): void {
    const now = this.#resources.now();
    for (const [id, session] of this.#sessions) {
      if (!session.isExpired(now)) continue;
      session.close();
      this.#sessions.delete(id);
    }
  }
}
