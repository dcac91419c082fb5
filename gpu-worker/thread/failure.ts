/** Errors on their way between threads, which keep no classes. */
import { ProblemError, type ProblemCode, type ProblemDetails } from '../../shared/errors.ts';

export type Failure =
  | { readonly kind: 'problem'; readonly code: ProblemCode; readonly details: ProblemDetails }
  | { readonly kind: 'defect'; readonly name: string; readonly message: string; readonly stack: string | undefined };

export function toFailure(error: unknown): Failure {
  if (error instanceof ProblemError) return { kind: 'problem', code: error.code, details: error.details };
  if (error instanceof Error) return { kind: 'defect', name: error.name, message: error.message, stack: error.stack };
  return { kind: 'defect', name: 'Error', message: String(error), stack: undefined };
}

export function toError(failure: Failure): Error {
  if (failure.kind === 'problem') return new ProblemError(failure.code, failure.details);
  const { name, message, stack } = failure;
  const error = new Error(message);
  error.name = name;
  if (stack !== undefined) error.stack = stack;
  return error;
}
