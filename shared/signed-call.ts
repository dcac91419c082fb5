/**
 * Calls between edge and workers, signed over what they ask for. The body is not signed but for its length, since it streams; where
 * it is small and matters, as in a heartbeat, its digest is.
 */
import { ProblemError } from './errors.ts';
import { LIMITS } from './limits.ts';
import type { Signer } from './signature.ts';

export const SIGNED_CALL_HEADER = {
  timestamp: 'x-ddpnopt-timestamp',
  lease: 'x-ddpnopt-lease',
  signature: 'x-ddpnopt-signature',
} as const;

export interface SignedCall {
  readonly method: string;
  /** With its query. */
  readonly path: string;
  /** Bytes of the body. */
  readonly length: number;
  /** The session's lease, as `signLease` writes it; empty where no session is concerned. */
  readonly lease: string;
  /** Whose request it is; empty where it is nobody's. */
  readonly tenant: string;
  /** SHA-256 of the body in hexadecimal; empty where it streams. */
  readonly digest: string;
}

function textOf({ method, path, length, lease, tenant, digest }: SignedCall, timestamp: string): string {
  return ['ddpnopt-call', method, path, timestamp, lease, length, tenant, digest].join('\n');
}

/** @param now milliseconds since the Unix epoch. @returns the headers to send with the call */
export async function signCall(call: SignedCall, signer: Signer, now: number): Promise<Record<string, string>> {
  const timestamp = String(now);
  return {
    [SIGNED_CALL_HEADER.timestamp]: timestamp,
    [SIGNED_CALL_HEADER.signature]: await signer.sign(textOf(call, timestamp)),
    ...(call.lease === '' ? {} : { [SIGNED_CALL_HEADER.lease]: call.lease }),
  };
}

/**
 * Checks that a call comes from who has the secret, and is not an old one sent again. One that is sent again within the window asks
 * for what was asked for already: all calls may be repeated.
 *
 * @throws ProblemError `call_refused`
 */
export async function verifyCall(
  call: SignedCall,
  header: (name: string) => string | undefined,
  signer: Signer,
  now: number,
): Promise<void> {
  const timestamp = header(SIGNED_CALL_HEADER.timestamp) ?? '';
  const signature = header(SIGNED_CALL_HEADER.signature);
  if (signature === undefined) throw callRefused('it is not signed');
  if (!(await signer.verify(textOf(call, timestamp), signature))) {
    throw callRefused('its signature is not that of this call with this secret');
  }
  const seconds = Math.abs(now - Number(timestamp)) / 1000;
  if (!(seconds <= LIMITS.clockSkewSeconds)) {
    throw callRefused(`it was signed ${String(Math.round(seconds))} seconds from now by the clock here`);
  }
}

export function callRefused(reason: string): ProblemError {
  return new ProblemError('call_refused', {
    detail: `The call is refused: ${reason}.`,
    remedy: 'Give edge and workers the same secret, and clocks that agree; nobody else calls a worker.',
  });
}
