/** Waiting for others no longer than is worth it: for what is answered at once a deadline, for what may take long a sign of life. */
import type { ProblemError } from '../shared/errors.ts';

/**
 * Gives up what another part of the service should answer at once.
 *
 * @param work gets a signal that aborts at the deadline
 * @throws ProblemError `late`'s, at the deadline; else what the work throws
 */
export async function withDeadline<Result>(
  milliseconds: number,
  late: () => ProblemError,
  work: (signal: AbortSignal) => Promise<Result>,
): Promise<Result> {
  const controller = new AbortController();
  let timer: ReturnType<typeof setTimeout> | undefined;
  const deadline = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      const problem = late();
      reject(problem);
      controller.abort(problem);
    }, milliseconds);
  });
  try {
    return await Promise.race([work(controller.signal), deadline]);
  } finally {
    if (timer !== undefined) clearTimeout(timer);
  }
}

/**
 * Does work for as long as it may take, unless a check finds that it is in vain.
 *
 * @param work gets a signal that aborts with what the check throws
 * @param delay milliseconds until the first check
 * @param check resolves with the milliseconds until the next one
 */
export async function whileChecked<Result>(
  work: (signal: AbortSignal) => Promise<Result>,
  delay: number,
  check: () => Promise<number>,
): Promise<Result> {
  const controller = new AbortController();
  let timer: ReturnType<typeof setTimeout> | undefined;
  let isDone = false;
  const checkAfter = (milliseconds: number): void => {
    timer = setTimeout(() => {
      check().then(
        (next) => {
          if (!isDone) checkAfter(next);
        },
        (error: unknown) => {
          controller.abort(error);
        },
      );
    }, milliseconds);
  };
  checkAfter(delay);
  try {
    return await work(controller.signal);
  } finally {
    isDone = true;
    if (timer !== undefined) clearTimeout(timer);
  }
}
