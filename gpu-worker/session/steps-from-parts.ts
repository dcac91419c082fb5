/** Steps of one session that are put together from parts: the next one's are taken in, the last one's are still known. */
import { ProblemError } from '../../shared/errors.ts';
import type { SessionDefinition } from '../../shared/session.ts';
import type { StepParts } from '../../shared/step-parts.ts';
import type { Answer } from '../training/trainer.ts';
import type { SessionCompute } from './session-compute.ts';
import { SharedJob } from './shared-job.ts';
import type { CommittedParts, PendingParts } from './step-parts.ts';
import type { StepBody, StepSequence } from './step-sequence.ts';

/** What they are a part of. */
export interface PartsParent {
  readonly device: SessionCompute;
  readonly sequence: StepSequence;
  readonly parts: PendingParts;
  /** As it is now. */
  readonly definition: () => SessionDefinition;
  /** Uses what is stored; a session that another worker owns by now is closed. */
  readonly owning: <Result>(work: () => Promise<Result>) => Promise<Result>;
}

export class StepsFromParts {
  readonly #parent: PartsParent;
  /** Of the next step, while it is at work: a copy waits with it. */
  #commit: SharedJob<Answer> | null = null;

  constructor(parent: PartsParent) {
    this.#parent = parent;
  }

  /**
   * Takes in part k of step n, the next one.
   *
   * @returns the parts that there are
   * @throws ProblemError as `PendingParts.put`; `run_in_progress`, `step_applied`, `step_out_of_order`, `session_rewound`
   */
  async put(n: number, k: number, body: Pick<StepBody, 'bytes' | 'digest'>): Promise<StepParts> {
    const { sequence, parts, definition, owning } = this.#parent;
    sequence.assertFree(n);
    const committed = this.#committedAs(n);
    const assertNext = (): void => {
      sequence.assertFree(n);
      if (this.#committedAs(n) !== null) throw sequence.applied(n);
    };
    if (committed === null) await owning(() => parts.put(n, k, body, definition(), assertNext));
    else if (!committed.parts.some(({ part, digest }) => part === k && digest === body.digest)) {
      throw sequence.applied(n);
    }
    return parts.describe(n);
  }

  /** The parts of step n, the next or the last one. @throws ProblemError as {@link put} */
  describe(n: number): StepParts {
    this.#committedAs(n);
    return this.#parent.parts.describe(n);
  }

  /** Takes away part k of step n, the next one. @param k null for all @throws ProblemError as {@link put} */
  async remove(n: number, k: number | null): Promise<void> {
    const { sequence, parts, owning } = this.#parent;
    if (this.#committedAs(n) !== null) throw sequence.applied(n);
    await owning(() => parts.remove(n, k));
  }

  /**
   * Applies step n on the union of its parts, or answers it again.
   *
   * @param count of the parts
   * @throws ProblemError as `StepSequence.take`; `PendingParts.assertComplete`, `PendingParts.commit`
   */
  async commit(n: number, count: number, signal?: AbortSignal): Promise<Answer> {
    const { sequence, parts } = this.#parent;
    while (parts.removal !== null) await parts.removal;
    signal?.throwIfAborted();
    sequence.assertFree(n);
    const retained = this.#answerFor(n, count);
    if (retained !== null) return retained;
    // While another commit is at work, the parts are the ones that it has found.
    parts.assertComplete(n, count);
    const other = this.#commit;
    if (other?.isAbandoned === false) return other.wait(signal);
    if (other !== null) {
      // Nobody waits for it, but it may have come to be computed, and then takes the parts with it.
      await other.ended();
      return this.commit(n, count, signal);
    }
    const commit = new SharedJob((abandoned) => this.#commitAlone(n, count, abandoned));
    this.#commit = commit;
    try {
      return await commit.wait(signal);
    } finally {
      if (this.#commit === commit) this.#commit = null;
    }
  }

  async #commitAlone(n: number, count: number, signal: AbortSignal): Promise<Answer> {
    const { sequence, parts, definition, owning } = this.#parent;
    try {
      return await owning(() => parts.commit(n, definition(), (union) => sequence.take(n, union, signal)));
    } catch (error) {
      // A step that was sent as a whole may have been applied meanwhile, and the parts be gone.
      if (n < sequence.nextStep) this.#answerFor(n, count);
      throw error;
    }
  }

  /** The reply to give without computing, or null if step n is the next one. @throws ProblemError `step_conflict` */
  #answerFor(n: number, count: number): Answer | null {
    const { sequence, parts } = this.#parent;
    const retained = sequence.replyTo(n);
    if (retained === null) return null;
    const committed = parts.committedAs(n);
    if (committed?.parts.length === count) return retained.answer;
    const how = committed === null ? 'as a whole' : `with ${String(committed.parts.length)} parts`;
    throw new ProblemError('step_conflict', {
      param: 'parts',
      detail: `Step ${String(n)} was applied ${how}; a step is never applied twice.`,
      remedy: `Get its reply with GET, and go on with step ${String(sequence.nextStep)}.`,
    });
  }

  /** Of which parts step n was made if it was the last one; null if it is the next one. */
  #committedAs(n: number): CommittedParts | null {
    const { device, sequence, parts } = this.#parent;
    const { nextStep } = sequence;
    device.assertNotClosed();
    if (n === nextStep) return null;
    if (n > nextStep) throw sequence.outOfOrder(n);
    const committed = n === nextStep - 1 ? parts.committedAs(n) : null;
    if (committed === null) throw sequence.applied(n);
    return committed;
  }
}
