/** Signatures of calls and leases: what is changed in any way, or too old, is refused. */
import { describe, expect, it } from 'vitest';
import { signLease, verifyLease } from '../../shared/lease.ts';
import { LIMITS } from '../../shared/limits.ts';
import { newSessionId } from '../../shared/session.ts';
import { createSigner } from '../../shared/signature.ts';
import { signCall, verifyCall, type SignedCall } from '../../shared/signed-call.ts';
import { newWorkerId } from '../../shared/worker-report.ts';

const signer = createSigner('one secret of edge and workers');
const stranger = createSigner('another secret, of somebody else');
const NOW = Date.UTC(2030, 0, 1);
const CALL: SignedCall = {
  method: 'PUT',
  path: '/sessions/a/steps/1',
  length: 10,
  lease: 'lease',
  tenant: 'a',
  digest: '',
};
const WINDOW = 1000 * LIMITS.clockSkewSeconds;

async function verdict(call: SignedCall, headers: Record<string, string>, now = NOW): Promise<string> {
  try {
    await verifyCall(call, (name) => headers[name], signer, now);
    return 'taken';
  } catch (error) {
    return (error as Error).message;
  }
}

describe('a call', () => {
  it('is taken as it was signed, within the window', async () => {
    const headers = await signCall(CALL, signer, NOW);
    for (const now of [NOW - WINDOW, NOW, NOW + WINDOW]) expect(await verdict(CALL, headers, now)).toBe('taken');
    for (const now of [NOW - WINDOW - 1000, NOW + WINDOW + 1000]) {
      expect(await verdict(CALL, headers, now)).toContain('61 seconds from now');
    }
  });

  it.each([
    { method: 'DELETE' },
    { path: '/sessions/a/steps/2' },
    { length: 11 },
    { lease: '' },
    { tenant: 'b' },
    { digest: '0' },
  ] satisfies Partial<SignedCall>[])('is refused as $0', async (change) => {
    const headers = await signCall(CALL, signer, NOW);
    expect(await verdict({ ...CALL, ...change }, headers)).toContain('its signature is not that of this call');
  });

  it('is refused with another secret, another time, or no signature', async () => {
    const headers = await signCall(CALL, signer, NOW);
    expect(await verdict(CALL, await signCall(CALL, stranger, NOW))).toContain('its signature');
    expect(await verdict(CALL, { ...headers, 'x-ddpnopt-timestamp': String(NOW + 1) })).toContain('its signature');
    expect(await verdict(CALL, { ...headers, 'x-ddpnopt-signature': 'no hexadecimal' })).toContain('its signature');
    expect(await verdict(CALL, {})).toContain('it is not signed');
    expect(await verdict(CALL, await signCall(CALL, signer, Number.NaN))).toContain('NaN seconds');
  });

  it('with a secret of text in any script is signed the same everywhere', async () => {
    // RFC 4231, test case 2.
    const known = '5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843';
    expect(await createSigner('Jefe').sign('what do ya want for nothing?')).toBe(known);
    expect(await createSigner('Jefe').verify('what do ya want for nothing?', known)).toBe(true);
  });
});

describe('a lease', () => {
  it('says what it was signed for, and nothing else', async () => {
    const lease = { session: newSessionId(), worker: newWorkerId(), epoch: 3, expires: NOW };
    const token = await signLease(lease, signer);
    expect(await verifyLease(token, signer)).toEqual(lease);
    expect(await verifyLease(token, stranger)).toBeNull();
    expect(await verifyLease(token.replace('.3.', '.4.'), signer)).toBeNull();
    for (const text of ['', '.', 'no lease', `${token}0`]) expect(await verifyLease(text, signer)).toBeNull();
    // What is signed as a call is no lease.
    const { 'x-ddpnopt-signature': signature } = await signCall({ ...CALL, path: token }, signer, NOW);
    expect(await verifyLease(`${token.slice(0, token.lastIndexOf('.'))}.${String(signature)}`, signer)).toBeNull();
  });
});
