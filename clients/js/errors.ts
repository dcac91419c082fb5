/** What can go wrong between a client and the service. */
import type { Problem, ProblemCode } from '../../shared/errors.ts';
import type { Run } from '../../shared/run.ts';

/** The service refused a request; the problem document says what, why and what to do. */
export class DdpnoptError extends Error {
  override readonly name = 'DdpnoptError';
  readonly problem: Problem;

  constructor(problem: Problem) {
    super(`${problem.detail} ${problem.remedy} (${problem.code}, request ${problem.request_id})`);
    this.problem = problem;
  }

  /** Stable, for programs. */
  get code(): ProblemCode {
    return this.problem.code;
  }

  /** The field or tensor at fault, if it is one. */
  get param(): string | undefined {
    return this.problem.param;
  }

  /** What to do about it, in words. */
  get remedy(): string {
    return this.problem.remedy;
  }

  /** What the service logs the request under. */
  get requestId(): string {
    return this.problem.request_id;
  }
}

/** No answer came, or none that the service would give: a wrong address, a proxy, a broken connection. A step may have been applied. */
export class ConnectionError extends Error {
  override readonly name = 'ConnectionError';
  /** What the service logs the request under, if it has come to it; null where no request was made. */
  readonly requestId: string | null;

  constructor(message: string, options: ErrorOptions & { readonly requestId?: string } = {}) {
    super(message, options);
    this.requestId = options.requestId ?? null;
  }
}

/** The service has lost steps that the client no longer holds: they cannot be sent again. */
export class ReplayError extends Error {
  override readonly name = 'ReplayError';
  /** The first step that the service lacks. */
  readonly resumeFrom: number;
  /** The first of the steps that the client could send again; null if there is none. */
  readonly oldestHeld: number | null;

  constructor(resumeFrom: number, oldestHeld: number | null, options: ErrorOptions) {
    const held = oldestHeld === null ? 'holds no earlier step' : `holds the steps from ${String(oldestHeld)} on`;
    super(
      `the service has lost the steps from ${String(resumeFrom)} on, and the client ${held}: they cannot be sent again. Call ` +
        `resynchronise() and go on with new batches from step ${String(resumeFrom)}, or from a checkpoint; a larger replay.steps or ` +
        'replay.bytes of the client keeps more steps',
      options,
    );
    this.resumeFrom = resumeFrom;
    this.oldestHeld = oldestHeld;
  }
}

/** A run has ended with a step that could not be taken. The steps before it count. */
export class RunError extends Error {
  override readonly name = 'RunError';
  readonly run: Run;

  constructor(run: Run) {
    const { problem, nextStep } = run;
    super(
      `step ${String(nextStep)} of the run could not be taken: ${problem?.detail ?? 'no reason is known.'} ${problem?.remedy ?? ''}`,
    );
    this.run = run;
  }
}
