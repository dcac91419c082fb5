/** What a request handler at the edge can reach. */
import type { RequestIdVariables } from 'hono/request-id';
import * as z from 'zod';
import type { ProblemCode } from '../shared/errors.ts';
import { LIMITS } from '../shared/limits.ts';
import type { LogLevel } from '../shared/log-level.ts';
import type { Signer } from '../shared/signature.ts';
import type { AccessControl, AccessSettings } from './access/access-control.ts';
import type { Principal } from './access/principal.ts';
import type { Placement } from './placement/placement.ts';

/** The setting of that name: in milliseconds, {@link LIMITS.answerMilliseconds} unless given. */
export const answerMillisecondsSchema = z.coerce.number().int().min(1).default(LIMITS.answerMilliseconds);

/** What differs between Cloudflare and Node. */
export interface Platform {
  readonly placement: Placement;
  /** Milliseconds in which a worker answers what takes no computing; one that does not is taken to hang. */
  readonly answerMilliseconds: number;
  /** Origins of pages that may call the service from a browser, see {@link crossOrigin}. */
  readonly allowedOrigins: readonly string[];
  /** Signs calls to workers, and checks those that come from them; null where no secret is configured. */
  readonly signer: Signer | null;
  /** Where keys are looked up and usage is reported to, and the operator's key. */
  readonly access: Omit<AccessSettings, 'reportFailure'>;
  readonly logLevel: LogLevel;
  /** Writes a line. @param status of the answer that it is about */
  readonly log: (line: object, status: number) => void;
  /** Static files, by path. */
  readonly asset: (path: string) => Promise<Response>;
  /** A pipe for a body of known length, as the platform's fetch sends one with its Content-Length. */
  readonly pipe: (length: number) => {
    readonly readable: ReadableStream<Uint8Array>;
    readonly writable: WritableStream<Uint8Array>;
  };
  /**
   * A worker's answer as it is sent on. Where it breaks off, so does the client's connection.
   *
   * @param connection the platform's own of the request, as Hono has it in `c.env`
   * @param report told why it has broken off, unless the client has gone
   */
  readonly relayed: <Chunk>(
    answer: ReadableStream<Chunk>,
    connection: unknown,
    report: (error: unknown) => void,
  ) => ReadableStream<Chunk>;
}

export interface EdgeEnv {
  readonly Variables: RequestIdVariables & {
    readonly platform: Platform;
    readonly access: AccessControl;
    /** Who makes the request, where access is controlled. */
    principal?: Principal;
    /** What the worker has reported for this request. */
    reported: { steps: number; computeSeconds: number };
    problemCode?: ProblemCode;
  };
}
