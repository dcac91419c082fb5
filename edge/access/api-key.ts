/**
 * API keys: `ddpnopt_<id>_<secret>`, the id 8 and the secret 32 random bytes in hexadecimal. What is kept of a key is its SHA-256,
 * which is enough for a random secret of 256 bits: there is nothing to be guessed that salt or stretching would slow down.
 */
import { keyIdSchema, type KeyId } from '../../shared/access.ts';

const FORM = /^ddpnopt_([0-9a-f]{16})_[0-9a-f]{64}$/;

export interface IssuedKey {
  readonly id: KeyId;
  /** The whole of it, for its owner alone. */
  readonly key: string;
  /** What is kept. */
  readonly hash: string;
}

export async function issueKey(): Promise<IssuedKey> {
  const id = keyIdSchema.parse(hexadecimal(crypto.getRandomValues(new Uint8Array(8))));
  const key = `ddpnopt_${id}_${hexadecimal(crypto.getRandomValues(new Uint8Array(32)))}`;
  return { id, key, hash: await hashOf(key) };
}

/** The public part of a key; null for a text that cannot be one. */
export function idOf(key: string): KeyId | null {
  const [, id] = FORM.exec(key) ?? [];
  return id === undefined ? null : keyIdSchema.parse(id);
}

/** SHA-256, in hexadecimal. */
export async function hashOf(key: string): Promise<string> {
  return hexadecimal(new Uint8Array(await crypto.subtle.digest('SHA-256', new TextEncoder().encode(key))));
}

/** Compares two hashes in a time that does not depend on where they differ. */
export function areEqual(a: string, b: string): boolean {
  let difference = a.length ^ b.length;
  for (let i = 0; i < a.length; i++) difference |= a.charCodeAt(i) ^ b.charCodeAt(i);
  return difference === 0;
}

function hexadecimal(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}
