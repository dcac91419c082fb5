/**
 * The last replies of a worker's sessions, for whoever asks again: within a bound. When they would take more, those that were given
 * longest ago go first; who has lost a reply asks for it within moments.
 */
import type { Answer } from '../training/trainer.ts';

/** The reply of the last step. */
export interface RetainedReply {
  readonly step: number;
  /** SHA-256 of the step's body, in hexadecimal. */
  readonly digest: string;
  readonly answer: Answer;
}

export class RetainedReplies {
  readonly #limit: number;
  /** By whose they are, the latest last. */
  readonly #replies = new Map<object, RetainedReply>();
  #bytes = 0;

  /** @param limit bytes of all of them; the latest one is kept however large it is */
  constructor(limit: number) {
    this.#limit = limit;
  }

  of(owner: object): RetainedReply | null {
    return this.#replies.get(owner) ?? null;
  }

  /** Keeps a reply in the place of the owner's last one. */
  keep(owner: object, reply: RetainedReply): void {
    this.drop(owner);
    this.#replies.set(owner, reply);
    this.#bytes += reply.answer.body.byteLength;
    for (const other of this.#replies.keys()) {
      if (this.#bytes <= this.#limit || other === owner) return;
      this.drop(other);
    }
  }

  drop(owner: object): void {
    const held = this.#replies.get(owner);
    if (held === undefined) return;
    this.#replies.delete(owner);
    this.#bytes -= held.answer.body.byteLength;
  }
}
