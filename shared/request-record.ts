/** What edge and worker both say of a request that was answered: never a key, nor a tensor. */
export interface AnsweredRequest {
  readonly requestId: string;
  readonly method: string;
  /** The pattern, not the path: few values. */
  readonly route: string;
  readonly status: number;
  /** Until the answer begins; its body may still be on its way. */
  readonly milliseconds: number;
  readonly bytesIn: number;
  readonly bytesOut: number;
  readonly tenant?: string;
  readonly session?: string;
  readonly step?: number;
  /** Of a problem. */
  readonly code?: string;
  /** Of the trace that the client began. */
  readonly traceId?: string;
}
