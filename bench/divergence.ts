/** Whether a training ended because its numbers did, which is a result and no fault. */
export function isDivergence(error: unknown): boolean {
  return (
    error instanceof Error &&
    (('code' in error && error.code === 'numerical_failure') ||
      // How the peers name it.
      /diverged|ArithmeticError|LinAlgError/.test(error.message))
  );
}
