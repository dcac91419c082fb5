/**
 * The steps of one session: their numbers, and the last reply.
 *
 * A step is applied once: the sequence number says which step it is, the digest of its body whether it is the same one again.
 */
import { ProblemError } from '../../shared/errors.ts';
import type { SessionId, StepMetrics } from '../../shared/session.ts';
import type { AppliedStep, Compute } from '../engine/compute.ts';
import type { Answer } from '../training/trainer.ts';
import type { SavedCheckpoint } from '../training/trainers.ts';
import type { RecoveredState } from './recovery.ts';
import type { RetainedReplies, RetainedReply } from './retained-replies.ts';
import type { ComputeResources, SessionCompute } from './session-compute.ts';
import type { SessionEvents } from './session-events.ts';
import { SharedJob } from './shared-job.ts';
import { runDigest, runOf, type StepLog } from './step-log.ts';
import type { CommittedParts, PendingParts } from './step-parts.ts';

/** The body of a step with its SHA-256, in hexadecimal; or a union with what its parts' digests make. */
export interface StepBody {
  /** Not the caller's any more once the step is computed. */
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly digest: string;
  /** Of which parts it is the union, if of any. */
  readonly committed?: CommittedParts;
}

/** What the sequence is a part of. */
export interface SequenceParent {
  readonly id: SessionId;
  readonly device: SessionCompute;
  readonly resources: Pick<ComputeResources, 'compute' | 'meter'>;
  /** Keeps the session in storage; null where it lives in memory alone. */
  readonly log: StepLog | null;
  /** Of the next step. */
  readonly parts: PendingParts;
  /** Of all sessions of the worker. */
  readonly replies: RetainedReplies;
  readonly events: SessionEvents;
  /** The state as of the last step. */
  readonly save: (compute: Compute) => Promise<SavedCheckpoint>;
  /** Why nobody but a run takes steps now; null if everybody may. */
  readonly refusal: () => ProblemError | null;
  /** Puts off the session's expiry. */
  readonly touch: () => void;
  /** Closes the session if it turns out to be another worker's by now. */
  readonly closeIfMoved: (error: unknown) => void;
}

export class StepSequence {
  readonly #parent: SequenceParent;
  #nextStep = 0;
  #metrics: StepMetrics | null = null;
  /** Where the state came from, until a step follows: steps that a client has seen since may be lost. */
  #isRewindable = false;
  /** Steps in the queue, by number and digest: a copy waits with the first one and takes no place of its own. */
  readonly #waiting = new Map<string, SharedJob<Answer>>();
  /** Requests for steps, from their arrival to their answer, by what cancels them. */
  readonly #requests = new Map<AbortController, number>();
  /** From the start of a step's computation until it is acknowledged. */
  #isComputing = false;

  constructor(parent: SequenceParent) {
    this.#parent = parent;
  }

  get nextStep(): number {
    return this.#nextStep;
  }

  /** Of the last step; null before the first. */
  get metrics(): StepMetrics | null {
    return this.#metrics;
  }

  /** Goes on where a recovery has led to. */
  recovered({ nextStep, metrics, lastReply }: Pick<RecoveredState, 'nextStep' | 'metrics' | 'lastReply'>): void {
    const { device, replies } = this.#parent;
    this.#nextStep = nextStep;
    this.#metrics = metrics;
    if (lastReply === null) replies.drop(this);
    else if (!device.isClosed) replies.keep(this, lastReply);
    this.#isRewindable = nextStep > 0;
  }

  /**
   * Does the work of a request for step n, from before its body is read.
   *
   * @param request is aborted when the step is cancelled
   * @throws ProblemError as {@link take}; by the number alone before the work begins
   */
  async useFor<Result>(n: number, request: AbortController, work: () => Promise<Result>): Promise<Result> {
    this.assertFree(n);
    this.replyTo(n);
    this.#requests.set(request, n);
    try {
      return await work();
    } finally {
      this.#requests.delete(request);
    }
  }

