/** The Cloudflare Worker. */
import { env } from 'cloudflare:workers';
import { createApp } from './app.ts';
import { cloudflarePlatform } from './cloudflare.ts';

export default createApp(cloudflarePlatform(env));
