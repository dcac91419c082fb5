/** What the edge reaches on Cloudflare. */
import type { Platform } from './environment.ts';
import { originsOf } from './middleware/cross-origin.ts';
import { singleWorker } from './placement/placement.ts';

export function cloudflarePlatform(env: Env): Platform {
  return {
    placement: singleWorker(env.WORKER_URL),
    allowedOrigins: originsOf(env.ALLOWED_ORIGINS),
    // The host is not looked at.
    asset: (path) => env.ASSETS.fetch(new URL(path, 'https://assets.invalid')),
    pipe: (length) => new FixedLengthStream(length),
  };
}
