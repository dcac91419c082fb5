import { RunError } from '../clients/js/index.ts';

/** Whether a training ended because its numbers did, which is a result and no fault. */
export function isDivergence(error: unknown): boolean {
  if (error instanceof RunError) return error.run.problem?.code === 'numerical_failure';
  return (
    error instanceof Error &&
    (('code' in error && error.code === 'numerical_failure') ||
      // How the peers name it.
      /diverged|ArithmeticError|LinAlgError/.test(error.message))
  );
}
