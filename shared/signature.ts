/** Signatures with a secret that all parts of the service share: HMAC-SHA-256, RFC 2104. */

export interface Signer {
  /** @returns the signature in hexadecimal */
  readonly sign: (text: string) => Promise<string>;
  /** Whether the signature is this text's, in time that does not depend on either. */
  readonly verify: (text: string, signature: string) => Promise<boolean>;
}

const ALGORITHM = { name: 'HMAC', hash: 'SHA-256' };
const SIGNATURE = /^[0-9a-f]{64}$/;

export function createSigner(secret: string): Signer {
  const utf8 = new TextEncoder();
  // What a request of Cloudflare's has begun no other may wait for: only the finished key is kept.
  let key: Awaited<ReturnType<typeof importKey>> | undefined;
  const importKey = () => crypto.subtle.importKey('raw', utf8.encode(secret), ALGORITHM, false, ['sign', 'verify']);
  return {
    sign: async (text) => {
      key ??= await importKey();
      return hexadecimal(await crypto.subtle.sign('HMAC', key, utf8.encode(text)));
    },
    verify: async (text, signature) => {
      if (!SIGNATURE.test(signature)) return false;
      key ??= await importKey();
      const bytes = Uint8Array.from({ length: 32 }, (_, i) => Number.parseInt(signature.slice(2 * i, 2 * i + 2), 16));
      return crypto.subtle.verify('HMAC', key, bytes, utf8.encode(text));
    },
  };
}

/** SHA-256 of a text in UTF-8, in hexadecimal. */
export async function digestOf(text: string): Promise<string> {
  return hexadecimal(await crypto.subtle.digest('SHA-256', new TextEncoder().encode(text)));
}

function hexadecimal(buffer: ArrayBuffer): string {
  return Array.from(new Uint8Array(buffer), (byte) => byte.toString(16).padStart(2, '0')).join('');
}
