/** The trainers of all sessions on one device. */
import { notHosted, sessionNotFound, type SessionDefinition, type SessionId } from '../../shared/session.ts';
import type { Engine } from '../tensor/engine.ts';
import { hostedTrainer } from './hosted-trainer.ts';
import { kernelTrainer } from './kernel-trainer.ts';
import { layersTrainer } from './layers-trainer.ts';
import type { Answer, HostedModel, StepOutcome, Trainer } from './trainer.ts';

export class Trainers {
  readonly #engine: Engine;
  readonly #trainers = new Map<SessionId, Trainer>();

  constructor(engine: Engine) {
    this.#engine = engine;
  }

  open(id: SessionId, definition: SessionDefinition): void {
    this.#trainers.set(id, createTrainer(this.#engine, definition));
  }

  /** @throws ProblemError as `Trainer.step`; `session_not_found` */
  step(id: SessionId, body: Uint8Array): StepOutcome {
    return this.#find(id).step(body);
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

function createTrainer(engine: Engine, definition: SessionDefinition): Trainer {
  switch (definition.mode) {
    case 'layers':
      return layersTrainer(engine, definition);
    case 'kernel':
      return kernelTrainer(engine, definition);
    case 'hosted':
      return hostedTrainer(engine, definition);
  }
}