  /**
   * Applies step n, or answers it again if it was the last one applied.
   *
   * @param signal of the request. A step is taken out of the queue when all requests for it are aborted; one that is being
   *   computed is applied, and its reply kept
   * @throws ProblemError `run_in_progress`, `step_out_of_order`, `session_rewound`, `reply_not_retained`, `step_conflict`, `queue_full`,
   *   the codes of `Trainer.step`, those of `Storage`, the signal's reason; the session is then as it was before
   */
  async take(n: number, body: StepBody, signal?: AbortSignal): Promise<Answer> {
    // Checked twice: here, to refuse before the body waits in the queue, and in its turn, when earlier steps have been applied.
    this.assertFree(n);
    const retained = this.#answerFor(n, body.digest);
    if (retained !== null) return retained;
    signal?.throwIfAborted();
    const key = `${String(n)} ${body.digest}`;
    const same = this.#waiting.get(key);
    if (same?.isAbandoned === false) return same.wait(signal);
    const job = new SharedJob(async (abandoned) => {
      const { answer } = await this.#parent.device.inTurn(() => {
        this.assertFree(n);
        return this.#apply(n, body);
      }, abandoned);
      return answer;
    });
    this.#waiting.set(key, job);
    try {
      return await job.wait(signal);
    } finally {
      if (this.#waiting.get(key) === job) this.#waiting.delete(key);
    }
  }

  /** Refuses a step that is to come while a run takes the steps. @throws ProblemError `run_in_progress` */
  assertFree(n: number): void {
    const refusal = n < this.#nextStep ? null : this.#parent.refusal();
    if (refusal !== null) throw refusal;
  }

  /**
   * Applies step n, the next one, of a run.
   *
   * @param run its first step
   * @param signal takes the step out of the queue
   * @throws ProblemError the codes of `Trainer.step`, those of `Storage`, the signal's reason
   */
  async takeOfRun(n: number, run: number, bytes: Uint8Array<ArrayBuffer>, signal: AbortSignal): Promise<void> {
    const body: StepBody = { bytes, digest: runDigest(run) };
    const { answer } = await this.#parent.device.inTurnAlways(() => this.#apply(n, body), signal);
    await answer;
  }

  /**
   * Cancels step n for everybody who waits for it. A step that does not wait, or not any more, is none to cancel: that it is not
   * there is what was asked for.
   *
   * @throws ProblemError `step_in_progress`, `step_applied`, `step_out_of_order`, `session_rewound`; the step is then left as it is
   */
  cancel(n: number): void {
    this.#parent.device.assertNotClosed();
    if (n > this.#nextStep) throw this.outOfOrder(n);
    if (n < this.#nextStep) throw this.applied(n);
    if (this.#isComputing) {
      throw new ProblemError('step_in_progress', {
        param: 'n',
        detail: `Step ${String(n)} is being computed; only a step that waits can be cancelled.`,
        remedy: 'GET the session to see whether it was applied; send the same step again to get its reply.',
      });
    }
    for (const [request, step] of this.#requests) if (step === n) request.abort(stepCancelled(n));
  }

  /** The stored reply of step n. */
  storedReply(n: number): Answer {
    const reply = this.replyTo(n);
    if (reply === null) throw this.outOfOrder(n);
    return reply.answer;
  }

  /** The reply of step n if it was the last one applied, or null if it is the next one. */
  replyTo(n: number): RetainedReply | null {
    const { device, replies } = this.#parent;
    device.assertNotClosed();
    if (n === this.#nextStep) return null;
    if (n > this.#nextStep) throw this.outOfOrder(n);
    const reply = replies.of(this);
    if (reply?.step !== n) throw notRetained(n);
    return reply;
  }

  /** The reply to give without computing, or null if step n is the next one. */
  #answerFor(n: number, digest: string): Answer | null {
    const reply = this.replyTo(n);
    if (reply === null) return null;
    if (reply.digest !== digest) {
      throw new ProblemError('step_conflict', {
        param: 'n',
        detail: `Step ${String(n)} was applied with another body; a step is never applied twice.`,
        remedy: `Send new work as step ${String(this.#nextStep)}; to repeat a step, send exactly the same bytes.`,
      });
    }
    return reply.answer;
  }

  /** The problem of a step that has been applied. */
  applied(n: number): ProblemError {
    return new ProblemError('step_applied', {
      param: 'n',
      detail: `Step ${String(n)} has been applied, which cannot be undone.`,
      remedy: `Go on with step ${String(this.#nextStep)}.`,
    });
  }

  /** The problem of a step that is ahead of the session: the client's mistake, or steps that the session has lost. */
  outOfOrder(n: number): ProblemError {
    const expectedStep = this.#nextStep;
    if (this.#isRewindable) {
      return new ProblemError('session_rewound', {
        param: 'n',
        resumeFrom: expectedStep,
        detail: `Step ${String(n)} was sent; the session’s state was recovered, and has the steps before ${String(expectedStep)}.`,
        remedy: `Send step ${String(expectedStep)} and those after it again, with the same or with new batches.`,
      });
    }
    return new ProblemError('step_out_of_order', {
      param: 'n',
      expectedStep,
      detail:
        n === expectedStep
          ? `Step ${String(n)} has not been taken; the session expects it next.`
          : `Step ${String(n)} was sent; the session expects step ${String(expectedStep)}.`,
      remedy: `Send step ${String(expectedStep)} next.`,
    });
  }

  /** A closed session's replies are not kept. */
  close(): void {
    this.#parent.replies.drop(this);
  }

  /**
   * Applies step n on the device, unless that has been done meanwhile.
   *
   * @returns its reply to come: the device need not wait until the step is in storage
   */
  async #apply(n: number, { bytes, digest, committed }: StepBody): Promise<{ readonly answer: Promise<Answer> }> {
    const retained = this.#answerFor(n, digest);
    if (retained !== null) return { answer: Promise.resolve(retained) };
    const { id, device, log, save } = this.#parent;
    device.assertOpen();
    this.#isComputing = true;
    try {
      const { compute, meter } = this.#parent.resources;
      // The state before the step: with the step itself in the log, its reply can be computed again.
      const snapshot = log?.isSnapshotDue === true ? (await save(compute)).bytes : null;
      const begun = meter.elapsed();
      const applied = await device.metered(() => compute.step(id, bytes));
      const failures = applied.metrics.failedFactorizations - (this.#metrics?.failedFactorizations ?? 0);
      meter.stepped((meter.elapsed() - begun) / 1000, failures);
      const answer = this.#acknowledge(n, { digest, committed: committed ?? null }, applied, snapshot);
      const settled = (): void => {
        this.#isComputing = false;
      };
      device.acknowledge(answer.then(settled, settled));
      return { answer };
    } catch (error) {
      this.#isComputing = false;
      throw error;
    }
  }

  /** Counts a step that the device has applied, once it may be. @throws ProblemError the storage's; the state is then given up */
  async #acknowledge(
    n: number,
    { digest, committed }: { readonly digest: string; readonly committed: CommittedParts | null },
    { metrics, answer, body }: AppliedStep,
    snapshot: Uint8Array<ArrayBuffer> | null,
  ): Promise<Answer> {
    const { device, log, parts, events, replies, touch, closeIfMoved } = this.#parent;
    if (log !== null) {
      try {
        const logged = runOf({ digest }) === null ? body : null;
        await log.append(n, digest, logged, committed === null ? null : parts.changesOf(committed));
        // Nobody waits for it.
        if (snapshot !== null) void log.writeSnapshot(n, snapshot);
      } catch (error) {
        // The device is a step ahead of what is stored.
        device.giveUpState();
        closeIfMoved(error);
        throw error;
      }
    }
    // What follows cannot fail, so that the reply is kept as well.
    this.#nextStep = n + 1;
    this.#metrics = metrics;
    device.countStep();
    this.#isRewindable = false;
    events.record(metrics);
    parts.applied(committed);
    if (!device.isClosed) replies.keep(this, { step: n, digest, answer });
    touch();
    return answer;
  }
}

function stepCancelled(n: number): ProblemError {
  return new ProblemError('step_cancelled', {
    param: 'n',
    detail: `Step ${String(n)} was cancelled before it was computed; the session is as it was.`,
    remedy: `Send step ${String(n)} when it is wanted.`,
  });
}

function notRetained(n: number): ProblemError {
  return new ProblemError('reply_not_retained', {
    param: 'n',
    detail: `Step ${String(n)} was applied, but only the reply of the last step is kept, and not when those of later steps of other sessions need the room.`,
    remedy: 'Go on with the session’s nextStep; GET the session to learn it.',
  });
}
