/** SHA-256 in hexadecimal. */
import { createHash } from 'node:crypto';

export function digestOf(content: string | Uint8Array): string {
  return createHash('sha256').update(content).digest('hex');
}
