/** What there is to say of an answered request: never a key, nor a tensor. */
export interface RequestRecord {
  readonly requestId: string;
  readonly method: string;
  /** The pattern, not the path: few values. */
  readonly route: string;
  readonly status: number;
  /** Until the answer begins; its body may still be on its way. */
  readonly milliseconds: number;
  readonly bytesIn: number;
  readonly bytesOut: number;
  /** Steps that the worker computed, and the device’s time, as it reported them with this answer. */
  readonly steps: number;
  readonly computeSeconds: number;
  readonly tenant?: string;
  /** Its public id. */
  readonly key?: string;
  readonly session?: string;
  readonly step?: number;
  /** Of a problem. */
  readonly code?: string;
  /** Of the trace that the client began. */
  readonly traceId?: string;
}
