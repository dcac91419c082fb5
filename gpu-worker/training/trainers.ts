/** The trainers of all sessions on one device. */
import type { CheckpointManifest } from '../../shared/checkpoint.ts';
import { notHosted, sessionNotFound, type SessionDefinition, type SessionId } from '../../shared/session.ts';
import type { Engine } from '../tensor/engine.ts';
import { readCheckpoint, writeCheckpoint, type CheckpointFile, type OpenedCheckpoint } from './checkpoint.ts';
import { createTrainer, restoreTrainer } from './create-trainer.ts';
import type { Answer, HostedModel, StepOutcome, Trainer } from './trainer.ts';

/** What a checkpoint says of itself. */
export type CheckpointSummary = Pick<CheckpointManifest, 'definition' | 'step' | 'metrics' | 'engine'> &
  Pick<CheckpointFile, 'digest'>;

/** What the state alone does not know of its checkpoint. */
export type CheckpointOrigin = Pick<CheckpointManifest, 'definition' | 'metrics' | 'createdAt'>;

export type SavedCheckpoint = CheckpointFile & Pick<CheckpointManifest, 'step' | 'engine'>;

export class Trainers {
  readonly #engine: Engine;
  readonly #trainers = new Map<SessionId, Trainer>();

  constructor(engine: Engine) {
    this.#engine = engine;
  }

  /** Makes the session's initial state. */
  open(id: SessionId, definition: SessionDefinition): void {
    this.#trainers.set(id, createTrainer(this.#engine, definition));
  }

  /** Makes the state that a checkpoint holds. @throws ProblemError as {@link inspect} */
  restore(id: SessionId, file: Uint8Array): CheckpointSummary {
    const checkpoint = readCheckpoint(file, this.#engine.precision);
    this.#trainers.set(id, restoreTrainer(this.#engine, checkpoint));
    return summary(checkpoint);
  }

  /**
   * Checks a checkpoint as a whole, as if a session began from it.
   *
   * @throws ProblemError as `readCheckpoint`; `missing_tensor`, `unknown_tensor`, `shape_mismatch`
   */
  inspect(file: Uint8Array): CheckpointSummary {
    const checkpoint = readCheckpoint(file, this.#engine.precision);
    restoreTrainer(this.#engine, checkpoint).close();
    return summary(checkpoint);
  }

  /** The session's state as a checkpoint. @throws ProblemError `session_not_found` */
  save(id: SessionId, { definition, metrics, createdAt }: CheckpointOrigin): SavedCheckpoint {
    const { step, state, tensors } = this.#find(id).save();
    const { name: engine } = this.#engine;
    return { ...writeCheckpoint({ definition, step, metrics, engine, createdAt, state }, tensors), step, engine };
  }

  /** @throws ProblemError as `Trainer.step`; `session_not_found` */
  step(id: SessionId, body: Uint8Array): StepOutcome {
    return this.#find(id).step(body);
  }

  /** Goes on with other options from the next step on. @throws ProblemError `session_not_found` */
  redefine(id: SessionId, definition: SessionDefinition): void {
    this.#trainers.set(id, this.#find(id).redefined(definition));
  }

  /** Does what the session's last step has left for later, if it is still open. */
  settle(id: SessionId): void {
    this.#trainers.get(id)?.settle();
  }

  /** @throws ProblemError `session_not_found`, `not_hosted` */
  weights(id: SessionId): Answer {
    return this.#model(id).weights();
  }

  /** @throws ProblemError as `HostedModel.predict`; `session_not_found`, `not_hosted` */
  predict(id: SessionId, body: Uint8Array): Answer {
    return this.#model(id).predict(body);
  }

  /** @throws ProblemError as `HostedModel.checkChunk`; `session_not_found`, `not_hosted` */
  checkChunk(id: SessionId, body: Uint8Array): void {
    this.#model(id).checkChunk(body);
  }

  close(id: SessionId): void {
    this.#trainers.get(id)?.close();
    this.#trainers.delete(id);
  }

  #find(id: SessionId): Trainer {
    const trainer = this.#trainers.get(id);
    if (trainer === undefined) throw sessionNotFound(id);
    return trainer;
  }

  #model(id: SessionId): HostedModel {
    const { model } = this.#find(id);
    if (model !== null) return model;
    throw notHosted(id);
  }
}

function summary({ manifest, digest }: OpenedCheckpoint): CheckpointSummary {
  const { definition, step, metrics, engine } = manifest;
  return { definition, step, metrics, engine, digest };
}
