/** A computation cannot become a graph. The message says why; whoever asked computes it operation by operation instead. */
export class NotTraceable extends Error {
  override readonly name = 'NotTraceable';
}
