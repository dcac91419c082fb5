/** What the edge says of a request that was answered. */
import type { AnsweredRequest } from '../../shared/request-record.ts';

export interface RequestRecord extends AnsweredRequest {
  /** Steps that the worker computed, and the device’s time, as it reported them with this answer. */
  readonly steps: number;
  readonly computeSeconds: number;
  /** Its public id. */
  readonly key?: string;
}
