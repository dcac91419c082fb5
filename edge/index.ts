/** The Cloudflare Worker, and its Durable Object. */
import { env } from 'cloudflare:workers';
import { createApp } from './app.ts';
import { cloudflarePlatform } from './cloudflare.ts';

export { AccessObject } from './access/access-object.ts';
export { PlacementObject } from './placement/placement-object.ts';

export default createApp(cloudflarePlatform(env));
